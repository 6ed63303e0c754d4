# SPDX-License-Identifier: Apache-2.0
"""Average precision behind the interface of the `evaluate` library."""

from typing import Any

import datasets
import evaluate
from datasets import List, Value

from .average_precision import average_precision


_DESCRIPTION = """
COCO's average precision of boxes and, where their masks are known, of masks, computed by faster-coco-eval.
"""

_CITATION = """
@inproceedings{lin2014microsoft,
  title     = {Microsoft {COCO}: Common Objects in Context},
  author    = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and
               Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle = {ECCV},
  year      = {2014}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (list of dicts): of each image `boxes` (x0, y0, x1, y1 in pixels), `scores`, `labels`, and `masks`
        (compressed run lengths) or None.
    references (list of dicts): of each image `boxes`, `labels`, `iscrowd`, `masks` (None where nobody drew one) and
        `size` (height, width).
    names (list of str): of the classes.
    masks (bool): also score masks.
    common (int): boxes that a class needs in order to count for box_ap50_common.

Returns:
    box_ap, box_ap50, box_ap75, box_ap50_common and box_ap50_<class> in 0..100; with masks the same as mask_...

Example:
    >>> metric = DetectionMetric()
    >>> found = {"boxes": [[0, 0, 9, 9]], "scores": [0.9], "labels": [0], "masks": None}
    >>> image = {"boxes": [[0, 0, 9, 9]], "labels": [0], "iscrowd": [0], "masks": None, "size": [20, 20]}
    >>> scores = metric.compute(predictions=[found], references=[image], names=["dog"])
"""

BOXES = {"boxes": List(List(Value("float64"))), "labels": List(Value("int64")), "masks": List(Value("string"))}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class DetectionMetric(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": {**BOXES, "scores": List(Value("float64"))},
                    "references": {**BOXES, "iscrowd": List(Value("int64")), "size": List(Value("int64"))},
                }
            ),
            codebase_urls=["https://github.com/MiXaiLL76/faster_coco_eval"],
        )

    def _compute(self, predictions: list[dict], references: list[dict], **options: Any) -> dict[str, float]:
        masks = options.pop("masks", False)
        scores = average_precision(predictions, references, **options)
        if masks:
            scores.update(average_precision(predictions, references, masks=True, **options))
        return scores
