# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision of boxes and masks, computed by faster-coco-eval."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


COMMON_BOXES = 50  # classes with fewer boxes have an average precision that is mostly chance


def average_precision(
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    *,
    names: Sequence[str],
    masks: bool = False,
    common: int = COMMON_BOXES,
    per_class: bool = True,
) -> dict[str, float]:
    """Scores the objects that were detected in images.

    Masks are scored on the objects whose mask was drawn. An object without one is known to be there, so what is
    detected within its box counts as neither right nor wrong, as COCO treats crowds.

    Args:
        predictions: Of each image `boxes` (`x0, y0, x1, y1` in pixels), `scores`, `labels`, and `masks` (compressed
            run lengths) if those are scored.
        references: Of each image `boxes`, `labels`, `iscrowd`, `masks` (None where nobody drew one) and `size`
            (height, width).
        names: Of the classes, in the order of their labels.
        masks: Score masks instead of boxes.
        common: Boxes that a class needs in order to count for `..._ap50_common`.
        per_class: Whether to add the AP50 of each class.

    Returns:
        In 0..100, each with the prefix `box_` or `mask_`: `ap` (mean over IoU 0.5 to 0.95), `ap50`, `ap75`,
        `ap50_common` (mean over the classes with at least `common` objects) and `ap50_<class>`. Not-a-number where
        there are no objects.

    Raises:
        ValueError: A prediction or reference does not fit; the message names the image.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    check_detections(predictions, references, len(names), masks)
    images, annotations, detections = [], [], []
    for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True), start=1):
        height, width = (int(side) for side in reference["size"])
        images.append({"id": number, "height": height, "width": width})
        crowds = reference.get("iscrowd") or [0] * len(reference["boxes"])
        for entry, crowd in zip(coco_entries(reference, number, (height, width), masks), crowds, strict=True):
            ignored = int(bool(crowd) or (masks and isinstance(entry["segmentation"], list)))
            annotations.append({**entry, "id": len(annotations) + 1, "iscrowd": ignored})
        entries = coco_entries(prediction, number, (height, width), masks)
        scored = zip(entries, prediction["scores"], strict=True)
        detections += [{**entry, "score": float(score)} for entry, score in scored]

    categories = [{"id": label, "name": name} for label, name in enumerate(names)]
    truth = COCO({"images": images, "annotations": annotations, "categories": categories})
    kind = "segm" if masks else "bbox"
    evaluation = COCOeval_faster(truth, truth.loadRes(detections), kind, print_function=lambda *_: None)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [evaluation.params.areaRng[0]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    # (10 thresholds, 101 recalls, classes, 1 area, 3 limits of detections); -1 where there are no objects
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    of_class = np.where(precision > -1, precision, np.nan).mean(axis=1) * 100  # (10, num_classes)
    counts = Counter(entry["category_id"] for entry in annotations if not entry["iscrowd"])
    many = [label for label in range(len(names)) if counts[label] >= common]
    prefix = "mask" if masks else "box"
    scores = {
        f"{prefix}_ap": mean(of_class),
        f"{prefix}_ap50": mean(of_class[0]),
        f"{prefix}_ap75": mean(of_class[5]),
        f"{prefix}_ap50_common": mean(of_class[0, many]),
    }
    if per_class:
        scores.update({f"{prefix}_ap50_{names[label]}": float(of_class[0, label]) for label in sorted(counts)})
    return scores


def mean(values: np.ndarray) -> float:
    """The mean of the values that are numbers; not-a-number if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def coco_entries(objects: Mapping[str, Any], image: int, size: tuple[int, int], masks: bool) -> list[dict[str, Any]]:
    """Boxes of an image and their masks as COCO writes them; the mask of the whole box if there is none."""
    shapes = (masks and objects.get("masks")) or [None] * len(objects["boxes"])
    entries = []
    for box, label, mask in zip(objects["boxes"], objects["labels"], shapes, strict=True):
        left, top, right, bottom = (float(value) for value in box)
        width, height = max(right - left, 0.0), max(bottom - top, 0.0)
        outline = [[left, top, right, top, right, bottom, left, bottom]]
        shape = outline if mask is None else {"size": list(size), "counts": mask}
        entry = {"image_id": image, "category_id": int(label), "bbox": [left, top, width, height]}
        entries.append({**entry, "segmentation": shape, "area": width * height})
    return entries


def check_detections(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]], num_labels: int, masks: bool
) -> None:
    """Raises `ValueError` if there is nothing to score, or something does not fit together."""
    if len(predictions) != len(references):
        raise ValueError(f"got {len(predictions)} predictions and {len(references)} references, expected as many.")
    if len(references) == 0:
        raise ValueError("references is empty: expected at least one image.")
    predicted = [(f"predictions[{number}]", entry) for number, entry in enumerate(predictions)]
    annotated = [(f"references[{number}]", entry) for number, entry in enumerate(references)]
    for name, entry in predicted + annotated:
        scored = ("scores", *(["masks"] if masks else [])) if name.startswith("p") else ()
        for field in ("boxes", "labels", *scored):
            if entry.get(field) is None:
                raise ValueError(f"{name} has no {field!r}, but {sorted(entry)}.")
            if len(entry[field]) != len(entry["boxes"]):
                raise ValueError(f"{name} has {len(entry[field])} {field} for {len(entry['boxes'])} boxes.")
        if wrong := [label for label in entry["labels"] if not 0 <= label < num_labels]:
            raise ValueError(f"{name} has the label {wrong[0]}, expected 0 to {num_labels - 1}.")
        if not np.isfinite(np.asarray(entry["boxes"], dtype=float)).all():
            raise ValueError(f"{name} has a box that is not finite.")
    for name, entry in annotated:
        if entry.get("size") is None or len(entry["size"]) != 2:
            raise ValueError(f"{name} must have 'size' (height, width), got {entry.get('size')!r}.")
