# SPDX-License-Identifier: Apache-2.0
"""Recalls of scene graphs behind the interface of the `evaluate` library."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
from datasets import List, Value

from .graph_recall import GraphRecall


_DESCRIPTION = """
Recalls of scene graphs: R@K, mR@K, recall without graph constraint, zero-shot recall, and F@K, over triples and over
images. Images in which nothing was found count.
"""

_CITATION = """
@inproceedings{lu2016visual,
  title     = {Visual Relationship Detection with Language Priors},
  author    = {Lu, Cewu and Krishna, Ranjay and Bernstein, Michael and Fei-Fei, Li},
  booktitle = {ECCV},
  year      = {2016}
}
@inproceedings{xu2017scene,
  title     = {Scene Graph Generation by Iterative Message Passing},
  author    = {Xu, Danfei and Zhu, Yuke and Choy, Christopher B. and Fei-Fei, Li},
  booktitle = {CVPR},
  year      = {2017}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (list of dicts): of each image `labels`, `boxes` (x0, y0, x1, y1), `relations` (subject, object,
        predicate) and `relation_scores`, as `post_process_scene_graph_generation` returns them.
    references (list of dicts): of each image `labels`, `boxes` in the same unit, and `relations`.
    seen (list of triples, optional): subject label, predicate and object label of the training data.
    match (str): "overlap", or "place" where predictions are about the annotated objects, in their order.
    overlap (float): intersection over union from which boxes match, 0.5 by default.
    cutoffs (list of int): 20, 50 and 100 by default.
    predicates (list of str, optional): their names; the recall of each is then told, too.

Returns:
    recall_50_triples, recall_50_images, ...: R@K over triples (VRD) and over images (Visual Genome), in 0..100.
    mean_recall_..., ng_recall_..., zero_shot_recall_... (if there are such triples), f_...: see GraphRecall.scores.
    recall_50_predicate_on, ...: R@K of a predicate over its triples, with `predicates`.

Example:
    >>> metric = SceneGraphMetric()
    >>> graph = {"labels": [0, 1], "boxes": [[0, 0, 5, 5], [0, 4, 9, 9]], "relations": [[0, 1, 2]]}
    >>> scores = metric.compute(predictions=[{**graph, "relation_scores": [0.9]}], references=[graph])
"""

GRAPH = {
    "labels": List(Value("int64")),
    "boxes": List(List(Value("float64"))),
    "relations": List(List(Value("int64"))),
}


def score_graphs(
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    *,
    predicates: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, float]:
    """
    Scores scene graphs; arguments and results are those of `SceneGraphMetric`.

    Raises:
        ValueError: There is nothing to score, lengths differ, or a graph doesn't fit; the message says where.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must have the same length, got {len(predictions)} and {len(references)}."
        )
    recall = GraphRecall(**options)
    for prediction, reference in zip(predictions, references, strict=True):
        recall.add(prediction, reference)
    scores = recall.scores()
    if not scores:
        raise ValueError(f"references has no relation in {len(references)} images: there is nothing to find.")
    for number, found in recall.of_predicates().items() if predicates is not None else ():
        for cutoff in recall.cutoffs:
            scores[f"recall_{cutoff}_predicate_{predicates[number]}"] = found[f"recall_{cutoff}"]
    return scores


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class SceneGraphMetric(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": {**GRAPH, "relation_scores": List(Value("float64"))}, "references": GRAPH}
            ),
        )

    def _compute(self, predictions: list[dict], references: list[dict], **options: Any) -> dict[str, float]:
        return score_graphs(predictions, references, **options)


__all__ = ["SceneGraphMetric", "score_graphs"]
