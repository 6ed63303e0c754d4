# SPDX-License-Identifier: Apache-2.0
"""From what a scene graph model returns to objects in pixels and the relations between them."""

from typing import Any

import torch
from torchvision.ops import box_iou

from .post_processing import Sizes, check_sizes


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


def without_repeats(scores: torch.Tensor, same: torch.Tensor, graph_constraint: bool) -> torch.Tensor:
    """
    Scores of the relations of one image, minus infinity where a relation repeats a better one.

    Args:
        scores (`torch.FloatTensor` of shape `(num_pairs, num_predicates)`): Of all relations.
        same (`torch.BoolTensor` of shape `(num_pairs, num_pairs)`): Which pairs are about the same two things.
        graph_constraint (`bool`): Whether only the best predicate of each pair is told, so that nothing else of it
            can be repeated.
    """
    places = torch.arange(len(scores), device=scores.device)
    same = same & (places[:, None] != places)
    with_twins = same.any(dim=1, keepdim=True)
    if not with_twins.any():
        return scores
    scores = scores.clone()
    while True:
        told = scores.isfinite() & with_twins
        if graph_constraint:
            best = torch.zeros_like(told).scatter(1, scores.argmax(dim=-1, keepdim=True), True)
            told = told & best
        rows, predicates = told.nonzero().unbind(dim=1)
        own, others = scores[rows, predicates, None], scores.T[predicates]  # (num_told, 1), (num_told, num_pairs)
        better = (others > own) | ((others == own) & (places < rows[:, None]))
        repeated = (better & same[rows] & told.T[predicates]).any(dim=1)
        if not repeated.any():
            return scores
        scores[rows[repeated], predicates[repeated]] = -torch.inf


def are_one_thing(labels: torch.Tensor, boxes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which regions have the same label and overlapping boxes: `(num_regions, num_regions)`."""
    return (box_iou(boxes, boxes) >= overlap) & (labels[:, None] == labels)


def same_things(pairs: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which pairs `(num_pairs, 2)` have the same labels and overlapping boxes: `(num_pairs, num_pairs)`."""
    same = are_one_thing(labels, boxes, overlap)  # (num_regions, num_regions)
    subjects, objects = pairs.unbind(dim=1)
    return same[subjects[:, None], subjects] & same[objects[:, None], objects]


def graphs_in_pixels(
    outputs: Any,
    threshold: float,
    relation_threshold: float,
    top_k: int,
    target_sizes: Sizes,
    graph_constraint: bool,
    repeat_overlap: float | None,
    twin_overlap: float | None,
) -> list[dict[str, Any]]:
    """The body of `ButdImageProcessor.post_process_scene_graph_generation`."""
    regions = outputs.regions
    sizes = check_sizes(target_sizes, len(outputs.logits))
    scores = object_scores(outputs.logits, outputs.region_labels, regions.mask)
    related = outputs.pair_logits.float().sigmoid() * outputs.pair_mask  # (batch_size, num_pairs)
    results = []
    for row in range(len(scores)):
        kept = (scores[row] > threshold) & regions.mask[row]
        order = scores[row].sort(descending=True, stable=True).indices
        order = order[kept[order]]  # regions of the objects, the most certain first
        place = torch.full_like(outputs.region_labels[row], -1)
        place[order] = torch.arange(len(order), device=order.device)

        pairs = outputs.pairs[row]  # (num_pairs, 2)
        exists = outputs.pair_mask[row] & (place[pairs] >= 0).all(dim=-1)
        pairs = pairs[exists]
        pair_scores = related[row, exists] * scores[row][pairs].prod(dim=-1)
        shares = outputs.predicate_logits[row, exists].float().softmax(dim=-1)  # (num_pairs, num_predicates)
        told = pair_scores[:, None] * shares
        boxes = regions.boxes[row].float()
        if twin_overlap is not None:
            twins = are_one_thing(outputs.region_labels[row], boxes, twin_overlap)[pairs[:, 0], pairs[:, 1]]
            told = told.masked_fill(twins[:, None], -torch.inf)
        if repeat_overlap is not None:
            same = same_things(pairs, outputs.region_labels[row], boxes, repeat_overlap)
            told = without_repeats(told, same, graph_constraint)
        relation_scores, of_pair, predicates = best_relations(told, top_k, relation_threshold, graph_constraint)
        boxes = boxes[order]  # (num_objects, 4)
        if sizes is not None:
            height, width = sizes[row]
            boxes = boxes * boxes.new_tensor([width, height, width, height])
        results.append(
            {
                "scores": scores[row, order],
                "labels": outputs.region_labels[row, order],
                "boxes": boxes,
                "regions": order,
                "relations": torch.cat([place[pairs[of_pair]], predicates[:, None]], dim=1),  # (num_relations, 3)
                "relation_scores": relation_scores,
            }
        )
    return results


__all__ = ["graphs_in_pixels"]
