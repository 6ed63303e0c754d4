# SPDX-License-Identifier: Apache-2.0
"""The published detector as a whole: proposals against a transcription, and what the seam promises."""

import math

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

import butd_hf.modeling.regions
from butd_hf.modeling.bottom_up import faster_rcnn, faster_rcnn_proposals
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.bottom_up.faster_rcnn import select_by_best_class, select_by_class
from butd_hf.modeling.bottom_up.faster_rcnn_proposals import ButdFasterRcnnProposals
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig


VARIANTS = ["caffe", "detectron2"]
SETTINGS = {
    "selector": "faster_rcnn_c4",
    "backbone": "resnet50",
    "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]},
    "num_regions": 8,
    "min_regions": 4,
    "score_threshold": 0.2,
    "nms_threshold": 0.3,
    "num_region_labels": 5,
    "num_region_attributes": 3,
}


@pytest.fixture(autouse=True)
def few_proposals(monkeypatch):
    """Of a narrow network: enough to select from, and quick."""
    monkeypatch.setattr(faster_rcnn_proposals, "NUM_PROPOSALS", 30)
    monkeypatch.setattr(faster_rcnn_proposals, "HIDDEN_SIZE", 8)


def bottom_up(variant: str, **kwargs) -> ButdBottomUp:
    torch.manual_seed(0)
    model = ButdBottomUp(ButdBottomUpConfig(**{**SETTINGS, "variant": variant, **kwargs})).eval()
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_var"):  # new ones do nothing, and the last of each block silences it
                module.running_var.uniform_(0.5, 1.5)
                module.running_mean.normal_(std=0.1)
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(std=0.1)
        for parameter in model.selector.parameters():  # proposals and classes that differ
            parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1)
        model.selector.head.classifier.weight.mul_(4)
    return model


def image_of(height: int, width: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.randn(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")


def slow_nms(boxes, scores, threshold, one):
    order, keep = list(np.argsort(-scores, kind="stable")), []
    while order:
        first = order.pop(0)
        keep.append(first)
        left = []
        for other in order:
            low, high = np.maximum(boxes[first, :2], boxes[other, :2]), np.minimum(boxes[first, 2:], boxes[other, 2:])
            shared = np.prod(np.maximum(high - low + one, 0))
            areas = [np.prod(boxes[index, 2:] - boxes[index, :2] + one) for index in (first, other)]
            if shared / (sum(areas) - shared) <= threshold:
                left.append(other)
        order = left
    return keep


def published_proposals(model, feature_map, height, width, scale):
    """Both proposal layers, anchor by anchor."""
    caffe = model.config.variant == "caffe"
    hidden = torch.relu(model.conv(feature_map))
    objectness, deltas = model.objectness(hidden)[0].double(), model.deltas(hidden)[0].double()
    boxes, scores = [], []
    for y in range(feature_map.shape[2]):
        for x in range(feature_map.shape[3]):
            for index, anchor in enumerate(model.cell_anchors.tolist()):
                if caffe:  # 12 backgrounds, then 12 foregrounds
                    background, foreground = objectness[index, y, x], objectness[12 + index, y, x]
                    score = foreground.exp() / (background.exp() + foreground.exp())
                else:
                    score = objectness[index, y, x]
                left, top, right, bottom = (side + 16 * (x, y)[axis % 2] for axis, side in enumerate(anchor))
                one = 1 if caffe else 0
                wide, high = right - left + one, bottom - top + one
                dx, dy, dw, dh = deltas[4 * index : 4 * index + 4, y, x].tolist()
                if not caffe:
                    dw, dh = min(dw, math.log(1000 / 16)), min(dh, math.log(1000 / 16))
                centre_x, centre_y = left + 0.5 * wide + dx * wide, top + 0.5 * high + dy * high
                wide, high = math.exp(dw) * wide, math.exp(dh) * high
                box = [centre_x - wide / 2, centre_y - high / 2, centre_x + wide / 2, centre_y + high / 2]
                limits = [width - one, height - one] * 2
                box = [min(max(side, 0), limit) for side, limit in zip(box, limits, strict=True)]
                boxes.append(box)
                scores.append(float(score))
    boxes, scores = np.array(boxes), np.array(scores)
    sides = boxes[:, 2:] - boxes[:, :2]
    best = np.argsort(-scores, kind="stable")
    if caffe:
        best = [index for index in best if (sides[index] + 1 >= 16 * scale).all()][
            : faster_rcnn_proposals.NUM_CANDIDATES
        ]
    else:
        best = [index for index in best[: faster_rcnn_proposals.NUM_CANDIDATES] if (sides[index] > 0).all()]
    boxes, scores = boxes[best], scores[best]
    keep = slow_nms(boxes, scores, 0.7, 1 if caffe else 0)[:30]
    return boxes[keep], scores[keep]


@pytest.mark.parametrize(
    ("variant", "scale", "candidates"),
    [("caffe", 1.0, 6000), ("caffe", 2.5, 40), ("detectron2", 1.0, 6000), ("detectron2", 1.0, 40)],
)
@torch.no_grad()
def test_proposals(variant, scale, candidates, monkeypatch):
    monkeypatch.setattr(faster_rcnn_proposals, "NUM_CANDIDATES", candidates)
    torch.manual_seed(1)
    model = ButdFasterRcnnProposals(ButdBottomUpConfig(**{**SETTINGS, "variant": variant}), num_channels=4)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    feature_map = torch.randn(1, 4, 4, 5)
    boxes, scores = model(feature_map, 70, 75, scale)
    expected_boxes, expected_scores = published_proposals(model, feature_map, 70, 75, scale)
    assert 3 < len(boxes) <= 30
    np.testing.assert_allclose(boxes.numpy(), expected_boxes, atol=1e-3)
    np.testing.assert_allclose(scores.numpy(), expected_scores, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_regions_are_what_was_published(variant):
    """Raw proposals selected per class, or regressed boxes selected by their best class; features of proposals."""
    model = bottom_up(variant)
    pixels = image_of(96, 120)
    regions = model(pixels).regions
    feature_map = model.backbone(pixels).feature_maps[0]
    boxes, _ = model.selector.proposals(feature_map, 96, 120, 1.0)
    features = model.backbone.describe(feature_map, boxes)
    class_logits, attribute_logits = model.selector.head(features)
    extent = torch.tensor([120.0, 96.0, 120.0, 96.0])
    scores = class_logits.softmax(dim=1)[:, :-1]  # background takes its share
    if variant == "caffe":
        keep, saliency = select_by_class(boxes, scores, model.config)
        expected = boxes[keep]
    else:
        best, labels = scores.max(dim=1)
        deltas = model.selector.head.deltas(features).view(-1, 5, 4)[torch.arange(len(boxes)), labels]
        size = boxes[:, 2:] - boxes[:, :2]
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + deltas[:, :2] / 10 * size
        size = size * (deltas[:, 2:] / 5).exp()
        regressed = torch.minimum(torch.cat([centre - size / 2, centre + size / 2], dim=1).clamp(min=0), extent)
        keep, saliency = select_by_best_class(regressed, best, model.config)
        expected = regressed[keep]
        assert (expected - boxes[keep]).abs().max() > 1
    torch.testing.assert_close(regions.boxes[0] * extent, expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(regions.features[0], features[keep])
    torch.testing.assert_close(regions.saliency[0], saliency)
    torch.testing.assert_close(regions.class_logits[0], class_logits[keep, :-1])
    torch.testing.assert_close(regions.attribute_logits[0], attribute_logits[keep, :-1])
    assert regions.class_logits.shape[-1] == 5 and regions.attribute_logits.shape[-1] == 3
    assert model.config.min_regions <= len(keep) <= model.config.num_regions
    assert (regions.saliency[0].diff() <= 0).all()
    assert ((regions.boxes >= 0) & (regions.boxes <= 1)).all()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_batch_equals_single(variant):
    model = bottom_up(variant)
    images = [image_of(*size, seed) for seed, size in enumerate([(64, 80), (96, 64), (64, 80)])]
    pixel_values, pixel_mask = torch.full((3, 3, 96, 80), 99.0), torch.zeros(3, 96, 80, dtype=torch.long)
    for row, single in enumerate(images):
        pixel_values[row, :, : single.shape[2], : single.shape[3]] = single[0]
        pixel_mask[row, : single.shape[2], : single.shape[3]] = 1
    scale = torch.tensor([1.5, 1.2, 0.7])
    batch = model(pixel_values, pixel_mask, image_scale=scale).regions
    for row, single in enumerate(images):
        alone = model(single, image_scale=scale[row, None]).regions
        count = alone.mask.shape[1]
        assert not batch.mask[row, count:].any()
        for name in alone:
            torch.testing.assert_close(batch[name][row, :count], alone[name][0], atol=1e-5, rtol=1e-5)
            assert not batch[name][row, count:].any()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_given_boxes(variant):
    """Exactly those, with what the detector thinks of each; the ports raise."""
    model = bottom_up(variant)
    pixels = image_of(64, 80)
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 0.5, 0.5], [0.3, 0.3, 0.4, 0.4]]])
    mask = torch.tensor([[True, True, False]])
    regions = model(pixels, region_boxes=boxes, region_mask=mask).regions
    assert torch.equal(regions.mask, mask)
    assert torch.equal(regions.boxes[0, :2], boxes[0, :2]) and not regions.boxes[0, 2].any()
    feature_map = model.backbone(pixels).feature_maps[0]
    expected = model.backbone.describe(feature_map, boxes[0, :2] * torch.tensor([80.0, 64.0, 80.0, 64.0]))
    torch.testing.assert_close(regions.features[0, :2], expected)
    assert not regions.features[0, 2].any() and not regions.class_logits[0, 2].any()
    torch.testing.assert_close(regions.class_logits[0, :2], model.selector.head(expected)[0][:, :-1])
    # a region that was found has the same feature when its box is given, unless its box was regressed
    found = model(pixels).regions
    again = model(pixels, region_boxes=found.boxes).regions
    if variant == "caffe":
        torch.testing.assert_close(again.features, found.features, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_scale_of_the_image(monkeypatch):
    """The smallest proposal and the pixel that is counted are those of the original image; boxes end at its end."""
    monkeypatch.setattr(faster_rcnn_proposals, "NUM_PROPOSALS", 300)
    model = bottom_up("caffe", num_regions=100, score_threshold=0.0)
    pixels = image_of(96, 120)
    sizes = {}
    for scale in (1.0, 2.4):
        boxes, _ = model.selector.proposals(model.backbone(pixels).feature_maps[0], 96, 120, scale)
        sizes[scale] = (boxes[:, 2:] - boxes[:, :2]).min().item() + 1
    assert 16 <= sizes[1.0] < 2.4 * 16 <= sizes[2.4]
    # 71 x 0.85 rounds to 60; a box that the original gives as x / 0.85 is that, over 71
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    assert model.selector.extent(60, 60, 0.85) == pytest.approx((71 * 0.85, 71 * 0.85) * 2)
    assert bottom_up("detectron2").selector.extent(60, 60, 0.85) == (60, 60, 60, 60)
    assert model(pixels, region_boxes=boxes, image_scale=torch.tensor([2.0])).regions.mask.all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(16, 16), (64, 64)])
@torch.no_grad()
def test_an_image_of_nothing_has_regions(variant, size):
    """However small: where the Caffe code finds no proposal, the whole image is one."""
    model = bottom_up(variant)
    regions = model(torch.zeros(1, 3, *size), image_scale=torch.tensor([5.0])).regions
    assert regions.mask.any()
    assert all(torch.isfinite(regions[name]).all() for name in regions)


def test_names_of_labels():
    config = ButdBottomUpConfig(selector="faster_rcnn_c4")
    assert config.num_region_labels == len(config.id2label) == 1600
    assert config.num_region_attributes == len(config.id2attribute) == 400
    assert (config.id2label[7], config.id2attribute[7]) == ("LABEL_7", "ATTRIBUTE_7")
    config = ButdBottomUpConfig(selector="faster_rcnn_c4", id2label={0: "dog", 1: "cat"}, id2attribute={"0": "red"})
    assert (config.num_region_labels, config.num_region_attributes) == (2, 1)
    again = ButdBottomUpConfig.from_dict(config.to_dict())
    assert again.id2label == {0: "dog", 1: "cat"} and again.id2attribute == {0: "red"}
    assert ButdBottomUpConfig(selector="faster_rcnn_c4", num_region_labels=3).num_region_attributes == 0
    for wrong in ({"id2label": {0: "dog"}, "num_region_labels": 2}, {"id2attribute": {1: "red"}}):
        with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
            ButdBottomUpConfig(selector="faster_rcnn_c4", **wrong)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_a_saved_detector(tmp_path, photo):
    """Its own class, found by its name; labels, variant and image recipe come back with it."""
    config = butd_hf.ButdConfig(bottom_up_config={**SETTINGS, "id2label": dict(enumerate("abcde"))})
    model = butd_hf.ButdRegionModel(config).eval()
    model.save_pretrained(tmp_path)
    butd_hf.ButdImageProcessor.from_recipe("caffe", size={"shortest_edge": 64, "longest_edge": 100}).save_pretrained(
        tmp_path
    )
    from transformers import AutoImageProcessor, AutoModel

    again, processor = AutoModel.from_pretrained(tmp_path).eval(), AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is butd_hf.ButdRegionModel
    assert again.config.bottom_up_config.id2label[4] == "e"
    inputs = processor(images=photo, return_tensors="pt")
    assert inputs["image_scale"].tolist() == pytest.approx([1.6])
    with torch.no_grad():
        expected, found = model(**inputs), again(**inputs)
        as_tuple = model(**inputs, return_dict=False)
    assert isinstance(expected, butd_hf.modeling.regions.ButdRegions) and torch.equal(as_tuple[0], expected.features)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@torch.no_grad()
def test_captions_of_what_the_detector_sees(photo):
    """Raw image to words in one call, the image's scale included."""
    top_down = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = butd_hf.ButdConfig(bottom_up_config=SETTINGS, top_down_config=top_down)
    model = butd_hf.ButdForConditionalGeneration(config).eval()
    processor = butd_hf.ButdImageProcessor.from_recipe("caffe", size={"shortest_edge": 64, "longest_edge": 100})
    inputs = processor(images=[photo, photo], return_tensors="pt")
    seen = []
    model.model.bottom_up.selector.proposals.register_forward_hook(lambda module, given, found: seen.append(given[3]))
    outputs = model(**inputs)
    tokens = model.generate(**inputs, max_new_tokens=3)
    assert tokens.shape[0] == 2 and outputs.regions.features.shape[-1] == 64
    assert seen == pytest.approx([1.6] * 4)


@torch.no_grad()
def test_overlaps_are_those_of_the_original_image(monkeypatch):
    """The pixel that is counted in the size of a box is one of the image before it was resized."""
    model, seen = bottom_up("caffe"), []
    monkeypatch.setattr(faster_rcnn, "select_by_class", lambda *given: seen.append(given) or select_by_class(*given))
    pixels = image_of(96, 120)
    model(pixels, image_scale=torch.tensor([2.4]))
    boxes, _ = model.selector.proposals(model.backbone(pixels).feature_maps[0], 96, 120, 2.4)
    torch.testing.assert_close(seen[0][0], boxes / 2.4)
