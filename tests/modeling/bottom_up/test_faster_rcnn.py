# SPDX-License-Identifier: Apache-2.0
"""The published detector, piece by piece against slow transcriptions of it, and what the seam promises."""

import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoImageProcessor, AutoModel

import butd_hf
from butd_hf.modeling.bottom_up import faster_rcnn, faster_rcnn_proposals
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.bottom_up.faster_rcnn import ButdFasterRcnnHead, select_by_best_class, select_by_class
from butd_hf.modeling.bottom_up.faster_rcnn_proposals import ButdFasterRcnnProposals, cell_anchors
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig


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
VARIANTS = pytest.mark.parametrize("variant", ["caffe", "detectron2"])


@pytest.fixture(autouse=True)
def few_proposals(monkeypatch):
    """Of a narrow network: enough to select from, and quick."""
    monkeypatch.setattr(faster_rcnn_proposals, "NUM_PROPOSALS", 30)
    monkeypatch.setattr(faster_rcnn_proposals, "HIDDEN_SIZE", 8)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def config_of(**changes) -> ButdBottomUpConfig:
    return ButdBottomUpConfig(**{**SETTINGS, **changes})


def bottom_up(variant: str, **changes) -> ButdBottomUp:
    torch.manual_seed(0)
    model = ButdBottomUp(config_of(variant=variant, **changes)).eval()
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
    """Greedy suppression; `one` is 1 where a box from 0 to 15 is 16 wide."""
    order, keep = np.argsort(-scores, kind="stable"), []
    areas = (boxes[:, 2:] - boxes[:, :2] + one).prod(axis=1)
    while order.size > 0:
        first, rest = order[0], order[1:]
        keep.append(first)
        low, high = np.maximum(boxes[first, :2], boxes[rest, :2]), np.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = np.maximum(high - low + one, 0).prod(axis=1)
        order = rest[shared / (areas[first] + areas[rest] - shared) <= threshold]
    return keep


def published_proposals(model, feature_map, height, width, scale):
    """Both proposal layers, anchor by anchor."""
    caffe = model.config.variant == "caffe"
    one = 1 if caffe else 0
    hidden = torch.relu(model.conv(feature_map))
    objectness, deltas = model.objectness(hidden)[0].double(), model.deltas(hidden)[0].double()
    boxes, scores = [], []
    for y, x, index in np.ndindex(*feature_map.shape[2:], 12):
        score = objectness[index, y, x]
        if caffe:  # 12 backgrounds, then 12 foregrounds
            score = objectness[[index, 12 + index], y, x].softmax(dim=0)[1]
        anchor = model.cell_anchors[index].tolist()
        left, top, right, bottom = (side + 16 * (x, y)[axis % 2] for axis, side in enumerate(anchor))
        wide, high = right - left + one, bottom - top + one
        dx, dy, *growth = deltas[4 * index : 4 * index + 4, y, x].tolist()
        if not caffe:
            growth = [min(value, math.log(1000 / 16)) for value in growth]
        centre_x, centre_y = left + 0.5 * wide + dx * wide, top + 0.5 * high + dy * high
        wide, high = math.exp(growth[0]) * wide, math.exp(growth[1]) * high
        box = [centre_x - wide / 2, centre_y - high / 2, centre_x + wide / 2, centre_y + high / 2]
        limits = [width - one, height - one] * 2
        boxes.append([min(max(side, 0), limit) for side, limit in zip(box, limits, strict=True)])
        scores.append(float(score))
    boxes, scores, most = np.array(boxes), np.array(scores), faster_rcnn_proposals.NUM_CANDIDATES
    sides, best = boxes[:, 2:] - boxes[:, :2], np.argsort(-scores, kind="stable")
    if caffe:
        best = [index for index in best if (sides[index] + 1 >= 16 * scale).all()][:most]
    else:
        best = [index for index in best[:most] if (sides[index] > 0).all()]
    return boxes[best][slow_nms(boxes[best], scores[best], 0.7, one)[:30]]


@pytest.mark.parametrize(
    ("variant", "scale", "candidates"), [("caffe", 1.0, 6000), ("caffe", 2.5, 40), ("detectron2", 1.0, 40)]
)
def test_proposals(variant, scale, candidates, monkeypatch):
    monkeypatch.setattr(faster_rcnn_proposals, "NUM_CANDIDATES", candidates)
    torch.manual_seed(1)
    model = ButdFasterRcnnProposals(config_of(variant=variant), num_channels=4)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    feature_map = torch.randn(1, 4, 4, 5)
    boxes = model(feature_map, 70, 75, scale)
    assert 3 < len(boxes) <= 30
    np.testing.assert_allclose(boxes, published_proposals(model, feature_map, 70, 75, scale), atol=1e-3)


def test_anchors():
    caffe = []
    for ratio in (0.5, 1, 2):  # ratios of a 16 x 16 window, rounded, then scales of each
        width = np.round(np.sqrt(16 * 16 / ratio))
        for scale in (4, 8, 16, 32):
            half = (np.array([width, np.round(width * ratio)]) * scale - 1) / 2
            caffe.append([*(7.5 - half), *(7.5 + half)])
    assert np.array_equal(cell_anchors("caffe"), caffe) and caffe[0] == [-38.0, -16.0, 53.0, 31.0]
    ports = cell_anchors("detectron2")  # not rounded, and centred at zero
    width, height = (ports[:, 2:] - ports[:, :2]).unbind(1)
    assert torch.equal(ports[:, :2], -ports[:, 2:])
    torch.testing.assert_close(width * height, torch.tensor([64.0, 128.0, 256.0, 512.0]).square().repeat_interleave(3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]).repeat(4))


def published_selection(boxes, scores, min_boxes, max_boxes):
    """Per class suppression, each box's best score, then 10 to 100 of them."""
    max_conf = np.zeros(len(boxes), dtype=scores.dtype)
    for label in range(scores.shape[1]):
        keep = slow_nms(boxes, scores[:, label], 0.3, 1)
        max_conf[keep] = np.maximum(scores[keep, label], max_conf[keep])
    keep_boxes = np.where(max_conf >= 0.2)[0]
    if len(keep_boxes) < min_boxes:
        keep_boxes = np.argsort(max_conf)[::-1][:min_boxes]
    elif len(keep_boxes) > max_boxes:
        keep_boxes = np.argsort(max_conf)[::-1][:max_boxes]
    return keep_boxes, max_conf


def test_selection_equals_the_published():
    """Few and many boxes above the threshold, fewer boxes than are asked for, and ties at zero."""
    generator, full = torch.Generator().manual_seed(0), 0
    for case in range(120):
        count, labels, sharpness = 2 + (7 * case) % 17, 2 + case % 7, (0.3, 1.0, 3.0)[case % 3]
        corner = torch.rand(count, 2, generator=generator) * 60
        boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 40 + 1], dim=1)
        scores = (torch.randn(count, labels + 1, generator=generator) * sharpness).softmax(dim=1)[:, :-1]
        settings = config_of(num_regions=(8, 6)[case % 2], min_regions=(3, 6)[case % 2])
        keep, confidence = select_by_class(boxes, scores, settings)
        expected, max_conf = published_selection(
            boxes.numpy(), scores.numpy(), settings.min_regions, settings.num_regions
        )
        full += int((max_conf >= 0.2).sum() < min(settings.min_regions, count))
        assert confidence.tolist() == [max_conf[index] for index in keep.tolist()]  # also where zeros tie
        assert confidence.tolist() == sorted(max_conf[expected].tolist(), reverse=True)
        if len(set(max_conf.tolist())) == count:
            assert set(keep.tolist()) == set(expected.tolist())
    assert 10 < full < 110  # both ways were gone


def test_per_class_suppression_keeps_what_one_for_all_drops():
    """Two things in one place, of different classes: both are regions of the original, one of the ports."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 21.0], [50.0, 50.0, 60.0, 60.0]])
    scores = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.0, 0.3]])
    settings = config_of(min_regions=1)
    assert select_by_class(boxes, scores, settings)[0].tolist() == [0, 1, 2]
    assert select_by_best_class(boxes, scores.amax(dim=1), settings)[0].tolist() == [0, 2]
    # of one class, the original drops it too
    assert select_by_class(boxes, scores.amax(dim=1, keepdim=True), settings)[0].tolist() == [0, 2]


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (5, 4), (30, 4)])
def test_ports_raise_the_threshold_until_enough_are_left(count, expected):
    """Too few is no error. The ports' threshold for scores has no effect."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(count, 1)
    boxes[:, 2] += torch.arange(count) * 0.1
    settings = config_of(num_regions=4, nms_threshold=0.6)
    keep, confidence = select_by_best_class(boxes, torch.linspace(0.1, 0.05, count), settings)
    assert keep.tolist() == list(range(expected)) and (confidence.diff() <= 0).all()


def test_attributes_follow_the_likeliest_class():
    model, features = ButdFasterRcnnHead(config_of(), region_size=32), torch.randn(4, 32)
    model.class_embedding.weight.mul_(10)
    class_logits, attribute_logits = model(features)
    assert class_logits.shape == (4, 6) and attribute_logits.shape == (4, 4)
    torch.testing.assert_close(class_logits, model.classifier(features))
    joined = torch.cat([features, model.class_embedding.weight[class_logits.argmax(dim=1)]], dim=1)
    expected = model.attribute_classifier(model.attribute_proj(joined).clamp(min=0))
    torch.testing.assert_close(attribute_logits, expected)
    without = ButdFasterRcnnHead(config_of(num_region_attributes=0), region_size=32)
    assert without(features)[1] is None and not any("attribute" in name for name in without.state_dict())


@VARIANTS
def test_regions_are_what_was_published(variant):
    """Raw proposals selected per class, or regressed boxes selected by their best class; features of proposals."""
    model, pixels = bottom_up(variant), image_of(96, 120)
    regions = model(pixels).regions
    feature_map = model.backbone(pixels).feature_maps[0]
    boxes = model.selector.proposals(feature_map, 96, 120, 1.0)
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
    assert model.config.min_regions <= len(keep) <= model.config.num_regions


@VARIANTS
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
        for name in alone:
            torch.testing.assert_close(batch[name][row, :count], alone[name][0], atol=1e-5, rtol=1e-5)
            assert not batch[name][row, count:].any()


@VARIANTS
def test_given_boxes(variant):
    """Exactly those, with what the detector thinks of each; the ports raise."""
    model, pixels = bottom_up(variant), image_of(64, 80)
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 0.5, 0.5], [0.3, 0.3, 0.4, 0.4]]])
    mask = torch.tensor([[True, True, False]])
    regions = model(pixels, region_boxes=boxes, region_mask=mask).regions
    assert torch.equal(regions.mask, mask) and torch.equal(regions.boxes, boxes * mask[..., None])
    feature_map = model.backbone(pixels).feature_maps[0]
    expected = model.backbone.describe(feature_map, boxes[0, :2] * torch.tensor([80.0, 64.0, 80.0, 64.0]))
    torch.testing.assert_close(regions.features[0, :2], expected)
    assert not regions.features[0, 2].any() and not regions.class_logits[0, 2].any()
    torch.testing.assert_close(regions.class_logits[0, :2], model.selector.head(expected)[0][:, :-1])
    if variant == "caffe":  # a region that was found has the same feature when its box is given
        found = model(pixels).regions
        again = model(pixels, region_boxes=found.boxes).regions
        torch.testing.assert_close(again.features, found.features, atol=1e-5, rtol=1e-5)


def test_scale_of_the_image(monkeypatch):
    """The smallest proposal and the pixel that is counted are those of the original image; boxes end at its end."""
    monkeypatch.setattr(faster_rcnn_proposals, "NUM_PROPOSALS", 300)
    model, pixels, seen = bottom_up("caffe", num_regions=100, score_threshold=0.0), image_of(96, 120), []
    feature_map = model.backbone(pixels).feature_maps[0]
    boxes = {scale: model.selector.proposals(feature_map, 96, 120, scale) for scale in (1.0, 2.4)}
    sides = {scale: (each[:, 2:] - each[:, :2]).min().item() + 1 for scale, each in boxes.items()}
    assert 16 <= sides[1.0] < 2.4 * 16 <= sides[2.4]
    # 71 x 0.85 rounds to 60; a box that the original gives as x / 0.85 is that, over 71
    assert model.selector.extent(60, 60, 0.85) == pytest.approx((71 * 0.85, 71 * 0.85) * 2)
    assert bottom_up("detectron2").selector.extent(60, 60, 0.85) == (60, 60, 60, 60)
    monkeypatch.setattr(faster_rcnn, "select_by_class", lambda *given: seen.append(given) or select_by_class(*given))
    model(pixels, image_scale=torch.tensor([2.4]))
    torch.testing.assert_close(seen[0][0], boxes[2.4] / 2.4)


@VARIANTS
@pytest.mark.parametrize("size", [(16, 16), (64, 64)])
def test_an_image_of_nothing_has_regions(variant, size):
    """However small: where the Caffe code finds no proposal, the whole image is one."""
    regions = bottom_up(variant)(torch.zeros(1, 3, *size), image_scale=torch.tensor([5.0])).regions
    assert regions.mask.any() and all(torch.isfinite(regions[name]).all() for name in regions)


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


def test_a_saved_detector_and_a_captioner_that_sees_by_it(tmp_path):
    """Labels, variant and image recipe come back; raw images become words, their scale included."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    bottom_up_config = {**SETTINGS, "id2label": dict(enumerate("abcde"))}
    model = butd_hf.ButdRegionModel(butd_hf.ButdConfig(bottom_up_config=bottom_up_config)).eval()
    model.save_pretrained(tmp_path)
    size = {"shortest_edge": 64, "longest_edge": 100}
    butd_hf.ButdImageProcessor.from_recipe("caffe", size=size).save_pretrained(tmp_path)
    again, processor = AutoModel.from_pretrained(tmp_path).eval(), AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is butd_hf.ButdRegionModel and again.config.bottom_up_config.id2label[4] == "e"
    inputs = processor(images=[photo, photo], return_tensors="pt")
    assert inputs["image_scale"].tolist() == pytest.approx([1.6, 1.6])
    expected, found = model(**inputs), again(**inputs)
    assert torch.equal(model(**inputs, return_dict=False)[0], expected.features)
    assert all(torch.equal(found[name], expected[name]) for name in expected)

    top_down = {"vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config, scales = butd_hf.ButdConfig(bottom_up_config=bottom_up_config, top_down_config=top_down), []
    captioner = butd_hf.ButdForConditionalGeneration(config).eval()
    proposals = captioner.model.bottom_up.selector.proposals
    proposals.register_forward_hook(lambda module, given, found: scales.append(given[3]))
    assert captioner.generate(**inputs, max_new_tokens=3).shape[0] == 2 and scales == pytest.approx([1.6] * 2)
