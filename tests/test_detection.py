# SPDX-License-Identifier: Apache-2.0
"""From outputs to objects on pixels, and to what an evaluation keeps of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_masks
from scipy.ndimage import map_coordinates

from butd_hf import ButdImageProcessor
from butd_hf.inference.objects import predictions_of, read_objects
from butd_hf.modeling.outputs import ButdInstanceSegmentationOutput
from butd_hf.modeling.post_processing import paste_mask
from butd_hf.modeling.regions import ButdRegions


SIZES = [(40, 30), (33, 57)]


@pytest.fixture
def outputs() -> ButdInstanceSegmentationOutput:
    """Of two images with eight queries of three classes, some at the border and some beyond it."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    logits = torch.cat([6 * rand(2, 8, 3) - 4, torch.zeros(2, 8, 1)], dim=-1)
    boxes = torch.cat([rand(2, 8, 2), 0.9 * rand(2, 8, 2)], dim=-1)
    return ButdInstanceSegmentationOutput(
        logits=logits,
        pred_boxes=boxes,
        pred_masks=8 * rand(2, 8, 14, 14) - 4,
        regions=ButdRegions(boxes=rand(2, 4, 4), saliency=rand(2, 4), mask=torch.ones(2, 4, dtype=torch.bool)),
    )


@pytest.mark.parametrize(
    "box", [(3.3, 4.2, 17.8, 21.1), (-5.0, 8.0, 12.5, 40.0), (0.0, 0.0, 30.0, 40.0), (7.2, 9.9, 7.3, 10.0)]
)
def test_masks_are_sampled_at_the_centres_of_pixels(box):
    """Bilinear interpolation by scipy of the whole image, cut to the box, says the same."""
    mask = torch.rand(14, 14, generator=torch.Generator().manual_seed(2))
    pasted, place = paste_mask(mask, list(box), 40, 30)
    x0, y0, x1, y1 = box
    across, down = ((np.arange(30) + 0.5 - x0) / (x1 - x0), (np.arange(40) + 0.5 - y0) / (y1 - y0))
    places = np.stack(np.meshgrid(14 * down - 0.5, 14 * across - 0.5, indexing="ij"))
    expected = map_coordinates(mask.numpy(), places, order=1, mode="nearest")  # (40, 30)
    top, left = max(0, round(y0)), max(0, round(x0))
    bottom, right = min(40, max(round(y1), top + 1)), min(30, max(round(x1), left + 1))
    assert place == (slice(top, bottom), slice(left, right))
    np.testing.assert_allclose(pasted.numpy(), expected[place], atol=1e-4)


def test_evaluation_keeps_what_the_image_processor_finds(outputs):
    processor = ButdImageProcessor(size={"height": 64, "width": 64})
    maps = processor.post_process_instance_segmentation(
        outputs, threshold=0.01, target_sizes=SIZES, return_binary_maps=True
    )
    kept = predictions_of(outputs, processor, SIZES, masks=True)
    objects = read_objects(outputs, processor, SIZES, threshold=0.01, masks=True)
    for size, expected, prediction, found in zip(SIZES, maps, kept, objects, strict=True):
        masks = prediction["masks"]
        assert len(masks["masks"]) == len(expected["segments_info"]) > 8  # more pairs with a class than queries
        decoded = [coco_masks.decode({"size": list(size), "counts": counts}) for counts in masks["masks"]]
        np.testing.assert_array_equal(np.stack(decoded) > 0, expected["segmentation"].numpy())
        np.testing.assert_array_equal(found.masks, expected["segmentation"].numpy())
        assert masks["labels"] == [segment["label_id"] for segment in expected["segments_info"]]
        assert masks["scores"] == pytest.approx([each["score"] for each in expected["segments_info"]], abs=1e-5)
        assert found.as_prediction() == masks


def test_evaluation_of_a_detector_has_no_masks(outputs):
    processor = ButdImageProcessor(size={"height": 64, "width": 64})
    boxes_only = SimpleNamespace(logits=outputs.logits, pred_boxes=outputs.pred_boxes, regions=outputs.regions)
    for prediction in predictions_of(boxes_only, processor, SIZES):
        assert set(prediction) == {"boxes", "regions"} and prediction["boxes"]["masks"] is None
