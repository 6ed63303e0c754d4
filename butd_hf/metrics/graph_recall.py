# SPDX-License-Identifier: Apache-2.0
"""At which rank the annotated relations of one image are found, vectorised."""

from collections.abc import Mapping
from typing import Any

import numpy as np


CUTOFFS = (20, 50, 100)  # relations per image that count, as the field reports them
SAME_OBJECT = 0.5  # intersection over union from which two boxes are the same object
FEW_MORE = 4  # times as many relations as count are sorted first
NEVER = np.iinfo(np.int64).max  # rank of a relation that was not predicted


def relation_ranks(
    prediction: Mapping[str, Any], reference: Mapping[str, Any], *, name: str, overlap: float, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 0 of the annotated relations of an image; arguments as in `score_graphs`.

    Args:
        name: Of the image in errors, such as `"[3]"`.
        most: Relations that count.

    Returns:
        Labels of subject, predicate and object (num_relations, 3), each relation once, and ranks (num_relations, 2)
        among the best predicates of all pairs and among all relations, `NEVER` if it is not found.

    Raises:
        ValueError: Shapes don't fit, an object isn't there, or a score is not a number.
    """
    labels, boxes, relations = checked(reference, f"references{name}")
    own_labels, own_boxes, predicted = checked(prediction, f"predictions{name}")
    scores = checked_scores(prediction, len(predicted), f"predictions{name}")
    relations = np.unique(relations[relations[:, 0] != relations[:, 1]], axis=0)
    predicted, of_pair = best_first(predicted, scores, most)
    triples = np.stack([labels[relations[:, 0]], relations[:, 2], labels[relations[:, 1]]], axis=1)
    own_triples = np.stack([own_labels[predicted[:, 0]], predicted[:, 2], own_labels[predicted[:, 1]]], axis=1)
    rows, columns = np.nonzero((triples[:, None] == own_triples).all(axis=2))  # where all three names agree
    annotated, candidates = relations[rows, :2], predicted[columns, :2]  # (num_agreeing, 2): subject and object
    right = (overlaps(boxes[annotated], own_boxes[candidates]) >= overlap).all(axis=1)
    rows, columns = rows[right], columns[right]
    ranks = np.full((len(relations), 2), NEVER)
    constrained = np.where(of_pair, np.cumsum(of_pair) - 1, NEVER)  # (num_predicted,)
    np.minimum.at(ranks[:, 0], rows, constrained[columns])
    np.minimum.at(ranks[:, 1], rows, columns)
    return triples, ranks


def checked(graph: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (n,), boxes (n, 4) and relations (r, 3) of a graph. Raises `ValueError` where they don't fit."""
    labels = np.asarray(graph["labels"], dtype=np.int64).reshape(-1)
    boxes, relations = np.asarray(graph["boxes"], dtype=np.float64), np.asarray(graph["relations"])
    boxes = boxes if boxes.size else boxes.reshape(-1, 4)
    relations = relations if relations.size else relations.reshape(-1, 3)
    if boxes.shape != (len(labels), 4):
        raise ValueError(f"{name}['boxes'] has shape {boxes.shape}, expected {(len(labels), 4)}: one for each label.")
    if relations.ndim != 2 or relations.shape[1] != 3:
        raise ValueError(
            f"{name}['relations'] has shape {relations.shape}, expected (num_relations, 3): subject, object and "
            "predicate."
        )
    relations = relations.astype(np.int64)
    ends = relations[:, :2]
    if len(ends) and not 0 <= ends.min() <= ends.max() < len(labels):
        raise ValueError(
            f"{name}['relations'] has the objects {ends.min()} to {ends.max()}, expected 0 to {len(labels) - 1}."
        )
    return labels, boxes, relations


def checked_scores(prediction: Mapping[str, Any], number: int, name: str) -> np.ndarray:
    """Scores of relations (r,). Raises `ValueError` if they are not as many, or one isn't a number."""
    scores = np.asarray(prediction["relation_scores"], dtype=np.float64).reshape(-1)
    if len(scores) != number:
        raise ValueError(f"{name}['relation_scores'] has {len(scores)} items, expected {number}, one per relation.")
    if np.isnan(scores).any():
        raise ValueError(f"{name}['relation_scores'] has {int(np.isnan(scores).sum())} that are not a number.")
    return scores


def best_first(relations: np.ndarray, scores: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The relations that can count, best first: the `most` best, and of each pair the best, the `most` best of these.

    Returns:
        Relations (num_counting, 3), and which of them are the best of their pair (num_counting,). The first `most` are
        the best of all; those behind them, which only count under graph constraint, are never among them.
    """
    between_two = relations[:, 0] != relations[:, 1]
    relations, scores = relations[between_two], scores[between_two]
    number = FEW_MORE * most
    while True:
        few, own = relations, scores
        if number < len(scores):  # sorting a few is enough if they are of enough pairs
            best = scores >= np.partition(scores, -number)[-number]  # equals come along
            few, own = relations[best], scores[best]
        few = few[np.lexsort((few[:, 2], few[:, 1], few[:, 0], -own))]
        few = few[np.sort(np.unique(few, axis=0, return_index=True)[1])]  # of repetitions the best
        of_pair = np.zeros(len(few), dtype=bool)
        of_pair[np.unique(few[:, :2], axis=0, return_index=True)[1]] = True
        counts = (np.arange(len(few)) < most) | (of_pair & (np.cumsum(of_pair) <= most))
        if number >= len(scores) or of_pair[counts].sum() == most:
            return few[counts], of_pair[counts]
        number *= FEW_MORE


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (..., 4) with others (..., 4), one by one; 1 of equal boxes without area."""
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clip(min=0).prod(axis=-1)
    union = sum((each[..., 2:] - each[..., :2]).clip(min=0).prod(axis=-1) for each in (boxes, others)) - shared
    equal = (boxes == others).all(axis=-1)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), equal)
