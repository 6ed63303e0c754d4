# SPDX-License-Identifier: Apache-2.0
"""The bottom-up half, over families of backbones that differ in what their feature maps look like."""

import functools

import pytest
import torch

from butd_hf.modeling.bottom_up.bottom_up import SELECTORS, ButdBottomUp
from butd_hf.modeling.bottom_up.rpn import ButdRpnSelector
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig
from butd_hf.modeling.regions import ButdRegions


# plain, residual, mobile, modern convolution; windowed attention with channels last; plain attention; searched designs
BACKBONES = [
    "vgg11",
    "test_resnet",
    "test_efficientnet",
    "test_convnext",
    "swin_tiny_patch4_window7_224",
    "test_vit",
    "regnetx_002",
    "mobilenetv3_small_050",
]
SIZES = [(64, 64), (64, 48), (48, 64), (64, 64)]  # height, width; two alike, so that images share a group


@functools.cache
def built(backbone: str, out_indices: tuple[int, ...] = (-2,)) -> ButdBottomUp:
    torch.manual_seed(0)
    config = ButdBottomUpConfig(
        backbone=backbone, out_indices=out_indices, num_regions=8, min_regions=4, fpn_size=16, selector="saliency"
    )
    return ButdBottomUp(config).eval()


def bottom_up(backbone: str, selector: str = "saliency", out_indices: tuple[int, ...] = (-2,)) -> ButdBottomUp:
    """A backbone that is built once for all tests, with a selector of its own."""
    model = built(backbone, out_indices)
    torch.manual_seed(0)
    if selector == "rpn":
        model.selector = ButdRpnSelector(model.config, model.backbone.channels).eval()
        model.region_size = model.selector.region_head.region_size
    else:
        model.selector = SELECTORS[selector](model.config)
        model.region_size = sum(model.backbone.channels)
    return model


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def padded(pictures: list[torch.Tensor], padding: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """One batch of pictures of any size, and its pixel mask."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (2, 3))
    pixel_values = torch.full((len(pictures), 3, height, width), padding)
    pixel_mask = torch.zeros(len(pictures), height, width, dtype=torch.long)
    for row, single in enumerate(pictures):
        pixel_values[row, :, : single.shape[2], : single.shape[3]] = single[0]
        pixel_mask[row, : single.shape[2], : single.shape[3]] = 1
    return pixel_values, pixel_mask


def assert_row_equals(batch: ButdRegions, row: int, single: ButdRegions) -> None:
    count = single.mask.shape[1]
    assert not batch.mask[row, count:].any()
    assert torch.equal(batch.mask[row, :count], single.mask[0])
    for name in ("features", "boxes", "saliency"):
        torch.testing.assert_close(batch[name][row, :count], single[name][0], atol=1e-5, rtol=1e-5)
        assert not batch[name][row, count:].any()


@pytest.mark.parametrize("selector", list(SELECTORS))
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_batch_equals_single(backbone, selector):
    model = bottom_up(backbone, selector)
    pictures = [picture(*size, seed) for seed, size in enumerate(SIZES)]
    pixel_values, pixel_mask = padded(pictures, padding=7.0)
    batch = model(pixel_values, pixel_mask)
    for row, single in enumerate(pictures):
        assert_row_equals(batch, row, model(single))
    again = model(pixel_values, pixel_mask)
    assert all(torch.equal(again[name], batch[name]) for name in batch)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_regions_are_what_they_promise(backbone):
    model = bottom_up(backbone)
    regions = model(picture(64, 48))
    count = int(regions.mask.sum())
    assert regions.features.shape == (1, regions.mask.shape[1], model.region_size)
    assert model.config.min_regions <= count <= model.config.num_regions
    assert (regions.saliency[0, :count].diff() <= 0).all()
    assert ((regions.boxes >= 0) & (regions.boxes <= 1)).all()
    assert (regions.boxes[0, :count, :2] < regions.boxes[0, :count, 2:]).all()
    assert [0.0, 0.0, 1.0, 1.0] in regions.boxes[0].tolist()  # keep_whole_image


@pytest.mark.parametrize("selector", list(SELECTORS))
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_a_picture_of_nothing_has_regions(backbone, selector):
    model = bottom_up(backbone, selector)
    regions = model(torch.full((1, 3, 64, 64), 0.5))
    assert regions.mask.sum() >= model.config.min_regions
    assert all(torch.isfinite(regions[name]).all() for name in regions)


@pytest.mark.parametrize("selector", list(SELECTORS))
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradient_reaches_the_backbone(backbone, selector):
    model = bottom_up(backbone, selector)
    weight = next(parameter for parameter in model.backbone.parameters() if parameter.dim() > 1)  # the first layer's
    features = model(picture(64, 64)).features
    (gradient,) = torch.autograd.grad(features.square().sum(), weight)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_given_boxes_are_pooled(backbone):
    model = bottom_up(backbone)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0], [0.1, 0.2, 0.3, 0.4]]]).expand(2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    pictures = [picture(64, 48, seed=1), picture(64, 64, seed=2)]
    regions = model(*padded(pictures), region_boxes=boxes, region_mask=mask)
    assert torch.equal(regions.boxes[0], boxes[0])
    assert torch.equal(regions.mask, mask)
    assert not regions.features[1, 2].any()
    for row, single in enumerate(pictures):
        assert_row_equals(regions, row, model(single, region_boxes=boxes[row, None], region_mask=mask[row, None]))
    # the whole picture's feature is the mean of the map, which has an even number of cells on each side
    if model.feature_map(pictures[1]).shape[-1] % 2 == 0:
        mean = model.feature_map(pictures[1]).mean(dim=(2, 3))
        torch.testing.assert_close(regions.features[1, 0], mean[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("selector", ["grid", "saliency"])
@torch.no_grad()
def test_a_map_of_one_cell(selector):
    model = bottom_up("test_efficientnet", selector, out_indices=(-1,))
    regions = model(picture(32, 32))
    assert regions.mask.all()
    assert regions.boxes.unique(dim=1).tolist() == [[[0.0, 0.0, 1.0, 1.0]]]
    feature = model.feature_map(picture(32, 32)).flatten(1)
    torch.testing.assert_close(regions.features[:, 0], feature)


@torch.no_grad()
def test_windows_that_mirror_one_another_rank_the_same_in_any_batch():
    model = bottom_up(
        "test_efficientnet", "saliency", out_indices=(-1,)
    )  # two by two cells: each half's ring is the other
    pictures = [picture(64, 64, seed) for seed in range(16)]
    batch = model(torch.cat(pictures))
    for row, single in enumerate(pictures):
        assert_row_equals(batch, row, model(single))


@torch.no_grad()
def test_several_maps_are_averaged_to_the_coarsest_and_joined():
    model = bottom_up("test_resnet", "grid", out_indices=(-2, -1))
    finer, coarser = model.backbone(picture(64, 64)).feature_maps
    assert model.region_size == finer.shape[1] + coarser.shape[1]
    feature_map = model.feature_map(picture(64, 64))
    assert torch.equal(feature_map[:, finer.shape[1] :], coarser)
    quarters = finer.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(feature_map[:, : finer.shape[1]], quarters)


@torch.no_grad()
def test_the_grid_keeps_every_cell():
    model = bottom_up("test_resnet", "grid")
    feature_map = model.feature_map(picture(64, 48))
    regions = model(picture(64, 48))
    height, width = feature_map.shape[2:]
    assert regions.mask.shape == (1, height * width)
    for box, feature in zip(regions.boxes[0], regions.features[0], strict=True):
        left, top = (box[:2] * torch.tensor([width, height])).round().long().tolist()
        assert torch.equal(feature, feature_map[0, :, top, left])
    assert len(regions.boxes[0].unique(dim=0)) == height * width


def test_unknown_backbone_is_named():
    with pytest.raises(RuntimeError, match="no_such_net"):
        ButdBottomUp(ButdBottomUpConfig(backbone="no_such_net"))


@pytest.mark.parametrize(("frozen", "batch_norms"), [(True, False), (False, True)])
def test_batch_norm_is_frozen_on_request(frozen, batch_norms):
    model = ButdBottomUp(ButdBottomUpConfig(backbone="test_resnet", freeze_batch_norm=frozen))
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()) == batch_norms
