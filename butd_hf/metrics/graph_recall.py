# SPDX-License-Identifier: Apache-2.0
"""How many annotated relations are among the best that were found: the recalls of scene graphs, vectorised."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np


CUTOFFS = (20, 50, 100)  # relations per image that may be told, as the field reports them
SAME_OBJECT = 0.5  # overlap (intersection over union) from which a box is about an annotated object
FEW_MORE = 4  # times as many relations as count are sorted first
NEVER = np.iinfo(np.int64).max  # rank of what was not found
MEASURES = ("recall", "mean_recall", "ng_recall", "zero_shot_recall", "f")
AVERAGES = ("triples", "images")


class GraphRecall:
    """
    Recalls of scene graphs, image by image.

    A relation is found at rank K if the Kth best of its image has its subject's label, predicate and object's label,
    and both boxes overlap those annotated by half (Lu et al. 2016; Xu et al. 2017). One that is told may find several
    annotated ones, as with the usual evaluation of Visual Genome; that of VRD (Lu et al. 2016) lets it find one.
    Overlaps are of continuous boxes; the usual evaluation counts a pixel more. Of equal scores those with the lower
    subject, then object, then predicate come first. Repetitions count once, and relations of an object to itself not
    at all, on both sides. Images in which nothing was found count; those without annotated relations ask for nothing.

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
        self.found: list[np.ndarray] = []  # each (num_relations, 5): image, predicate, both ranks, zero-shot

    def add(self, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
        """
        Adds an image.

        Args:
            prediction: `labels` (n,), `boxes` (n, 4) as `x0, y0, x1, y1`, `relations` (r, 3) as subject, object and
                predicate, and `relation_scores` (r,). With all predicates of each pair among the relations, recall
                without graph constraint is what it is called; with the best of each only, it is the same as with.
            reference: `labels`, `boxes` in the same unit, and `relations`.

        Raises:
            ValueError: Shapes don't fit, an object isn't there, or a score is not a number.
        """
        labels, boxes, relations = checked(reference, f"references[{self.num_images}]")
        told_labels, told_boxes, told = checked(prediction, f"predictions[{self.num_images}]")
        scores = checked_scores(prediction, len(told), f"predictions[{self.num_images}]")
        image, self.num_images = self.num_images, self.num_images + 1
        relations = np.unique(relations[relations[:, 0] != relations[:, 1]], axis=0)
        if len(relations) == 0:
            return
        if self.match == "place" and len(told_labels) != len(labels):
            raise ValueError(
                f"predictions[{image}] has {len(told_labels)} objects, expected the {len(labels)} of its reference "
                "because match='place'."
            )
        told, of_pair = best_first(told, scores, max(self.cutoffs))
        wanted, finds = np.nonzero(
            (labels[relations[:, 0]][:, None] == told_labels[told[:, 0]])
            & (labels[relations[:, 1]][:, None] == told_labels[told[:, 1]])
            & (relations[:, 2:] == told[:, 2])
        )  # places in relations and in told where all three words agree
        right = np.ones(len(wanted), dtype=bool)
        for end in (0, 1):
            annotated, candidate = relations[wanted, end], told[finds, end]
            if self.match == "place":
                right &= annotated == candidate
            else:
                right &= overlaps(boxes[annotated], told_boxes[candidate]) >= self.overlap
        wanted, finds = wanted[right], finds[right]
        ranks = np.full((2, len(relations)), NEVER)
        constrained = np.where(of_pair, np.cumsum(of_pair) - 1, NEVER)  # (num_told,)
        np.minimum.at(ranks[0], wanted, constrained[finds])
        np.minimum.at(ranks[1], wanted, finds)
        triples = np.stack([labels[relations[:, 0]], relations[:, 2], labels[relations[:, 1]]], axis=1)
        new = [self.seen is not None and tuple(triple) not in self.seen for triple in triples.tolist()]
        columns = [np.full(len(relations), image), relations[:, 2], *ranks, np.array(new, dtype=np.int64)]
        self.found.append(np.stack(columns, axis=1))

    def scores(self) -> dict[str, float]:
        """
        Recalls in 0..100, each `<measure>_<K>_<average>`.

        Measures are `recall` (R@K, with graph constraint: the best predicate of each pair), `mean_recall` (mR@K, the
        mean over the predicates that are annotated), `ng_recall` (ng-R@K, without graph constraint),
        `zero_shot_recall` (of triples that training never saw, if there are any) and `f` (F@K, the harmonic mean of R
        and mR). Averages are over `triples`, as with VRD (Lu et al. 2016), or over `images` that have some, as with
        Visual Genome (Xu et al. 2017).
        """
        scores: dict[str, float] = {}
        if not self.found:
            return scores
        image, predicate, constrained, free, new = np.concatenate(self.found).T
        for average in AVERAGES:
            for cutoff in self.cutoffs:
                hits, free_hits = constrained < cutoff, free < cutoff
                group = image if average == "images" else np.zeros_like(image)
                recall = mean_of_groups(hits, group)
                rare = mean_recall(hits, predicate, group)
                found = {"recall": recall, "mean_recall": rare, "ng_recall": mean_of_groups(free_hits, group)}
                if new.any():
                    unseen = new.astype(bool)
                    found["zero_shot_recall"] = mean_of_groups(hits[unseen], group[unseen])
                found["f"] = 2 * recall * rare / (recall + rare) if recall + rare > 0 else 0.0
                scores.update({f"{name}_{cutoff}_{average}": 100 * value for name, value in found.items()})
        return dict(sorted(scores.items(), key=lambda item: place_of(item[0])))

    def of_predicates(self) -> dict[int, dict[str, float]]:
        """Of each annotated predicate `relations`, how many there are, and `recall_<K>` in 0..100 over triples."""
        if not self.found:
            return {}
        _, predicate, constrained, _, _ = np.concatenate(self.found).T
        table = {}
        for number in np.unique(predicate).tolist():
            ranks = constrained[predicate == number]
            recalls = {f"recall_{cutoff}": 100 * float((ranks < cutoff).mean()) for cutoff in self.cutoffs}
            table[number] = {"relations": len(ranks), **recalls}
        return table


def place_of(name: str) -> tuple[int, int, int]:
    """Where a score stands among the others: by average, measure and cutoff."""
    measure, cutoff, average = name.rsplit("_", 2)
    return AVERAGES.index(average), MEASURES.index(measure), int(cutoff)


def checked(graph: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (n,), boxes (n, 4) and relations (r, 3) of a graph. Raises `ValueError` where they don't fit."""
    labels = np.asarray(graph["labels"], dtype=np.int64).reshape(-1)
    boxes = np.asarray(graph["boxes"], dtype=np.float64)
    relations = np.asarray(graph["relations"])
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    relations = relations.reshape(-1, 3) if relations.size == 0 else relations
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
            f"{name}['relations'] is about the objects {ends.min()} to {ends.max()}, expected 0 to {len(labels) - 1}."
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
        Relations (num_told, 3), and which of them are the best of their pair (num_told,). The first `most` are the
        best of all; those behind them, which only count under graph constraint, are never among them.
    """
    between_two = relations[:, 0] != relations[:, 1]
    relations, scores = relations[between_two], scores[between_two]
    number = FEW_MORE * most
    while number < len(scores):  # sorting a few is enough if they are about enough pairs
        enough = scores >= np.partition(scores, -number)[-number]  # equals come along
        told, of_pair = sorted_relations(relations[enough], scores[enough], most)
        if of_pair.sum() == most:
            return told, of_pair
        number *= FEW_MORE
    return sorted_relations(relations, scores, most)


def sorted_relations(relations: np.ndarray, scores: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """`best_first` by sorting everything."""
    if len(relations) == 0:
        return relations, np.zeros(0, dtype=bool)
    relations = relations[np.lexsort((relations[:, 2], relations[:, 1], relations[:, 0], -scores))]
    pairs = relations[:, 0] * (relations[:, :2].max() + 1) + relations[:, 1]
    keys = pairs * (relations[:, 2].max() + 1) + relations[:, 2]
    once = np.sort(np.unique(keys, return_index=True)[1])  # of repetitions the best
    relations, pairs = relations[once], pairs[once]
    of_pair = np.zeros(len(relations), dtype=bool)
    of_pair[np.unique(pairs, return_index=True)[1]] = True
    counts = np.arange(len(relations)) < most
    counts |= of_pair & (np.cumsum(of_pair) <= most)
    return relations[counts], of_pair[counts]


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) with others (n, 4), row by row; 1 of equal boxes without area."""
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    union = sum((each[:, 2:] - each[:, :2]).clip(min=0).prod(axis=1) for each in (boxes, others)) - shared
    equal = (boxes == others).all(axis=1)
    return np.where(union > 0, shared / np.where(union > 0, union, 1), equal)


def mean_of_groups(hits: np.ndarray, group: np.ndarray) -> float:
    """The mean over groups of the share of hits in each."""
    _, member = np.unique(group, return_inverse=True)
    return float((np.bincount(member, weights=hits) / np.bincount(member)).mean())


def mean_recall(hits: np.ndarray, predicate: np.ndarray, group: np.ndarray) -> float:
    """The mean over predicates of the mean over groups that have it of the share of hits among its relations."""
    keys, member = np.unique(np.stack([predicate, group], axis=1), axis=0, return_inverse=True)
    member = member.reshape(-1)
    shares = np.bincount(member, weights=hits) / np.bincount(member)  # of each predicate in each group
    _, of_predicate = np.unique(keys[:, 0], return_inverse=True)
    return float((np.bincount(of_predicate, weights=shares) / np.bincount(of_predicate)).mean())


__all__ = ["AVERAGES", "CUTOFFS", "MEASURES", "GraphRecall"]
