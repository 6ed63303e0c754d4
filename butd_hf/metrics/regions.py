# SPDX-License-Identifier: Apache-2.0
"""How many annotated objects the best regions of an image cover, whatever their class."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import torch
from datasets import List, Value
from torchvision.ops import box_iou


_DESCRIPTION = """
Class-agnostic recall of regions: the share of annotated objects that one of the k best regions of their image covers.
"""

_CITATION = """
@article{hosang2015what,
  title   = {What Makes for Effective Detection Proposals?},
  author  = {Hosang, Jan and Benenson, Rodrigo and Doll{\\'a}r, Piotr and Schiele, Bernt},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year    = {2015}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (list of dicts): of each image `boxes` (x0, y0, x1, y1), the best first.
    references (list of dicts): of each image `boxes` in the same units, and `iscrowd`.
    num_regions (int): regions that count, 36 by default.
    threshold (float): least intersection over union, 0.5 by default.

Returns:
    recall36, or whatever `num_regions` is: in 0..100.
"""


def region_recall(
    predictions: Sequence[Sequence[Sequence[float]]],
    references: Sequence[Mapping[str, Any]],
    *,
    num_regions: int = 36,
    threshold: float = 0.5,
) -> float:
    """
    The share of objects, crowds left out, that one of the best regions overlaps by at least `threshold`.

    Args:
        predictions: Of each image its boxes `x0, y0, x1, y1`, the best first.
        references: Of each image `boxes` in the same units, and optional `iscrowd`.
        num_regions: Regions of an image that count.
        threshold: Intersection over union.

    Returns:
        In 0..100; not-a-number if there are no objects.

    Raises:
        ValueError: There is not one prediction for each image.
    """
    if len(predictions) != len(references):
        raise ValueError(f"got regions of {len(predictions)} images and {len(references)} references.")
    covered, objects = 0, 0
    for boxes, reference in zip(predictions, references, strict=True):
        wanted = torch.as_tensor(reference["boxes"], dtype=torch.float64).reshape(-1, 4)
        crowds = reference.get("iscrowd")
        if crowds is not None:
            wanted = wanted[~torch.as_tensor(crowds, dtype=torch.bool).reshape(-1)]
        regions = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4)[:num_regions]
        objects += len(wanted)
        if len(wanted) and len(regions):
            covered += int((box_iou(wanted, regions).amax(dim=1) >= threshold).sum())
    return 100 * covered / objects if objects else float("nan")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class RegionRecallMetric(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        boxes = List(List(Value("float64")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": {"boxes": boxes}, "references": {"boxes": boxes, "iscrowd": List(Value("int64"))}}
            ),
        )

    def _compute(
        self, predictions: list[dict], references: list[dict], num_regions: int = 36, threshold: float = 0.5
    ) -> dict[str, float]:
        boxes = [each["boxes"] for each in predictions]
        recall = region_recall(boxes, references, num_regions=num_regions, threshold=threshold)
        return {f"recall{num_regions}": recall}
