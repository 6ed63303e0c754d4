# SPDX-License-Identifier: Apache-2.0
"""Regions: how they are ranked, pooled and joined."""

import pytest
import torch

from butd_hf.modeling.configuration_butd import ButdBottomUpConfig, ButdTopDownConfig
from butd_hf.modeling.regions import (
    ButdBoxEmbedding,
    ButdRegions,
    concatenate_regions,
    pool_regions,
    select_regions,
)


def selected(boxes, scores, **settings) -> list[int]:
    indices, mask = select_regions(torch.tensor([boxes]), torch.tensor([scores]), ButdBottomUpConfig(**settings))
    assert indices.shape == mask.shape == (1, min(settings["num_regions"], len(scores)))
    assert mask[0].tolist() == sorted(mask[0].tolist(), reverse=True)  # those that count come first
    return indices[0][mask[0]].tolist()


# the second box overlaps the first by 0.8, the fourth is the third's right half
BOXES = [[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.4], [0.5, 0.5, 1.0, 1.0], [0.75, 0.5, 1.0, 1.0], [0.0, 0.9, 0.1, 1.0]]
SCORES = [0.7, 0.9, 0.4, 0.3, 0.2]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [1, 2, 3, 4]),  # the worse of two that overlap goes
        ({"nms_threshold": 0.49}, [1, 2, 4]),
        ({"nms_threshold": 0.9}, [1, 0, 2, 3, 4]),
        ({"num_regions": 2}, [1, 2]),
        ({"score_threshold": 0.3}, [1, 2, 3]),
        ({"score_threshold": 0.5, "min_regions": 3}, [1, 0, 2]),  # the best of all others fill up, in their place
        ({"score_threshold": 2.0, "min_regions": 9}, [1, 0, 2, 3, 4]),
        ({"score_threshold": 2.0, "min_regions": 9, "num_regions": 2}, [1, 0]),
    ],
)
def test_selected_regions(settings, expected):
    assert selected(BOXES, SCORES, **{"num_regions": 10, "min_regions": 1, **settings}) == expected


def test_equals_keep_their_order_and_images_their_own_regions():
    assert selected([BOXES[0], BOXES[2], BOXES[4]], [0.5, 0.5, 0.5], num_regions=2, min_regions=1) == [0, 1]
    boxes = torch.tensor([BOXES, BOXES[::-1]])
    config = ButdBottomUpConfig(num_regions=10, min_regions=1, score_threshold=0.5)
    indices, mask = select_regions(boxes, torch.tensor([SCORES, [0.9] * 5]), config)
    assert indices[0][mask[0]].tolist() == [1] and indices[1][mask[1]].tolist() == [0, 1, 2, 3]


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
    pooled = pool_regions(feature_map, torch.tensor([[[0.1, 0.1, 0.9, 0.9], [0.1, coordinate, 0.9, coordinate]]]))
    assert pooled.isfinite().all() and pooled.abs().max() <= feature_map.abs().max()


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


def test_geometry_of_a_box_is_its_corners_size_and_area():
    embedding = ButdBoxEmbedding(ButdTopDownConfig(hidden_size=16, num_attention_heads=2))
    seen = []
    embedding.measures_proj.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    embedding(torch.tensor([[[0.1, 0.2, 0.5, 0.4]]]))
    torch.testing.assert_close(seen[0][0, 0], torch.tensor([0.1, 0.2, 0.5, 0.4, 0.4, 0.2, 0.08]))
