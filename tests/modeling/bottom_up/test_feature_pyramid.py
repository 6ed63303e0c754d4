# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from butd_hf.modeling.bottom_up.feature_pyramid import (
    ButdPyramid,
    join_pyramids,
    pool_deepest,
    pool_pyramid,
)


@pytest.fixture
def pyramid():
    """Three levels of two images, the second of which is smaller than the maps."""
    generator = torch.Generator().manual_seed(0)
    groups = []
    for height, width in ((8, 10), (6, 7)):
        maps = tuple(torch.randn(1, 6, height * scale, width * scale, generator=generator) for scale in (4, 2, 1))
        sizes = torch.tensor([[list(level.shape[-2:]) for level in (*maps, maps[-1])]])
        groups.append(ButdPyramid(maps=maps, deepest=maps[-1], sizes=sizes))
    joined = join_pyramids(groups, torch.tensor([0, 1]))
    joined.maps = tuple(feature_map.requires_grad_() for feature_map in joined.maps)
    return joined


@pytest.fixture
def boxes():
    """Small and large ones, some that touch the border, one without area, one that is the whole image."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 40, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    corners[:, :10] *= 0.2
    corners[0, 10] = torch.tensor([0.0, 0.3, 0.4, 1.0])
    corners[0, 11] = torch.tensor([0.5, 0.5, 0.5, 0.5])
    corners[1, 12] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return corners


def test_large_boxes_are_pooled_from_coarse_maps(pyramid):
    pyramid = ButdPyramid(
        maps=tuple(torch.full_like(feature_map, level) for level, feature_map in enumerate(pyramid.maps)),
        deepest=pyramid.deepest,
        sizes=pyramid.sizes,
    )
    boxes = torch.tensor([[[0.1, 0.1, 0.2, 0.2], [0.0, 0.0, 0.6, 0.6], [0.0, 0.0, 1.0, 1.0]]]).expand(2, -1, -1)
    levels = pool_pyramid(pyramid, boxes, 7).mean(dim=(1, 2, 3)).view(2, 3)
    assert levels.tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]  # the second image is smaller


@pytest.mark.parametrize("learns", [True, False])
def test_a_box_that_is_no_number_costs_no_row(pyramid, boxes, learns):
    boxes[0, 0] = float("nan")
    boxes[0, 1, 1] = float("inf")
    with torch.set_grad_enabled(learns):
        pooled = pool_pyramid(pyramid, boxes, 7)
    assert pooled.shape == (80, 6, 7, 7) and pooled.isfinite().all()
    assert pooled.abs().max() <= max(feature_map.abs().max() for feature_map in pyramid.maps)


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
    middle = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    torch.testing.assert_close(pool_pyramid(pyramid, boxes, 7).mean(dim=(2, 3)), middle, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pool_deepest(pyramid, boxes)[0], middle, atol=1e-5, rtol=1e-5)
