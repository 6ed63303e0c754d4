# SPDX-License-Identifier: Apache-2.0
"""Average precision of boxes and masks, and recall of regions."""

import math

import numpy as np
import pytest

from butd_hf.detection import run_lengths
from butd_hf.metrics import load
from butd_hf.metrics.average_precision import average_precision
from butd_hf.metrics.regions import region_recall


NAMES = ["dog", "cat", "cow"]
SIZE = [60, 80]
FIRST, SECOND = [10, 10, 40, 40], [45, 5, 75, 55]


def reference(boxes, labels, **fields):
    number = len(boxes)
    return {
        "boxes": boxes,
        "labels": labels,
        "iscrowd": [0] * number,
        "masks": [None] * number,
        "size": SIZE,
        **fields,
    }


def prediction(boxes, labels, scores=None, masks=None):
    return {"boxes": boxes, "labels": labels, "scores": scores or [0.9] * len(boxes), "masks": masks}


def mask_of(box):
    mask = np.zeros(SIZE, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return run_lengths(mask)


def test_perfect_boxes_score_100():
    truth = [reference([FIRST, SECOND], [0, 1]), reference([], [])]
    found = [prediction([FIRST, SECOND], [0, 1]), prediction([], [])]
    scores = average_precision(found, truth, names=NAMES, common=1)
    assert scores["box_ap"] == scores["box_ap50"] == scores["box_ap50_common"] == pytest.approx(100)
    assert scores["box_ap50_dog"] == pytest.approx(100) and "box_ap50_cow" not in scores


def test_score_falls_with_wrong_class_missing_box_and_loose_box():
    truth = [reference([FIRST, SECOND], [0, 1])]
    wrong = average_precision([prediction([FIRST, SECOND], [1, 0])], truth, names=NAMES)
    assert wrong["box_ap50"] == 0
    half = average_precision([prediction([FIRST], [0])], truth, names=NAMES)
    assert half["box_ap50"] == pytest.approx(50)
    loose = average_precision([prediction([[10, 10, 40, 50], SECOND], [0, 1])], truth, names=NAMES)
    assert loose["box_ap50"] == pytest.approx(100) and 50 < loose["box_ap"] < 100
    assert loose["box_ap75"] == pytest.approx(100)  # 30 x 30 of 30 x 40 is just 0.75


def test_common_classes_have_enough_boxes():
    truth = [reference([FIRST], [0])] * 3 + [reference([SECOND], [1])]
    found = [prediction([FIRST], [0])] * 3 + [prediction([], [])]
    assert average_precision(found, truth, names=NAMES, common=3)["box_ap50_common"] == pytest.approx(100)
    assert average_precision(found, truth, names=NAMES, common=1)["box_ap50_common"] == pytest.approx(50)
    assert math.isnan(average_precision(found, truth, names=NAMES, common=4)["box_ap50_common"])


def test_no_objects_and_no_detections():
    nothing = average_precision([prediction([FIRST], [0])], [reference([], [])], names=NAMES)
    assert math.isnan(nothing["box_ap50"])
    missed = average_precision([prediction([], [])], [reference([FIRST], [0])], names=NAMES)
    assert missed["box_ap50"] == 0


def test_crowds_are_neither_right_nor_wrong():
    truth = [reference([FIRST, SECOND], [0, 0], iscrowd=[0, 1])]
    found = [prediction([FIRST, [50, 10, 60, 20], [60, 30, 70, 40]], [0, 0, 0], [0.5, 0.9, 0.8])]
    assert average_precision(found, truth, names=NAMES)["box_ap50"] == pytest.approx(100)


def test_masks_that_nobody_drew_are_neither_right_nor_wrong():
    """A mask on an object without one must not count as a false positive, nor the object as missed."""
    truth = [reference([FIRST, SECOND], [0, 0], masks=[mask_of(FIRST), None])]
    both = prediction([FIRST, SECOND], [0, 0], [0.5, 0.9], [mask_of(FIRST), mask_of([47, 7, 70, 50])])
    alone = prediction([FIRST], [0], [0.5], [mask_of(FIRST)])
    for found in (both, alone):
        assert average_precision([found], truth, names=NAMES, masks=True)["mask_ap50"] == pytest.approx(100)
    elsewhere = prediction([FIRST] * 2, [0, 0], [0.5, 0.9], [mask_of(FIRST), mask_of([0, 45, 9, 60])])
    assert average_precision([elsewhere], truth, names=NAMES, masks=True)["mask_ap50"] == pytest.approx(50)


def test_500_objects_in_an_image():
    boxes = [[x, y, x + 2, y + 2] for x in range(0, 75, 3) for y in range(0, 60, 3)]
    scores = average_precision(
        [prediction(boxes, [0] * len(boxes))], [reference(boxes, [0] * len(boxes))], names=NAMES
    )
    assert len(boxes) == 500
    assert scores["box_ap50"] == pytest.approx(20, abs=1)  # COCO counts the best 100


@pytest.mark.parametrize(
    ("found", "truth", "message"),
    [
        ([], [], "references is empty"),
        ([prediction([], [])], [], "1 predictions and 0 references"),
        ([prediction([FIRST], [3])], [reference([], [])], r"predictions\[0\] has the label 3, expected 0 to 2"),
        ([prediction([FIRST], [0, 1])], [reference([], [])], r"predictions\[0\] has 2 labels for 1 boxes"),
        ([prediction([[0, 0, math.nan, 1]], [0])], [reference([], [])], "not finite"),
        ([prediction([], [])], [{"boxes": [], "labels": []}], r"references\[0\] must have 'size'"),
    ],
)
def test_wrong_input_is_named(found, truth, message):
    with pytest.raises(ValueError, match=message):
        average_precision(found, truth, names=NAMES)


def test_metric_behind_evaluate_gives_the_same(tmp_path):
    truth = [reference([FIRST, SECOND], [0, 1], masks=[mask_of(FIRST), None]), reference([], [])]
    found = [
        prediction([FIRST, SECOND], [0, 2], masks=[mask_of(FIRST), mask_of(SECOND)]),
        prediction([], [], masks=[]),
    ]
    metric = load("detection", cache_dir=str(tmp_path))
    metric.add_batch(predictions=found, references=truth)
    scores = metric.compute(names=NAMES, masks=True)
    assert scores["box_ap50"] == average_precision(found, truth, names=NAMES)["box_ap50"]
    assert scores["mask_ap50"] == average_precision(found, truth, names=NAMES, masks=True)["mask_ap50"]


def test_region_recall_counts_objects_not_images(tmp_path):
    truth = [reference([FIRST, SECOND], [0, 1]), reference([FIRST], [0]), reference([], [])]
    regions = [[FIRST], [SECOND, FIRST], [FIRST]]
    assert region_recall(regions, truth) == pytest.approx(200 / 3)
    assert region_recall(regions, truth, num_regions=1) == pytest.approx(100 / 3)
    crowded = [reference([FIRST, SECOND], [0, 1], iscrowd=[0, 1]), *truth[1:]]
    assert region_recall(regions, crowded) == pytest.approx(100)
    assert math.isnan(region_recall([[]], [reference([], [])]))
    with pytest.raises(ValueError, match="regions of 1 images and 3"):
        region_recall([[]], truth)
    metric = load("regions", cache_dir=str(tmp_path))
    boxes = [{"boxes": each} for each in regions]
    entries = [{"boxes": each["boxes"], "iscrowd": each["iscrowd"]} for each in truth]
    assert metric.compute(predictions=boxes, references=entries) == {"recall36": pytest.approx(200 / 3)}
