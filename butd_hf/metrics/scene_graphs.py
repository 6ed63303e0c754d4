# SPDX-License-Identifier: Apache-2.0
"""Recalls of scene graphs: R@K, mR@K, recall without graph constraint, zero-shot recall and F@K."""

from collections.abc import Mapping, Sequence
from typing import Any

from .graph_recall import GraphRecall


def score_graphs(
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    *,
    predicates: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, float]:
    """
    Scores scene graphs. Images without predictions count.

    Args:
        predictions: Of each image `labels`, `boxes` (x0, y0, x1, y1), `relations` (subject, object, predicate) and
            `relation_scores`, as `post_process_scene_graph_generation` returns them.
        references: Of each image `labels`, `boxes` in the same unit, and `relations`.
        predicates: Their names, for the recall of each.
        options: `seen`, `match`, `overlap` and `cutoffs` of `GraphRecall`.

    Returns:
        The recalls of `GraphRecall.scores`, such as `recall_50_triples` and `mean_recall_50_images`, in 0..100; with
        `predicates` also `recall_50_predicate_on`, ...: R@K of a predicate over its triples.

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
    if not recall.ranks:
        raise ValueError(f"references has no relation in {len(references)} images: there is nothing to score.")
    return recall.scores(predicates)
