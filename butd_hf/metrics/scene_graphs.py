# SPDX-License-Identifier: Apache-2.0
"""Recalls of scene graphs: R@K, mR@K, recall without graph constraint, zero-shot recall and F@K."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .graph_recall import CUTOFFS, SAME_OBJECT, relation_ranks


MEASURES = ("recall", "mean_recall", "ng_recall", "zero_shot_recall", "f")


def score_graphs(
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    *,
    seen: Iterable[Sequence[int]] | None = None,
    overlap: float = SAME_OBJECT,
    cutoffs: Sequence[int] = CUTOFFS,
    predicates: Sequence[str] | None = None,
) -> dict[str, float]:
    """Scores scene graphs.

    A relation is found at rank K if the Kth best of its image has its subject's label, predicate and object's label,
    and both boxes overlap those annotated by half (Lu et al. 2016; Xu et al. 2017). A predicted relation may match
    several annotated ones, as with the usual evaluation of Visual Genome; that of VRD (Lu et al. 2016) lets it match
    one. Overlaps are of continuous boxes; the usual evaluation counts a pixel more. Of equal scores those with the
    lower subject, then object, then predicate come first. Repetitions count once, and relations of an object to itself
    not at all, on both sides. Images without predictions count; those without annotated relations don't.

    Args:
        predictions: Of each image `labels` (n,), `boxes` (n, 4) as `x0, y0, x1, y1`, `relations` (r, 3) as subject,
            object and predicate, and `relation_scores` (r,), as `post_process_scene_graph_generation` returns them.
            Recall without graph constraint wants all predicates of each pair; with the best of each only, it is the
            same as with constraint.
        references: Of each image `labels`, `boxes` in the same unit, and `relations`.
        seen: Subject label, predicate and object label of the training data: the others are zero-shot.
        overlap: Intersection over union from which boxes match.
        cutoffs: Numbers of relations per image that count.
        predicates: Their names, for the recall of each.

    Returns:
        Recalls in 0..100, each `<measure>_<K>_<average>`. Measures are `recall` (R@K, with graph constraint: the best
        predicate of each pair), `mean_recall` (mR@K, the mean over the predicates that are annotated), `ng_recall`
        (ng-R@K, without graph constraint), `zero_shot_recall` (of triples that training never saw, if there are any)
        and `f` (F@K, the harmonic mean of R and mR). Averages are over `triples`, as with VRD (Lu et al. 2016), or
        over `images` that have some, as with Visual Genome (Xu et al. 2017). With `predicates` also
        `recall_50_predicate_on`, ...: R@K of each annotated predicate over its triples.

    Raises:
        ValueError: There is nothing to score, lengths differ, a graph doesn't fit, or an option is none of the
            possible ones; the message says where.
    """
    if not cutoffs or min(cutoffs) < 1:
        raise ValueError(f"cutoffs must be positive numbers, got {cutoffs!r}.")
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must have the same length, got {len(predictions)} and {len(references)}."
        )
    found = [
        relation_ranks(prediction, reference, name=f"[{number}]", overlap=overlap, most=max(cutoffs))
        for number, (prediction, reference) in enumerate(zip(predictions, references, strict=True))
    ]
    image = np.repeat(np.arange(len(found)), [len(triples) for triples, _ in found])  # (num_relations,), of all images
    if len(image) == 0:
        raise ValueError(f"references has no relation in {len(references)} images: there is nothing to score.")
    triples, ranks = (np.concatenate(each) for each in zip(*found, strict=True))
    known = None if seen is None else {tuple(map(int, triple)) for triple in seen}
    unseen = np.array([known is not None and tuple(triple) not in known for triple in triples.tolist()])
    predicate, scores = triples[:, 1], {}
    for average, group in (("triples", np.zeros_like(image)), ("images", image)):
        table: dict[tuple[str, int], float] = {}
        for cutoff in cutoffs:
            hits, unconstrained = (ranks < cutoff).T
            table["recall", cutoff] = recall = mean_of_groups(hits, group)
            table["mean_recall", cutoff] = mean = mean_recall(hits, predicate, group)
            table["ng_recall", cutoff] = mean_of_groups(unconstrained, group)
            if unseen.any():
                table["zero_shot_recall", cutoff] = mean_of_groups(hits[unseen], group[unseen])
            table["f", cutoff] = 2 * recall * mean / (recall + mean) if recall + mean > 0 else 0.0
        for measure, cutoff in sorted(table, key=lambda key: (MEASURES.index(key[0]), key[1])):
            scores[f"{measure}_{cutoff}_{average}"] = 100 * table[measure, cutoff]
    for number in np.unique(predicate).tolist() if predicates is not None else ():
        for cutoff in cutoffs:
            share = (ranks[predicate == number, 0] < cutoff).mean()
            scores[f"recall_{cutoff}_predicate_{predicates[number]}"] = 100 * float(share)
    return scores


def mean_of_groups(hits: np.ndarray, group: np.ndarray) -> float:
    """The mean over groups of the share of hits in each."""
    _, member = np.unique(group, return_inverse=True)
    return float((np.bincount(member, weights=hits) / np.bincount(member)).mean())


def mean_recall(hits: np.ndarray, predicate: np.ndarray, group: np.ndarray) -> float:
    """The mean over predicates of the mean over groups that have it of the share of hits among its relations."""
    rows = [predicate == number for number in np.unique(predicate)]
    return float(np.mean([mean_of_groups(hits[mine], group[mine]) for mine in rows]))


__all__ = ["MEASURES", "score_graphs"]
