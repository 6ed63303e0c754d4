# SPDX-License-Identifier: Apache-2.0
"""Regions: how they are ranked, pooled and joined."""

import pytest
import torch
from torchvision.ops import nms

from butd_hf.modeling.bottom_up.feature_pyramid import ButdPyramid, pool_pyramid
from butd_hf.modeling.regions import (
    ButdRegions,
    concatenate_regions,
    gather_regions,
    pool_regions,
    select_regions,
)


def random_candidates(seed: int, num_candidates: int, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that overlap much, and scores of which many tie when there are few `levels`."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_candidates, 2, 2, generator=generator).sort(dim=1).values  # (num_candidates, 2, xy)
    scores = torch.randint(levels, (num_candidates,), generator=generator) / levels
    return corners.flatten(1), scores


def selected_by_torchvision(
    boxes: torch.Tensor, scores: torch.Tensor, num_regions: int, min_regions: int, threshold: float, overlap: float
) -> list[int]:
    """What `select_regions` promises, said with torchvision: threshold, suppression, cut, then fill up by score."""
    ranking = scores.argsort(descending=True, stable=True)
    above = [index for index in ranking.tolist() if scores[index] >= threshold]
    kept = [above[index] for index in nms(boxes[above], scores[above], overlap).tolist()] if above else []
    kept = kept[:num_regions]
    others = [index for index in ranking.tolist() if index not in kept]
    kept += others[: max(0, min(min_regions, num_regions, len(scores)) - len(kept))]
    return sorted(kept, key=ranking.tolist().index)


@pytest.mark.parametrize("levels", [4, 1000], ids=["ties", "distinct"])
@pytest.mark.parametrize("overlap", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(
    ("num_candidates", "num_regions", "min_regions"),
    [(40, 10, 1), (40, 10, 8), (40, 36, 20), (6, 36, 10), (1, 5, 3), (12, 4, 9)],
)
def test_selects_as_torchvision(levels, overlap, threshold, num_candidates, num_regions, min_regions):
    candidates = [random_candidates(seed, num_candidates, levels) for seed in range(4)]
    boxes, scores = (torch.stack(values) for values in zip(*candidates, strict=True))
    indices, mask = select_regions(
        boxes,
        scores,
        num_regions=num_regions,
        min_regions=min_regions,
        score_threshold=threshold,
        nms_threshold=overlap,
    )
    assert indices.shape == mask.shape == (4, min(num_regions, num_candidates))
    for row in range(4):
        expected = selected_by_torchvision(boxes[row], scores[row], num_regions, min_regions, threshold, overlap)
        assert indices[row][mask[row]].tolist() == expected
        assert mask[row].tolist() == sorted(mask[row].tolist(), reverse=True)  # those that count come first


def test_selection_does_not_depend_on_the_batch():
    candidates = [random_candidates(seed, 30, 5) for seed in range(6)]
    boxes, scores = (torch.stack(values) for values in zip(*candidates, strict=True))
    indices, mask = select_regions(boxes, scores, num_regions=8, min_regions=4)
    for row in range(6):
        alone = select_regions(boxes[row, None], scores[row, None], num_regions=8, min_regions=4)
        assert torch.equal(alone[0][0], indices[row])
        assert torch.equal(alone[1][0], mask[row])


@pytest.mark.parametrize("cells", [(0, 0, 2, 2), (1, 2, 5, 4), (0, 0, 8, 6), (4, 0, 8, 4)])
def test_pooling_a_box_of_whole_cells_is_their_mean(cells):
    feature_map = torch.randn(2, 5, 6, 8, generator=torch.Generator().manual_seed(0))
    left, top, right, bottom = cells
    boxes = torch.tensor([left / 8, top / 6, right / 8, bottom / 6]).expand(2, 1, 4)
    mean = feature_map[:, :, top:bottom, left:right].mean(dim=(2, 3))
    torch.testing.assert_close(pool_regions(feature_map, boxes)[:, 0], mean, atol=1e-5, rtol=1e-5)


def test_pooling_a_slope_gives_its_value_at_the_middle_of_the_box():
    across, down = torch.arange(8.0) + 0.5, torch.arange(6.0) + 0.5  # centres of cells
    feature_map = torch.stack([across.expand(6, 8), down[:, None].expand(6, 8)])[None]  # (1, 2, height, width)
    boxes = torch.rand(1, 20, 2, 2, generator=torch.Generator().manual_seed(1)).sort(dim=2).values.flatten(2)
    boxes = 0.1 + 0.8 * boxes  # away from the border, where the slope ends
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2 * torch.tensor([8.0, 6.0])
    torch.testing.assert_close(pool_regions(feature_map, boxes), middle, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf"), float("-inf")])
def test_pooling_a_box_that_is_none_stays_within_the_map(coordinate):
    feature_map = torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[0.1, 0.1, 0.9, 0.9], [0.1, coordinate, 0.9, coordinate]]])
    pyramid = ButdPyramid(maps=(feature_map,), deepest=feature_map, sizes=torch.tensor([[[6, 8], [6, 8]]]))
    for pooled in (pool_regions(feature_map, boxes)[0], pool_pyramid(pyramid, boxes, side=2)):
        assert pooled.isfinite().all() and pooled.abs().max() <= feature_map.abs().max()


def test_gathered_rows_are_zero_where_masked():
    values = torch.arange(12.0).view(1, 4, 3)
    rows = gather_regions(values, torch.tensor([[3, 1]]), torch.tensor([[True, False]]))
    assert rows.tolist() == [[[9.0, 10.0, 11.0], [0.0, 0.0, 0.0]]]


def test_groups_are_joined_in_order_and_padded():
    generator = torch.Generator().manual_seed(2)
    groups = [
        ButdRegions(
            features=torch.randn(size, regions, 3, generator=generator),
            boxes=torch.rand(size, regions, 4, generator=generator),
            saliency=torch.rand(size, regions, generator=generator),
            mask=torch.ones(size, regions, dtype=torch.bool),
        )
        for size, regions in ((2, 4), (1, 6))
    ]
    joined = concatenate_regions(groups, torch.tensor([2, 0, 1]))
    assert joined.features.shape == (3, 6, 3)
    assert joined.mask.sum(dim=1).tolist() == [6, 4, 4]
    for name in joined:
        assert torch.equal(joined[name][0], groups[1][name][0])
        assert torch.equal(joined[name][1:, :4], groups[0][name])
        assert not joined[name][1:, 4:].any()
