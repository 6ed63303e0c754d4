# SPDX-License-Identifier: Apache-2.0
"""From pictures to objects and regions: what the detection and segmentation models found, in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_utils import ImageInput

from .metrics.average_precision import COMMON_BOXES, average_precision
from .metrics.regions import region_recall
from .modeling.image_processing_butd import ButdImageProcessor
from .modeling.post_processing import ButdPastedObject, pasted_objects


EVALUATION_THRESHOLD = 0.01  # AP counts all that is found; what scores less changes it by less than its noise
MOST_OBJECTS = 100  # per image, as COCO counts them
RECALLED_REGIONS = 36  # as many as the bottom-up features of Anderson et al. have


@dataclass
class ImageObjects:
    """
    Objects in a picture, the most certain first.

    Attributes:
        boxes: `x0, y0, x1, y1` in pixels: (num_objects, 4).
        scores: In [0, 1]: (num_objects,).
        labels: Classes: (num_objects,).
        masks: True on each object, (num_objects, height, width); None if only boxes were asked for.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None

    def as_prediction(self) -> dict[str, Any]:
        """As `butd_hf.metrics` takes it: plain lists, masks as compressed run lengths."""
        prediction: dict[str, Any] = {
            "boxes": np.round(self.boxes.astype(np.float64), 2).tolist(),
            "scores": np.round(self.scores.astype(np.float64), 5).tolist(),
            "labels": self.labels.tolist(),
            "masks": None,
        }
        if self.masks is not None:
            prediction["masks"] = [run_lengths(mask) for mask in self.masks]
        return prediction


@dataclass
class ImageRegions:
    """
    Regions of a picture, the most salient first.

    Attributes:
        boxes: `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        saliency: What ranked them: (num_regions,).
        labels: The class that the selector believes each to be, None if it knows none: (num_regions,).
        attributes: The same of attributes.
    """

    boxes: np.ndarray
    saliency: np.ndarray
    labels: np.ndarray | None = None
    attributes: np.ndarray | None = None


def run_lengths(mask: np.ndarray) -> str:
    """A mask (height, width) as COCO's compressed run lengths."""
    from faster_coco_eval.core import mask as coco_masks

    counts = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def run_lengths_of(found: ButdPastedObject, height: int, width: int) -> str:
    """What `run_lengths` gives of the whole mask of an object (height, width), from the part that it covers alone."""
    from faster_coco_eval.core import mask as coco_masks

    window = found.window.cpu().numpy().T  # (num_columns, num_rows): COCO goes down each column
    beyond = np.zeros((len(window), 1), dtype=np.int8)
    changes = np.diff(window.astype(np.int8), axis=1, prepend=beyond, append=beyond)  # (num_columns, num_rows + 1)
    columns, rows = changes.nonzero()
    ends = (found.left + columns) * height + found.top + rows  # of runs off and on the object, in turn
    # where a run goes down to the bottom and on from the next top, it ends and begins at one place: it does neither
    ends, times = np.unique(ends, return_counts=True)
    counts = np.diff(ends[times == 1], prepend=0, append=height * width)
    counts = counts[: len(counts) - (counts[-1] == 0)].tolist()
    return coco_masks.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"].decode("ascii")


def box_of(found: ButdPastedObject) -> list[float]:
    """The edges `x0, y0, x1, y1` of the outermost pixels of an object."""
    rows, columns = (found.window.any(dim=axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return [
        float(found.left + columns[0]),
        float(found.top + rows[0]),
        float(found.left + columns[-1] + 1),
        float(found.top + rows[-1] + 1),
    ]


def read_objects(
    outputs: Any,
    image_processor: ButdImageProcessor,
    sizes: Sequence[tuple[int, int]],
    *,
    threshold: float,
    mask_threshold: float = 0.5,
    masks: bool = False,
) -> list[ImageObjects]:
    """
    Objects in what a model returned for a batch.

    Args:
        outputs: Of a detection or segmentation model, in evaluation mode.
        image_processor: What belongs to it.
        sizes: Height and width of each picture.
        threshold: Only objects that score higher count.
        mask_threshold: Pixels belong to an object above this probability.
        masks: Whether masks are wanted, which only a segmentation model has. Boxes are then those of the masks.
    """
    if not masks:
        found = image_processor.post_process_object_detection(outputs, threshold=threshold, target_sizes=list(sizes))
        return [
            ImageObjects(
                *(each[name].float().cpu().numpy() for name in ("boxes", "scores")), each["labels"].cpu().numpy()
            )
            for each in found
        ]
    results = []
    pasted = pasted_objects(outputs, threshold, mask_threshold, list(sizes), MOST_OBJECTS)
    for objects, (height, width) in zip(pasted, sizes, strict=True):
        maps = np.zeros((len(objects), height, width), dtype=bool)
        for number, found in enumerate(objects):
            maps[number][found.place] = found.window.cpu().numpy()
        boxes = np.array([box_of(found) for found in objects], dtype=np.float32).reshape(-1, 4)
        scores = np.array([found.score for found in objects], dtype=np.float32)
        labels = np.array([found.label for found in objects], dtype=np.int64)
        results.append(ImageObjects(boxes, scores, labels, maps))
    return results


def read_regions(regions: Any) -> list[ImageRegions]:
    """The regions of each picture of a batch, without padding, from `ButdRegions`."""
    rows = []
    mask = regions.mask.cpu().numpy()
    fields = {"boxes": regions.boxes.float(), "saliency": regions.saliency.float()}
    for name, logits in (("labels", "class_logits"), ("attributes", "attribute_logits")):
        if getattr(regions, logits, None) is not None:
            fields[name] = getattr(regions, logits).argmax(dim=-1)  # (batch_size, num_regions)
    arrays = {name: value.cpu().numpy() for name, value in fields.items()}
    for row, kept in enumerate(mask):
        rows.append(ImageRegions(**{name: value[row, kept] for name, value in arrays.items()}))
    return rows


def prepare_pictures(
    image_processor: ButdImageProcessor, images: Sequence[ImageInput], model: nn.Module
) -> dict[str, torch.Tensor]:
    """What a model sees of pictures, on its device."""
    inputs = image_processor(images=list(images), return_tensors="pt").to(model.device, model.dtype)
    return {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}


@torch.no_grad()
def detect_objects(
    model: nn.Module,
    image_processor: ButdImageProcessor,
    images: Sequence[Any],
    *,
    threshold: float = 0.5,
    mask_threshold: float = 0.5,
    masks: bool = False,
) -> list[tuple[ImageObjects, ImageRegions]]:
    """
    Finds the objects in a batch of PIL images, and the regions that they were found in.

    Args:
        model: A detection or segmentation model in evaluation mode, on any device.
        image_processor: What belongs to it.
        images: PIL images, upright.
        threshold: Only objects that score higher count.
        mask_threshold: Pixels belong to an object above this probability.
        masks: Whether masks are wanted, which only a segmentation model has.
    """
    outputs = model(**prepare_pictures(image_processor, images, model))
    sizes = [(image.height, image.width) for image in images]
    objects = read_objects(
        outputs, image_processor, sizes, threshold=threshold, mask_threshold=mask_threshold, masks=masks
    )
    return list(zip(objects, read_regions(outputs.regions), strict=True))


@torch.no_grad()
def find_regions(model: nn.Module, image_processor: ButdImageProcessor, images: Sequence[Any]) -> list[ImageRegions]:
    """The regions that any model of this package would look at in a batch of pictures."""
    return read_regions(model.base_model.bottom_up(**prepare_pictures(image_processor, images, model)))


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
    """
    What an evaluation keeps of a batch: of each image its objects as `boxes`, in segmentation also as `masks`, each as
    `ImageObjects.as_prediction` writes them, and the boxes of the best `regions` in pixels.
    """
    found = read_objects(outputs, image_processor, sizes, threshold=EVALUATION_THRESHOLD)
    results = []
    pasted = pasted_objects(outputs, EVALUATION_THRESHOLD, 0.5, list(sizes), MOST_OBJECTS) if masks else None
    for row, (regions, (height, width)) in enumerate(zip(read_regions(outputs.regions), sizes, strict=True)):
        result: dict[str, Any] = {"boxes": found[row].as_prediction()}
        if pasted is not None:
            result["masks"] = {
                "boxes": [box_of(one) for one in pasted[row]],
                "scores": [round(one.score, 5) for one in pasted[row]],
                "labels": [one.label for one in pasted[row]],
                "masks": [run_lengths_of(one, height, width) for one in pasted[row]],
            }
        boxes = regions.boxes[:RECALLED_REGIONS] * [width, height, width, height]
        results.append({**result, "regions": boxes.round(2).tolist()})
    return results


def score_predictions(
    predictions: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    *,
    names: Sequence[str],
    masks: bool = False,
    common: int = COMMON_BOXES,
) -> dict[str, float]:
    """
    Scores what `predictions_of` kept of images, given as rows of what `load_detections` returns.

    Returns:
        The scores of `average_precision` of boxes and, in segmentation, of masks, and `recall36`, the class-agnostic
        recall of the best 36 regions at IoU 0.5.
    """
    references = [reference_of(row) for row in rows]
    boxes = [prediction["boxes"] for prediction in predictions]
    scores = average_precision(boxes, references, names=names, common=common)
    if masks:
        segmented = [prediction["masks"] for prediction in predictions]
        scores.update(average_precision(segmented, references, names=names, common=common, masks=True))
    regions = [prediction["regions"] for prediction in predictions]
    scores[f"recall{RECALLED_REGIONS}"] = region_recall(regions, references, num_regions=RECALLED_REGIONS)
    return scores


def prediction_line(row: dict[str, Any], prediction: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What `predictions_of` kept of an image, and what is there, as a line of a predictions file."""
    regions, prediction = prediction["regions"], prediction.get("masks") or prediction["boxes"]
    masks = prediction["masks"] or [None] * len(prediction["boxes"])
    objects = [
        {"label": names[label], "score": score, "box": box, **({"mask": mask} if mask is not None else {})}
        for label, score, box, mask in zip(
            prediction["labels"], prediction["scores"], prediction["boxes"], masks, strict=True
        )
    ]
    there = [
        {"label": names[each["label"]], "box": [round(side, 2) for side in each["box"]], "iscrowd": each["iscrowd"]}
        for each in row["objects"]
    ]
    return {"image_id": row["image_id"], "objects": objects, "references": there, "regions": regions}
