# SPDX-License-Identifier: Apache-2.0
"""Labels of detection, from COCO's annotations."""

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_masks
from torchvision.ops import box_convert

from butd_hf.modeling.annotations import decode_segmentation
from butd_hf.modeling.image_processing_butd import ButdImageProcessor


HEIGHT, WIDTH = 40, 60
BLANK = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture
def mask():
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.7
    noise[10:30, 20:50] = True
    return noise.astype(np.uint8)


def annotated(*objects, image_id=7):
    return {"image_id": image_id, "annotations": list(objects)}


def test_segmentations_are_read_as_coco_reads_them(mask):
    compressed = coco_masks.encode(np.asfortranarray(mask))
    counts = compressed["counts"] if isinstance(compressed["counts"], bytes) else compressed["counts"].encode()
    flat = mask.T.ravel()
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    for same in (counts, counts.decode(), [0, *runs] if flat[0] else runs):
        assert np.array_equal(decode_segmentation({"size": [HEIGHT, WIDTH], "counts": same}, HEIGHT, WIDTH), mask)
    polygons = [[5, 5, 30.5, 8, 25, 30, 9, 22], [40, 10, 55, 10, 55, 35, 40, 35]]
    filled = decode_segmentation(polygons, HEIGHT, WIDTH)
    expected = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, HEIGHT, WIDTH)))
    assert (filled & expected).sum() / (filled | expected).sum() > 0.9


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [WIDTH, HEIGHT], "counts": [2400]}, {"size": [HEIGHT, WIDTH], "counts": [5, 5]}, [[1, 2, 3, 4]], "mask"],
)
def test_unreadable_segmentation_names_image_and_annotation(segmentation):
    target = annotated({"bbox": [1, 1, 5, 5], "category_id": 0, "segmentation": segmentation})
    with pytest.raises(ValueError, match=r"annotations\[0\]\['annotations'\]\[0\] of image 7: cannot read"):
        ButdImageProcessor()(BLANK, annotations=target, return_segmentation_masks=True)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"bbox": [1, 2, 3], "category_id": 0}, "'bbox' must be four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4], "category_id": 0}, "'bbox' must be four finite numbers"),
        ({"bbox": [1, 2, 3, 4]}, "'category_id' must be an integer, got None"),
    ],
)
def test_wrong_annotations_are_named(annotation, message):
    with pytest.raises(ValueError, match=message):
        ButdImageProcessor()(BLANK, annotations=annotated(annotation))
    with pytest.raises(ValueError, match="got 2 for 1 "):
        ButdImageProcessor()(BLANK, annotations=[annotated(), annotated()])


def test_boxes_are_clipped_and_empty_ones_left_out():
    target = annotated(
        {"bbox": [-10, 10, 40, 20], "category_id": 3},
        {"bbox": [30, 30, 100, 100], "category_id": 4, "iscrowd": 1, "attribute_id": 2},
        {"bbox": [5, 5, 0, 10], "category_id": 1},
        {"bbox": [WIDTH + 1, 0, 10, 10], "category_id": 1},
        {"bbox": [5, 5, -3, 10], "category_id": 1},
    )
    processor = ButdImageProcessor(size={"height": 64, "width": 64})
    (labels,) = processor(BLANK, annotations=target, return_tensors="pt")["labels"]
    assert labels["class_labels"].tolist() == [3, 4]
    assert labels["iscrowd"].tolist() == [0, 1] and labels["attribute_labels"].tolist() == [-1, 2]
    assert labels["orig_size"].tolist() == [HEIGHT, WIDTH] and labels["image_id"].tolist() == [7]
    corners = box_convert(labels["boxes"], "cxcywh", "xyxy") * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    assert torch.allclose(corners, torch.tensor([[0.0, 10, 30, 30], [30, 30, 60, 40]]), atol=1e-4)
    assert "masks" not in labels


@pytest.mark.parametrize("size", [{"height": 64, "width": 64}, {"shortest_edge": 64, "longest_edge": 128}])
def test_masks_have_the_size_that_the_model_sees(mask, size):
    """Images of a batch are padded, their masks are not; a box without a mask keeps its row."""
    first = annotated(
        {"bbox": [20, 10, 30, 20], "category_id": 0, "segmentation": coco_masks.encode(np.asfortranarray(mask))},
        {"bbox": [2, 2, 10, 10], "category_id": 1, "segmentation": None},
    )
    images = [BLANK, BLANK.transpose(1, 0, 2)]
    options = {"return_segmentation_masks": True, "return_tensors": "pt"}
    labels, nothing = ButdImageProcessor(size=size)(images, annotations=[first, annotated()], **options)["labels"]
    expected = (64, 64) if "height" in size else (64, 96)
    assert labels["masks"].shape == (2, *expected) and labels["has_mask"].tolist() == [True, False]
    assert labels["masks"][0].float().mean() == pytest.approx(mask.mean(), abs=0.05)
    assert nothing["boxes"].shape == (0, 4) and len(nothing["class_labels"]) == 0
    assert nothing["masks"].shape == (0, *expected[::-1])
