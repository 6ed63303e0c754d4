# SPDX-License-Identifier: Apache-2.0
"""The bottom-up half, over families of backbones whose feature maps differ, and over every selector."""

import functools

import pytest
import torch

import butd_hf
from butd_hf.modeling.bottom_up import bottom_up as rooms
from butd_hf.modeling.bottom_up.backbone import feature_maps
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig
from butd_hf.modeling.regions import ButdRegions, describe_boxes


# residual, mobile, modern convolution; windowed attention with channels last; plain attention
BACKBONES = ["test_resnet", "test_efficientnet", "test_convnext", "swin_tiny_patch4_window7_224", "test_vit"]
SELECTORS = ["grid", "saliency", "rpn"]
EVERY = pytest.mark.parametrize(
    ("backbone", "selector"),
    [(backbone, "saliency") for backbone in BACKBONES] + [("test_resnet", "grid"), ("test_efficientnet", "rpn")],
)
SIZES = [(64, 64), (64, 48), (48, 64), (64, 64)]  # height, width; two alike, so that images share a group


@functools.cache
def built(backbone: str, selector: str = "saliency", out_indices: tuple[int, ...] | None = (-2,)) -> ButdBottomUp:
    torch.manual_seed(0)
    settings = {"num_regions": 8, "min_regions": 4, "fpn_size": 16}
    settings["out_indices"] = None if selector == "rpn" else out_indices
    return ButdBottomUp(ButdBottomUpConfig(backbone=backbone, selector=selector, **settings)).eval()


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def assert_row_equals(batch: ButdRegions, row: int, single: ButdRegions) -> None:
    count = single.mask.shape[1]
    assert not batch.mask[row, count:].any()
    for name in single:
        torch.testing.assert_close(batch[name][row, :count], single[name][0], atol=1e-5, rtol=1e-5)
        assert not batch[name][row, count:].any()


@EVERY
@torch.no_grad()
def test_batch_equals_single(backbone, selector):
    model = built(backbone, selector)
    singles = [images(*size, seed) for seed, size in enumerate(SIZES)]
    pixel_values, pixel_mask = torch.full((4, 3, 64, 64), 7.0), torch.zeros(4, 64, 64, dtype=torch.long)
    for row, (height, width) in enumerate(SIZES):
        pixel_values[row, :, :height, :width], pixel_mask[row, :height, :width] = singles[row][0], 1
    batch = model(pixel_values, pixel_mask).regions
    for row, single in enumerate(singles):
        assert_row_equals(batch, row, model(single).regions)


@EVERY
def test_regions_are_what_they_promise(backbone, selector):
    model = built(backbone, selector)
    regions = model(images(64, 48)).regions
    count = int(regions.mask.sum())
    assert regions.features.shape == (1, regions.mask.shape[1], model.region_size)
    assert count >= model.config.min_regions and regions.mask[0, :count].all()
    assert selector == "grid" or count <= model.config.num_regions
    assert (regions.saliency[0, :count].diff() <= 0).all()
    assert ((regions.boxes >= 0) & (regions.boxes <= 1)).all()
    assert (regions.boxes[0, :count, :2] < regions.boxes[0, :count, 2:]).all()
    if selector == "saliency":
        assert [0.0, 0.0, 1.0, 1.0] in regions.boxes[0].tolist()  # the whole image, for words of the scene
    weight = next(parameter for parameter in model.backbone.parameters() if parameter.dim() > 1)  # the first layer's
    (gradient,) = torch.autograd.grad(regions.features.square().sum(), weight)
    assert torch.isfinite(gradient).all() and gradient.any()
    with torch.no_grad():
        nothing = model(torch.full((1, 3, 64, 64), 0.5)).regions
    assert nothing.mask.sum() >= model.config.min_regions
    assert all(torch.isfinite(nothing[name]).all() for name in nothing)


@pytest.mark.parametrize("selector", SELECTORS)
@torch.no_grad()
def test_given_boxes_are_pooled(selector):
    model = built("test_efficientnet", selector)
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0], [0.1, 0.2, 0.3, 0.4]]]).expand(2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    pixel_values = torch.cat([images(64, 64, seed) for seed in range(2)])
    regions = model(pixel_values, region_boxes=boxes, region_mask=mask).regions
    assert torch.equal(regions.boxes, boxes * mask[..., None]) and torch.equal(regions.mask, mask)
    assert not regions.features[1, 2].any() and regions.saliency.tolist() == mask.float().tolist()
    for row in range(2):
        single = model(pixel_values[row, None], region_boxes=boxes[row, None], region_mask=mask[row, None]).regions
        assert_row_equals(regions, row, single)
    # the whole image's feature is the mean of the last map, which has an even number of cells on each side
    mean = model.backbone(pixel_values).feature_maps[-1].mean(dim=(2, 3))
    torch.testing.assert_close(regions.features[:, 0, : mean.shape[1]], mean, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_windows_that_stand_out_come_first():
    """On a map that is flat but for one corner, the best window lies on that corner; the whole image has its score."""
    model = built("test_efficientnet")
    maps = feature_maps(model.backbone, images(64, 64))
    feature_map = torch.zeros(1, model.region_size, 6, 6)
    feature_map[:, :, 4:, :2] = 1.0
    maps.maps = (feature_map,)
    regions = model.selector(maps)
    assert regions.boxes[0, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert regions.saliency[0, 0] == regions.saliency[0, 1]
    torch.testing.assert_close(regions.boxes[0, 1], torch.tensor([0.0, 4 / 6, 2 / 6, 1.0]))
    torch.testing.assert_close(regions.features[0, 1], torch.ones(model.region_size))
    share = 4 / 36  # of the map; a mean of few cells counts less, by the fourth root of it
    score = torch.tensor((share * (1 - share)) ** -0.5 * share**0.25)
    torch.testing.assert_close(regions.saliency[0, 1], score, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_windows_that_mirror_one_another_rank_the_same_in_any_batch():
    model = built("test_efficientnet", out_indices=(-1,))  # two by two cells: each half's ring is the other
    batch = model(torch.cat([images(64, 64, seed) for seed in range(16)])).regions
    for seed in range(16):
        assert_row_equals(batch, seed, model(images(64, 64, seed)).regions)


@torch.no_grad()
def test_several_maps_are_averaged_to_the_coarsest_and_joined():
    model = built("test_resnet", "grid", out_indices=(-2, -1))
    maps = feature_maps(model.backbone, images(64, 64))
    finer, coarser = maps.maps
    assert model.region_size == finer.shape[1] + coarser.shape[1]
    joined = maps.concatenated()
    assert torch.equal(joined[:, finer.shape[1] :], coarser)
    quarters = finer.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(joined[:, : finer.shape[1]], quarters)


@torch.no_grad()
def test_the_grid_keeps_every_cell_those_unlike_the_mean_first():
    model = built("test_resnet", "grid")
    (feature_map,) = model.backbone(images(64, 48)).feature_maps
    regions = model(images(64, 48)).regions
    height, width = feature_map.shape[2:]
    assert len(regions.boxes[0].unique(dim=0)) == height * width == regions.mask.sum()
    mean = feature_map[0].mean(dim=(1, 2))
    for box, feature, saliency in zip(regions.boxes[0], regions.features[0], regions.saliency[0], strict=True):
        left, top, right, bottom = (box * torch.tensor([width, height] * 2)).round().long().tolist()
        assert (right, bottom) == (left + 1, top + 1) and torch.equal(feature, feature_map[0, :, top, left])
        torch.testing.assert_close(saliency, (feature - mean).norm())


def test_unknown_names_are_refused():
    with pytest.raises(RuntimeError, match="no_such_net"):
        ButdBottomUp(ButdBottomUpConfig(backbone="no_such_net"))
    with pytest.raises(ValueError, match=r"selector must be one of grid, saliency, rpn, .*, got 'magic'"):
        ButdBottomUp(ButdBottomUpConfig(selector="magic"))


class Quarters(torch.nn.Module):
    """A selector of somebody else's: the four quarters of the image, the darkest last."""

    def __init__(self, config, channels):
        super().__init__()
        self.region_size = sum(channels)

    def forward(self, feature_maps, boxes=None):
        feature_map = feature_maps.concatenated()
        if boxes is None:
            boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.0, 0.5, 0.5, 1.0], [0.5, 0.5, 1, 1]])
            boxes = boxes.expand(len(feature_map), 4, 4)
        return describe_boxes(feature_map, boxes)


def test_a_new_selector_is_one_class_and_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(rooms.SELECTORS, "quarters", Quarters)
    config = butd_hf.ButdConfig(
        bottom_up_config={"backbone": "test_efficientnet", "selector": "quarters"},
        top_down_config={"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    )
    model = butd_hf.ButdForConditionalGeneration(config)
    pixel_values = torch.cat([images(64, 64, seed) for seed in range(2)])
    outputs = model(pixel_values=pixel_values, labels=torch.randint(3, 20, (2, 4)), output_attentions=True)
    outputs.loss.backward()
    assert outputs.regions.boxes[1, 3].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert outputs.region_attentions.shape == (2, 4, 4)
    assert model.eval().generate(pixel_values=pixel_values, max_new_tokens=3).shape[0] == 2
    boxes = torch.rand(2, 1, 4).sort(dim=-1).values
    assert torch.equal(model(pixel_values=pixel_values, region_boxes=boxes).regions.boxes, boxes)
    model.save_pretrained(tmp_path)
    base = butd_hf.ButdModel.from_pretrained(tmp_path).eval()
    assert type(base.bottom_up.selector) is Quarters
    with torch.no_grad():
        torch.testing.assert_close(base.encode_image(pixel_values).regions.features, outputs.regions.features)
