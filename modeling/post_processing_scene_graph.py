# SPDX-License-Identifier: Apache-2.0
"""Which relations of a scene graph are returned: the best, and each once."""

import torch
from torchvision.ops import box_iou


def object_scores(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Probability of the label of each region beside all others and "no object": `(batch_size, num_regions)`."""
    shares = logits.float().softmax(dim=-1)  # (batch_size, num_regions, num_labels + 1)
    return shares.gather(-1, labels[..., None])[..., 0] * mask


def best_relations(
    scores: torch.Tensor, top_k: int, threshold: float, graph_constraint: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The best relations of one image, best first; of equals the one whose pair came first, then the first predicate.

    Args:
        scores (`torch.FloatTensor` of shape `(num_pairs, num_predicates)`): Of all relations.

    Returns:
        Scores, places among the pairs and predicates, each of shape `(num_relations,)`.
    """
    if graph_constraint:
        scores, predicates = scores.max(dim=-1, keepdim=True)  # (num_pairs, 1)
    else:
        predicates = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    scores, order = scores.flatten().sort(descending=True, stable=True)
    order = order[(scores > threshold) & (torch.arange(len(scores), device=scores.device) < top_k)]
    return (
        scores[: len(order)],
        torch.div(order, predicates.shape[1], rounding_mode="floor"),
        predicates.flatten()[order],
    )


def without_repeats(
    scores: torch.Tensor,  # (num_pairs, num_predicates): of all relations
    same: torch.Tensor,  # (num_pairs, num_pairs): which pairs have the same two objects
    graph_constraint: bool,  # whether only the best predicate of each pair counts
) -> torch.Tensor:
    """Scores of the relations of one image, minus infinity where a relation repeats a better one."""
    places = torch.arange(len(scores), device=scores.device)
    same = same & (places[:, None] != places)
    has_equals = same.any(dim=1, keepdim=True)
    if not has_equals.any():
        return scores
    scores = scores.clone()
    while True:
        candidates = scores.isfinite() & has_equals
        if graph_constraint:
            best = torch.zeros_like(candidates).scatter(1, scores.argmax(dim=-1, keepdim=True), True)
            candidates = candidates & best
        rows, predicates = candidates.nonzero().unbind(dim=1)
        score, others = (
            scores[rows, predicates, None],
            scores.T[predicates],
        )  # (num_candidates, 1), (num_candidates, num_pairs)
        better = (others > score) | ((others == score) & (places < rows[:, None]))
        repeated = (better & same[rows] & candidates.T[predicates]).any(dim=1)
        if not repeated.any():
            return scores
        scores[rows[repeated], predicates[repeated]] = -torch.inf


def are_one_object(labels: torch.Tensor, boxes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which regions have the same label and overlapping boxes: `(num_regions, num_regions)`."""
    return (box_iou(boxes, boxes) >= overlap) & (labels[:, None] == labels)


def same_objects(pairs: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which pairs `(num_pairs, 2)` have the same labels and overlapping boxes: `(num_pairs, num_pairs)`."""
    same = are_one_object(labels, boxes, overlap)  # (num_regions, num_regions)
    subjects, objects = pairs.unbind(dim=1)
    return same[subjects[:, None], subjects] & same[objects[:, None], objects]
