# SPDX-License-Identifier: Apache-2.0
"""The metrics behind the interface of the `evaluate` library."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import evaluate
from datasets import Features, List, Value

from .average_precision import average_precision
from .captioning import CaptionMetrics
from .inputs import check_captions
from .question_answering import score_answers
from .regions import region_recall
from .scene_graphs import score_graphs


TEXTS = Features(predictions=Value("string"), references=List(Value("string")))
NUMBERS, SCORES, BOXES = List(Value("int64")), List(Value("float64")), List(List(Value("float64")))
OBJECTS = {"boxes": BOXES, "labels": NUMBERS, "masks": List(Value("string"))}
GRAPH = {"labels": NUMBERS, "boxes": BOXES, "relations": List(NUMBERS)}


class TaskMetric(evaluate.Metric):
    """A metric of one task; its scoring function documents arguments, options and results."""

    scorer: ClassVar[Callable[..., Any]]
    source: ClassVar[str]  # the publication
    rows: ClassVar[Features]  # of `predictions` and `references`

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=self.source,
            inputs_description=self.scorer.__doc__,
            features=self.rows,
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **options: Any) -> None:
        """Keeps one image's prediction and reference until `compute`."""
        self.add_batch(predictions=[prediction], references=[reference], **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **options: Any) -> None:
        """Keeps the predictions and references of a batch until `compute`."""
        if self.rows is TEXTS:  # the library would turn numbers into text and report the rest as an Arrow error
            check_captions(predictions, references)
        super().add_batch(predictions=predictions, references=references, **options)

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float] | None:
        """Scores what is given here or, without predictions and references, what was added before."""
        if predictions is None and references is None and len(self) == 0:
            raise ValueError("predictions is empty: give some to `compute`, or to `add_batch` before it")
        return super().compute(predictions=predictions, references=references, **options)

    def _compute(self, *, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        return type(self).scorer(predictions, references, **options)


class CaptioningMetric(TaskMetric):
    """BLEU-1 to 4, ROUGE-L and CIDEr as coco-caption computes them, but without Java; METEOR where Java is.

    Options of `compute` are the fields of `CaptionMetrics`.
    """

    scorer = CaptionMetrics.compute
    source = "X. Chen et al., Microsoft COCO Captions: Data Collection and Evaluation Server, arXiv 1504.00325, 2015"
    rows = TEXTS

    def _compute(self, *, predictions: Sequence[str], references: Sequence[Any], **options: Any) -> dict[str, float]:
        return CaptionMetrics(**options).compute(predictions, references)


class DetectionMetric(TaskMetric):
    """COCO's average precision of boxes and, with `masks=True`, of masks too, computed by faster-coco-eval."""

    scorer = average_precision
    source = "T.-Y. Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014, arXiv 1405.0312"
    rows = Features(
        predictions={**OBJECTS, "scores": SCORES}, references={**OBJECTS, "iscrowd": NUMBERS, "size": NUMBERS}
    )

    def _compute(
        self, *, predictions: list[dict], references: list[dict], masks: bool = False, **options: Any
    ) -> dict[str, float]:
        scores = average_precision(predictions, references, **options)
        return scores | (average_precision(predictions, references, masks=True, **options) if masks else {})


class RegionRecallMetric(TaskMetric):
    """Class-agnostic recall of regions, `recall36` or whatever `num_regions` is; predictions have `boxes`."""

    scorer = region_recall
    source = "J. Hosang et al., What Makes for Effective Detection Proposals?, TPAMI 2015, arXiv 1502.05082"
    rows = Features(predictions={"boxes": BOXES}, references={"boxes": BOXES, "iscrowd": NUMBERS})

    def _compute(
        self, *, predictions: list[dict], references: list[dict], num_regions: int = 36, threshold: float = 0.5
    ) -> dict[str, float]:
        boxes = [each["boxes"] for each in predictions]
        recall = region_recall(boxes, references, num_regions=num_regions, threshold=threshold)
        return {f"recall{num_regions}": recall}


class VqaMetric(TaskMetric):
    """Accuracy of answers as the official evaluation of VQA v2 counts it, exact match, and WUPS where WordNet is."""

    scorer = score_answers
    source = "S. Antol et al., VQA: Visual Question Answering, ICCV 2015, arXiv 1505.00468"
    rows = TEXTS


class SceneGraphMetric(TaskMetric):
    """Recalls of scene graphs: R@K, mR@K, ng-R@K, zero-shot R@K and F@K, over triples and over images."""

    scorer = score_graphs
    source = (
        "C. Lu et al., Visual Relationship Detection with Language Priors, ECCV 2016, arXiv 1608.00187; "
        "D. Xu et al., Scene Graph Generation by Iterative Message Passing, CVPR 2017, arXiv 1701.02426"
    )
    rows = Features(predictions={**GRAPH, "relation_scores": SCORES}, references=GRAPH)
