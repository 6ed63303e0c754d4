# SPDX-License-Identifier: Apache-2.0
"""Class-agnostic recall of regions (Hosang et al. 2015, arXiv 1502.05082)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.ops import box_iou


def region_recall(
    predictions: Sequence[Sequence[Sequence[float]]],
    references: Sequence[Mapping[str, Any]],
    *,
    num_regions: int = 36,
    threshold: float = 0.5,
) -> float:
    """The share of annotated objects, crowds left out, that one of the best regions of their image covers.

    Args:
        predictions: Of each image its boxes `x0, y0, x1, y1`, the best first.
        references: Of each image `boxes` in the same units, and optional `iscrowd`.
        num_regions: Regions of an image that count.
        threshold: Intersection over union from which a region covers an object.

    Returns:
        In 0..100; not-a-number if there are no objects.

    Raises:
        ValueError: There is not one prediction for each image.
    """
    if len(predictions) != len(references):
        raise ValueError(f"got regions of {len(predictions)} images and {len(references)} references.")
    covered, count = 0, 0
    for boxes, reference in zip(predictions, references, strict=True):
        objects = torch.as_tensor(reference["boxes"], dtype=torch.float64).reshape(-1, 4)
        if reference.get("iscrowd") is not None:
            objects = objects[~torch.as_tensor(reference["iscrowd"], dtype=torch.bool).reshape(-1)]
        regions = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)[:num_regions]
        count += len(objects)
        if len(objects) and len(regions):
            covered += int((box_iou(objects, regions).amax(dim=1) >= threshold).sum())
    return 100 * covered / count if count else float("nan")
