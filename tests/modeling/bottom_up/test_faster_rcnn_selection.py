# SPDX-License-Identifier: Apache-2.0
"""Selection against the published procedure, written out slowly, on many random cases."""

import numpy as np
import pytest
import torch

from butd_hf.modeling.bottom_up.faster_rcnn import (
    select_by_best_class,
    select_by_class,
)
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig


def config(num_regions: int = 8, min_regions: int = 3, **kwargs) -> ButdBottomUpConfig:
    kwargs = {"score_threshold": 0.2, "nms_threshold": 0.3, **kwargs}
    return ButdBottomUpConfig(num_regions=num_regions, min_regions=min_regions, **kwargs)


def slow_nms(boxes, scores, threshold):
    """Greedy suppression; a box from 0 to 15 is 16 wide."""
    x0, y0, x1, y1 = boxes.T
    areas = (x1 - x0 + 1) * (y1 - y0 + 1)
    order, keep = scores.argsort(kind="stable")[::-1], []
    while order.size > 0:
        first, rest = order[0], order[1:]
        keep.append(first)
        width = np.maximum(0, np.minimum(x1[first], x1[rest]) - np.maximum(x0[first], x0[rest]) + 1)
        height = np.maximum(0, np.minimum(y1[first], y1[rest]) - np.maximum(y0[first], y0[rest]) + 1)
        overlap = width * height / (areas[first] + areas[rest] - width * height)
        order = rest[overlap <= threshold]
    return keep


def published_selection(boxes, scores, conf_thresh, nms_threshold, min_boxes, max_boxes):
    """Per class suppression, each box's best score, then 10 to 100 of them."""
    max_conf = np.zeros(len(boxes), dtype=scores.dtype)
    for label in range(scores.shape[1]):
        keep = slow_nms(boxes, scores[:, label], nms_threshold)
        max_conf[keep] = np.where(scores[keep, label] > max_conf[keep], scores[keep, label], max_conf[keep])
    keep_boxes = np.where(max_conf >= conf_thresh)[0]
    if len(keep_boxes) < min_boxes:
        keep_boxes = np.argsort(max_conf)[::-1][:min_boxes]
    elif len(keep_boxes) > max_boxes:
        keep_boxes = np.argsort(max_conf)[::-1][:max_boxes]
    return set(keep_boxes.tolist()), max_conf


def random_case(generator, count, labels, sharpness):
    corner = torch.rand(count, 2, generator=generator) * 60
    size = torch.rand(count, 2, generator=generator) * 40 + 1
    scores = (torch.randn(count, labels + 1, generator=generator) * sharpness).softmax(dim=1)[:, :-1]
    return torch.cat([corner, corner + size], dim=1), scores


def test_equals_the_published_selection():
    """Few and many boxes above the threshold, fewer boxes than are asked for, and ties at zero."""
    generator = torch.Generator().manual_seed(0)
    full = 0
    for case in range(120):
        count, sharpness = 2 + (7 * case) % 17, (0.3, 1.0, 3.0)[case % 3]
        boxes, scores = random_case(generator, count, 2 + case % 7, sharpness)
        settings = config(num_regions=(8, 6)[case % 2], min_regions=(3, 6)[case % 2])
        keep, confidence = select_by_class(boxes, scores, settings)
        expected, max_conf = published_selection(
            boxes.numpy(), scores.numpy(), 0.2, 0.3, settings.min_regions, settings.num_regions
        )
        full += int((max_conf >= 0.2).sum() < min(settings.min_regions, count))
        assert confidence.tolist() == [max_conf[index] for index in keep.tolist()]  # also where zeros tie
        assert sorted(confidence.tolist()) == sorted(max_conf[list(expected)].tolist())
        if len(set(max_conf.tolist())) == count:
            assert set(keep.tolist()) == expected
        assert (confidence.diff() <= 0).all()
    assert 10 < full < 110  # both ways were gone


def test_per_class_suppression_keeps_what_one_for_all_drops():
    """Two things in one place, of different classes: both are regions of the original, one of the ports."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [0.0, 0.0, 20.0, 21.0], [50.0, 50.0, 60.0, 60.0]])
    scores = torch.tensor([[0.9, 0.0], [0.0, 0.8], [0.0, 0.3]])
    settings = config(min_regions=1)
    assert select_by_class(boxes, scores, settings)[0].tolist() == [0, 1, 2]
    assert select_by_best_class(boxes, scores.amax(dim=1), settings)[0].tolist() == [0, 2]
    # of one class, the original drops it too
    assert select_by_class(boxes, scores.amax(dim=1, keepdim=True), settings)[0].tolist() == [0, 2]


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (5, 4), (30, 4)])
def test_ports_raise_the_threshold_until_enough_are_left(count, expected):
    """Too few is no error. The ports' threshold for scores has no effect."""
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(count, 1)
    boxes[:, 2] += torch.arange(count) * 0.1
    keep, confidence = select_by_best_class(boxes, torch.linspace(0.1, 0.05, count), config(4, 4, nms_threshold=0.6))
    assert keep.tolist() == list(range(expected))
    assert (confidence.diff() <= 0).all()
