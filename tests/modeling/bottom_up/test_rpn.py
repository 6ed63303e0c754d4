# SPDX-License-Identifier: Apache-2.0
"""The learned selector: its pyramid, its proposals, how cells are assigned, and captions on top of it."""

import pytest
import torch

from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.bottom_up.feature_pyramid import ButdPyramid, join_pyramids, pool_pyramid
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig, ButdConfig
from butd_hf.modeling.losses.proposals import assign_cells
from butd_hf.modeling.losses.targets import noised_targets, prepare_targets
from butd_hf.modeling.modeling_butd import ButdForConditionalGeneration


TINY = {"backbone": "test_efficientnet", "num_regions": 8, "min_regions": 3, "fpn_size": 16, "region_head_size": 8}


def build(**changes) -> ButdBottomUp:
    torch.manual_seed(0)
    return ButdBottomUp(ButdBottomUpConfig(**{**TINY, **changes})).eval()


def target_of(boxes: list[list[float]], crowd: list[int] | None = None):
    labels = {"class_labels": torch.zeros(len(boxes), dtype=torch.long), "boxes": torch.tensor(boxes).reshape(-1, 4)}
    if crowd is not None:
        labels["iscrowd"] = torch.tensor(crowd)
    return prepare_targets([labels])[0]


def test_it_is_the_default_and_uses_several_maps():
    config = ButdBottomUpConfig()
    assert config.selector == "rpn"
    assert config.out_indices == [-3, -2, -1]
    assert ButdBottomUpConfig(selector="grid").out_indices == [-1]
    assert ButdBottomUpConfig.from_dict(config.to_dict()).out_indices == config.out_indices


@torch.no_grad()
def test_whole_image_cells_come_last_and_are_counted_beyond_the_regions():
    pixel_values = torch.randn(2, 3, 64, 96)
    pixel_mask = torch.zeros(2, 64, 96, dtype=torch.long)
    pixel_mask[0], pixel_mask[1, :8, :8] = 1, 1  # the second has three cells, one per level
    model = build(image_grid_size=2)
    regions = model(pixel_values, pixel_mask)
    counts = regions.mask.sum(dim=1).tolist()
    assert counts[0] <= 12 and counts[1] <= 7
    quarters = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]]
    for row, count in enumerate(counts):
        assert regions.mask[row, :count].all()
        assert regions.boxes[row, count - 4 : count].tolist() == quarters
        assert not regions.saliency[row, count - 4 :].any()
        assert (regions.saliency[row, : count - 4] > 0).all()
    alone = model(pixel_values[1:, :, :8, :8])
    torch.testing.assert_close(alone.features[0], regions.features[1, : alone.mask.shape[1]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_configured_heads_say_more():
    heads = {"num_region_labels": 6, "num_region_attributes": 5, "region_mask_size": 10}
    regions = build(**heads)(torch.randn(2, 3, 64, 64))
    assert regions.class_logits.shape == (2, 8, 6)
    assert regions.attribute_logits.shape == (2, 8, 5)
    assert regions.region_masks.shape == (2, 8, 10, 10)
    assert ((regions.region_masks >= 0) & (regions.region_masks <= 1)).all()
    assert build()(torch.randn(2, 3, 64, 64)).class_logits is None


def test_pooling_a_slope_gives_its_value_at_every_size():
    """On maps whose value is the place itself, a pooled box is its own middle, whichever level it comes from."""
    maps = []
    for cells in (64, 32, 16):
        centres = (torch.arange(cells) + 0.5) / cells
        maps.append(torch.stack([centres.expand(cells, cells), centres[:, None].expand(cells, cells)])[None])
    sizes = torch.tensor([[[64, 64], [32, 32], [16, 16], [16, 16]]])
    pyramid = ButdPyramid(maps=tuple(maps), deepest=maps[-1], sizes=sizes)
    low = 0.1 + 0.3 * torch.rand(1, 40, 2)
    boxes = torch.cat([low, low + 0.02 + 0.45 * torch.rand(1, 40, 2)], dim=-1)
    pooled = pool_pyramid(pyramid, boxes, 7).mean(dim=(2, 3))
    torch.testing.assert_close(pooled, (boxes[0, :, :2] + boxes[0, :, 2:]) / 2, atol=1e-5, rtol=1e-5)


def test_joined_pyramids_pool_as_single_ones():
    groups = []
    for height, width in ((6, 4), (3, 7)):
        maps = tuple(torch.randn(1, 3, height * scale, width * scale) for scale in (4, 2))
        sizes = torch.tensor([[list(level.shape[-2:]) for level in (*maps, maps[-1])]])
        groups.append(ButdPyramid(maps=maps, deepest=maps[-1], sizes=sizes))
    joined = join_pyramids(groups, torch.tensor([1, 0]))
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.8, 0.7, 1.0, 1.0], [0.99, 0.99, 1.0, 1.0]]])
    pooled = pool_pyramid(joined, boxes.expand(2, -1, -1), 7).unflatten(0, (2, 3))
    for row, group in enumerate(reversed(groups)):
        torch.testing.assert_close(pooled[row], pool_pyramid(group, boxes, 7), atol=1e-5, rtol=1e-5)


def test_cells_are_assigned_to_the_object_that_they_fit():
    points = torch.tensor([[0.25, 0.25], [0.3, 0.3], [0.75, 0.75], [0.95, 0.05]])
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.0, 0.0, 0.9, 0.9], [0.6, 0.6, 0.9, 0.9], [0.9, 0.0, 1.0, 0.1]])
    target = target_of([[0.25, 0.25, 0.3, 0.3], [0.75, 0.75, 0.3, 0.3]])
    owner, wanted, counts = assign_cells(points, boxes, torch.full((4,), 0.5), target)
    assert owner.tolist()[0] == 0 and owner.tolist()[2:] == [1, -1]
    torch.testing.assert_close(wanted[[0, 2]], torch.ones(2))  # the best cell learns its fit, which is perfect
    assert wanted[1] < 0.01 and wanted[3] == 0
    assert counts.all()


def test_a_speck_takes_the_nearest_cell_and_a_crowd_excuses():
    points = torch.tensor([[0.25, 0.25], [0.75, 0.75]])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    speck = target_of([[0.6, 0.7, 0.01, 0.01]])
    assert assign_cells(points, boxes, torch.full((2,), 0.5), speck)[0].tolist() == [-1, 0]
    crowd = target_of([[0.25, 0.25, 0.5, 0.5]], crowd=[1])
    owner, wanted, counts = assign_cells(points, boxes, torch.full((2,), 0.5), crowd)
    assert owner.tolist() == [-1, -1] and not wanted.any()
    assert counts.tolist() == [False, True]


def test_noised_boxes_stay_near_and_inside():
    target = target_of([[0.5, 0.5, 0.4, 0.2], [0.95, 0.1, 0.3, 0.3]])
    boxes, mask = noised_targets([target, target_of([])], copies=50, noise=0.4)
    assert mask.sum(dim=1).tolist() == [100, 0]
    assert ((boxes[0] >= 0) & (boxes[0] <= 1)).all()
    centre = (boxes[0, ::2, :2] + boxes[0, ::2, 2:]) / 2
    size = boxes[0, ::2, 2:] - boxes[0, ::2, :2]
    assert ((centre - 0.5).abs() <= torch.tensor([0.08, 0.04]) + 1e-6).all()
    assert ((size / torch.tensor([0.4, 0.2]) - 1).abs() <= 0.4 + 1e-5).all()
    assert centre.std(dim=0).min() > 0.01


@pytest.mark.parametrize("grid", [0, 2])
def test_captions_stand_on_learned_regions(grid):
    torch.manual_seed(0)
    config = ButdConfig(
        bottom_up_config={**TINY, "image_grid_size": grid},
        top_down_config={
            "vocab_size": 20,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
    )
    model = ButdForConditionalGeneration(config).train()
    pixel_values, labels = torch.randn(2, 3, 64, 64), torch.randint(3, 20, (2, 5))
    outputs = model(pixel_values=pixel_values, labels=labels)
    outputs.loss.backward()
    assert outputs.regions.mask.shape[1] == 8 + grid**2
    first = next(parameter for parameter in model.model.bottom_up.backbone.parameters() if parameter.dim() > 1)
    assert first.grad.abs().sum() > 0
    assert model.eval().generate(pixel_values=pixel_values, max_new_tokens=3).shape[0] == 2
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.9]]]).expand(2, 1, 4)
    given = model(pixel_values=pixel_values, region_boxes=boxes, labels=labels).regions
    assert torch.equal(given.boxes, boxes)
