# SPDX-License-Identifier: Apache-2.0
"""Recalls of scene graphs, image by image and vectorised."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np


CUTOFFS = (20, 50, 100)  # relations per image that count, as the field reports them
SAME_OBJECT = 0.5  # intersection over union from which two boxes are the same object
FEW_MORE = 4  # times as many relations as count are sorted first
NEVER = np.iinfo(np.int64).max  # rank of a relation that was not predicted
MEASURES = ("recall", "mean_recall", "ng_recall", "zero_shot_recall", "f")


class GraphRecall:
    """
    Recalls of scene graphs.

    A relation is found at rank K if the Kth best of its image has its subject's label, predicate and object's label,
    and both boxes overlap those annotated by half (Lu et al. 2016; Xu et al. 2017). A predicted relation may match
    several annotated ones, as with the usual evaluation of Visual Genome; that of VRD (Lu et al. 2016) lets it match
    one. Overlaps are of continuous boxes; the usual evaluation counts a pixel more. Of equal scores those with the
    lower subject, then object, then predicate come first. Repetitions count once, and relations of an object to itself
    not at all, on both sides. Images without predictions count; those without annotated relations don't.

    Args:
        seen: Subject label, predicate and object label of the training data: the others are zero-shot.
        match: `"overlap"`, or `"place"` where the objects are those annotated, in their order: each is then itself
            and no other of the same label that overlaps it. Overlap is what published figures use, PredCls included.
        overlap: From which boxes match.
        cutoffs: Numbers of relations per image that count.

    Raises:
        ValueError: An argument is none of the possible ones.
    """

    def __init__(
        self,
        *,
        seen: Iterable[Sequence[int]] | None = None,
        match: Literal["overlap", "place"] = "overlap",
        overlap: float = SAME_OBJECT,
        cutoffs: Sequence[int] = CUTOFFS,
    ):
        if match not in ("overlap", "place"):
            raise ValueError(f"match must be 'overlap' or 'place', got {match!r}.")
        if not cutoffs or min(cutoffs) < 1:
            raise ValueError(f"cutoffs must be positive numbers, got {cutoffs!r}.")
        self.seen = None if seen is None else {tuple(map(int, triple)) for triple in seen}
        self.match = match
        self.overlap = overlap
        self.cutoffs = tuple(cutoffs)
        self.num_images = 0
        self.ranks: list[np.ndarray] = []  # each (num_relations, 5): image, predicate, both ranks, zero-shot

    def add(self, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
        """
        Adds an image.

        Args:
            prediction: `labels` (n,), `boxes` (n, 4) as `x0, y0, x1, y1`, `relations` (r, 3) as subject, object and
                predicate, and `relation_scores` (r,). Recall without graph constraint wants all predicates of each
                pair among the relations; with the best of each only, it is the same as with constraint.
            reference: `labels`, `boxes` in the same unit, and `relations`.

        Raises:
            ValueError: Shapes don't fit, an object isn't there, or a score is not a number.
        """
        image, self.num_images = self.num_images, self.num_images + 1
        labels, boxes, relations = checked(reference, f"references[{image}]")
        own_labels, own_boxes, predicted = checked(prediction, f"predictions[{image}]")
        scores = checked_scores(prediction, len(predicted), f"predictions[{image}]")
        relations = np.unique(relations[relations[:, 0] != relations[:, 1]], axis=0)
        if len(relations) == 0:
            return
        if self.match == "place" and len(own_labels) != len(labels):
            raise ValueError(
                f"predictions[{image}] has {len(own_labels)} objects, expected the {len(labels)} of its reference "
                "because match='place'."
            )
        predicted, of_pair = best_first(predicted, scores, max(self.cutoffs))
        triples = np.stack([labels[relations[:, 0]], relations[:, 2], labels[relations[:, 1]]], axis=1)
        own_triples = np.stack([own_labels[predicted[:, 0]], predicted[:, 2], own_labels[predicted[:, 1]]], axis=1)
        rows, columns = np.nonzero((triples[:, None] == own_triples).all(axis=2))  # where all three names agree
        annotated, candidates = relations[rows, :2], predicted[columns, :2]  # (num_agreeing, 2): subject and object
        if self.match == "place":
            right = (annotated == candidates).all(axis=1)
        else:
            right = (overlaps(boxes[annotated], own_boxes[candidates]) >= self.overlap).all(axis=1)
        rows, columns = rows[right], columns[right]
        ranks = np.full((2, len(relations)), NEVER)
        constrained = np.where(of_pair, np.cumsum(of_pair) - 1, NEVER)  # (num_predicted,)
        np.minimum.at(ranks[0], rows, constrained[columns])
        np.minimum.at(ranks[1], rows, columns)
        new = [self.seen is not None and tuple(triple) not in self.seen for triple in triples.tolist()]
        entries = [np.full(len(relations), image), relations[:, 2], *ranks, np.array(new, dtype=np.int64)]
        self.ranks.append(np.stack(entries, axis=1))

    def scores(self, predicates: Sequence[str] | None = None) -> dict[str, float]:
        """
        Recalls in 0..100, each `<measure>_<K>_<average>`; none if no image has an annotated relation.

        Measures are `recall` (R@K, with graph constraint: the best predicate of each pair), `mean_recall` (mR@K, the
        mean over the predicates that are annotated), `ng_recall` (ng-R@K, without graph constraint),
        `zero_shot_recall` (of triples that training never saw, if there are any) and `f` (F@K, the harmonic mean of R
        and mR). Averages are over `triples`, as with VRD (Lu et al. 2016), or over `images` that have some, as with
        Visual Genome (Xu et al. 2017). With the names of `predicates` also the `recall_<K>_predicate_<name>` of each
        annotated one, over its triples.
        """
        if not self.ranks:
            return {}
        image, predicate, constrained, free, new = np.concatenate(self.ranks).T
        unseen, scores = new.astype(bool), {}
        for average, group in (("triples", np.zeros_like(image)), ("images", image)):
            found: dict[tuple[str, int], float] = {}
            for cutoff in self.cutoffs:
                hits = constrained < cutoff
                found["recall", cutoff] = recall = mean_of_groups(hits, group)
                found["mean_recall", cutoff] = mean = mean_recall(hits, predicate, group)
                found["ng_recall", cutoff] = mean_of_groups(free < cutoff, group)
                if unseen.any():
                    found["zero_shot_recall", cutoff] = mean_of_groups(hits[unseen], group[unseen])
                found["f", cutoff] = 2 * recall * mean / (recall + mean) if recall + mean > 0 else 0.0
            for measure, cutoff in sorted(found, key=lambda key: (MEASURES.index(key[0]), key[1])):
                scores[f"{measure}_{cutoff}_{average}"] = 100 * found[measure, cutoff]
        for number in np.unique(predicate).tolist() if predicates is not None else ():
            for cutoff in self.cutoffs:
                share = (constrained[predicate == number] < cutoff).mean()
                scores[f"recall_{cutoff}_predicate_{predicates[number]}"] = 100 * float(share)
        return scores


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
    """
    The relations that can count, best first: the `most` best, and of each pair the best, the `most` best of these.

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


def mean_of_groups(hits: np.ndarray, group: np.ndarray) -> float:
    """The mean over groups of the share of hits in each."""
    _, member = np.unique(group, return_inverse=True)
    return float((np.bincount(member, weights=hits) / np.bincount(member)).mean())


def mean_recall(hits: np.ndarray, predicate: np.ndarray, group: np.ndarray) -> float:
    """The mean over predicates of the mean over groups that have it of the share of hits among its relations."""
    return float(
        np.mean([mean_of_groups(hits[rows], group[rows]) for rows in predicate == np.unique(predicate)[:, None]])
    )


__all__ = ["CUTOFFS", "SAME_OBJECT", "GraphRecall"]
