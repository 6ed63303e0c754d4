# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from butd_hf.modeling.bottom_up.feature_pyramid import ButdPyramid, pool_by_products, pool_pyramid


@pytest.fixture
def pyramid():
    """Three levels of two images, the second of which is smaller than the maps."""
    generator = torch.Generator().manual_seed(0)
    sides = ((32, 40), (16, 20), (8, 10))
    maps = [torch.randn(2, 6, *side, generator=generator) for side in sides]
    sizes = torch.tensor([[*sides, sides[-1]], [(24, 28), (12, 14), (6, 7), (6, 7)]])
    for feature_map, (rows, columns) in zip(maps, sizes[1].tolist(), strict=False):
        feature_map[1, :, :, columns:] = feature_map[1, :, :, columns - 1 : columns]  # as `join_pyramids` fills it
        feature_map[1, :, rows:] = feature_map[1, :, rows - 1 : rows]
    maps = tuple(feature_map.requires_grad_() for feature_map in maps)
    return ButdPyramid(maps=maps, deepest=maps[-1], sizes=sizes)


@pytest.fixture
def boxes():
    """Small and large ones, some that touch or leave the border, one without area, one that is the whole image."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 40, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    corners[:, :10] *= 0.2
    corners[0, 10] = torch.tensor([-0.2, 0.3, 0.4, 1.3])
    corners[0, 11] = torch.tensor([0.5, 0.5, 0.5, 0.5])
    corners[1, 12] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return corners


def test_products_pool_what_roi_align_does(pyramid, boxes):
    weights = torch.randn(80, 6, 7, 7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = pool_pyramid(pyramid, boxes, 7)
    inside = (boxes.flatten(0, 1).clamp(0, 1) == boxes.flatten(0, 1)).all(dim=1)
    by_products = pool_by_products(pyramid, boxes, 7)
    assert by_products.shape == expected.shape == (80, 6, 7, 7)
    # what lies beyond the image is RoIAlign's zeros there, and its edge here; models clip their boxes
    assert torch.allclose(by_products[inside], expected[inside], atol=1e-4)

    (by_products * weights)[inside].sum().backward()
    gradients = [feature_map.grad.clone() for feature_map in pyramid.maps]
    for feature_map in pyramid.maps:
        feature_map.grad = None
    rows = torch.arange(2.0)[:, None, None].expand(2, 40, 1)
    by_kernel = pool_pyramid(pyramid, torch.cat([rows, boxes], dim=-1).flatten(0, 1), 7)
    (by_kernel * weights)[inside].sum().backward()
    # the smaller image repeats its last row and column where RoIAlign reads on: compare the image that fills the map
    for found, feature_map in zip(gradients, pyramid.maps, strict=True):
        assert torch.allclose(found[0], feature_map.grad[0], atol=1e-4)


def test_training_on_a_cpu_takes_the_products(pyramid, boxes, monkeypatch):
    called = []
    products = pool_pyramid.__globals__["pool_by_products"]
    monkeypatch.setitem(pool_pyramid.__globals__, "pool_by_products", lambda *a: called.append(1) or products(*a))
    pool_pyramid(pyramid, boxes, 7)
    with torch.no_grad():
        pool_pyramid(pyramid, boxes, 7)
    assert called == [1]


@pytest.mark.parametrize("learns", [True, False])
def test_a_box_that_is_no_number_costs_no_row(pyramid, boxes, learns):
    boxes[0, 0] = float("nan")
    with torch.set_grad_enabled(learns):
        pooled = pool_pyramid(pyramid, boxes, 7)
    assert pooled.shape == (80, 6, 7, 7) and pooled.isfinite().all()
