# SPDX-License-Identifier: Apache-2.0
"""Objects that detection and segmentation models find, in pixels, and their evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.ops import masks_to_boxes

from ..modeling.image_processing_butd import ButdImageProcessor
from .regions import image_inputs, read_regions


EVALUATION_THRESHOLD = 0.01  # average precision counts every object; lower scores change it by less than its noise
RECALLED_REGIONS = 36  # as many as the bottom-up features of Anderson et al. have


@dataclass
class ImageObjects:
    """Objects in an image, highest score first.

    Attributes:
        boxes: `x0, y0, x1, y1` in pixels: (num_objects, 4).
        scores: In [0, 1]: (num_objects,).
        labels: Classes: (num_objects,).
        masks: True on each object, (num_objects, height, width); None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def as_prediction(self) -> dict[str, Any]:
        """As `butd_hf.metrics` takes it: plain lists, masks as compressed run lengths."""
        return {
            "boxes": np.round(self.boxes.astype(np.float64), 2).tolist(),
            "scores": np.round(self.scores.astype(np.float64), 5).tolist(),
            "labels": self.labels.tolist(),
            "masks": None if self.masks is None else [run_lengths(mask) for mask in self.masks],
        }


def run_lengths(mask: np.ndarray) -> str:
    """A mask (height, width) as COCO's compressed run lengths."""
    from faster_coco_eval.core import mask as coco_masks

    counts = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def read_objects(
    outputs: Any,
    image_processor: ButdImageProcessor,
    sizes: Sequence[tuple[int, int]],
    *,
    threshold: float,
    mask_threshold: float = 0.5,
    masks: bool = False,
) -> list[ImageObjects]:
    """Objects in what a detection or segmentation model, in evaluation mode, returned for a batch.

    Args:
        outputs: Of the model.
        image_processor: The model's.
        sizes: Height and width of each image.
        threshold: Only objects that score higher.
        mask_threshold: Pixels belong to an object above this probability.
        masks: Whether to return masks, which needs a segmentation model. Boxes are then those of the masks.
    """
    options = {"threshold": threshold, "target_sizes": list(sizes)}
    if not masks:
        found = image_processor.post_process_object_detection(outputs, **options)
        names = ("boxes", "scores", "labels")
        return [ImageObjects(*(each[name].cpu().numpy() for name in names)) for each in found]
    results = []
    for each in image_processor.post_process_instance_segmentation(
        outputs, mask_threshold=mask_threshold, return_binary_maps=True, **options
    ):
        maps, segments = each["segmentation"].cpu(), each["segments_info"]
        boxes = masks_to_boxes(maps).numpy() + np.array([0, 0, 1, 1], dtype=np.float32)  # edges, not pixels
        scores = np.array([segment["score"] for segment in segments], dtype=np.float32)
        labels = np.array([segment["label_id"] for segment in segments], dtype=np.int64)
        results.append(ImageObjects(boxes, scores, labels, maps.numpy()))
    return results


@torch.no_grad()
def detect_objects(
    model: nn.Module,
    image_processor: ButdImageProcessor,
    images: Sequence[Any],
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    masks: bool = False,
) -> list[ImageObjects]:
    """The objects in a batch of PIL images; see `read_objects` for the arguments."""
    outputs = model(**image_inputs(model, image_processor, images))
    sizes = [(image.height, image.width) for image in images]
    options = {"threshold": threshold, "mask_threshold": mask_threshold, "masks": masks}
    return read_objects(outputs, image_processor, sizes, **options)


def reference_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row of what `load_detections` returns, as `butd_hf.metrics` takes it."""
    objects = row["objects"]
    return {
        "boxes": [each["box"] for each in objects],
        "labels": [each["label"] for each in objects],
        "iscrowd": [int(each["iscrowd"]) for each in objects],
        "masks": [each["mask"] for each in objects],
        "size": [row["height"], row["width"]],
    }


def predictions_of(
    outputs: Any, image_processor: ButdImageProcessor, sizes: Sequence[tuple[int, int]], *, masks: bool = False
) -> list[dict[str, Any]]:
    """What an evaluation keeps of a batch: of each image its objects as `boxes`, in segmentation also as `masks`, each
    as `ImageObjects.as_prediction` writes them, and the boxes of the best `regions` in pixels.
    """
    kinds = {"boxes": False, "masks": True} if masks else {"boxes": False}
    found = {
        kind: read_objects(outputs, image_processor, sizes, threshold=EVALUATION_THRESHOLD, masks=with_masks)
        for kind, with_masks in kinds.items()
    }
    results = []
    for row, (regions, (height, width)) in enumerate(zip(read_regions(outputs.regions), sizes, strict=True)):
        boxes = regions.boxes[:RECALLED_REGIONS] * [width, height, width, height]
        results.append({kind: objects[row].as_prediction() for kind, objects in found.items()})
        results[-1]["regions"] = boxes.round(2).tolist()
    return results


def score_predictions(
    predictions: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    *,
    names: Sequence[str],
    common: int,
    masks: bool = False,
) -> dict[str, float]:
    """Scores what `predictions_of` kept of images, given as rows of what `load_detections` returns.

    Args:
        common: How many boxes a class needs to count for the mean over common classes.

    Returns:
        The scores of `average_precision` of boxes and, in segmentation, of masks, and `recall36`, the class-agnostic
        recall of the best 36 regions at IoU 0.5.
    """
    from ..metrics.average_precision import average_precision
    from ..metrics.regions import region_recall

    references = [reference_of(row) for row in rows]
    scores: dict[str, float] = {}
    for kind in ("boxes", "masks") if masks else ("boxes",):
        found = [prediction[kind] for prediction in predictions]
        scores |= average_precision(found, references, names=names, common=common, masks=kind == "masks")
    regions = [prediction["regions"] for prediction in predictions]
    scores[f"recall{RECALLED_REGIONS}"] = region_recall(regions, references, num_regions=RECALLED_REGIONS)
    return scores


def prediction_line(row: dict[str, Any], prediction: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What `predictions_of` kept of an image, and what is there, as a line of a predictions file."""
    found = prediction.get("masks") or prediction["boxes"]
    objects = [
        {"label": names[label], "score": score, "box": box}
        for label, score, box in zip(found["labels"], found["scores"], found["boxes"], strict=True)
    ]
    for each, mask in zip(objects, found["masks"] or [], strict=False):
        each["mask"] = mask
    references = [
        {"label": names[each["label"]], "box": [round(side, 2) for side in each["box"]], "iscrowd": each["iscrowd"]}
        for each in row["objects"]
    ]
    regions = prediction["regions"]
    return {"image_id": row["image_id"], "objects": objects, "references": references, "regions": regions}
