# Copyright 2026 The butd_hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""From what a scene graph model returns to objects in pixels and the relations between them."""

from typing import Any

import torch

from .post_processing_butd import Sizes, check_sizes


def object_scores(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Probability of the label of each region beside all others and "no object": `(batch_size, num_regions)`."""
    shares = logits.float().softmax(dim=-1)  # (batch_size, num_regions, num_labels + 1)
    return shares.gather(-1, labels[..., None])[..., 0] * mask


def best_relations(
    pair_scores: torch.Tensor, predicate_logits: torch.Tensor, top_k: int, threshold: float, graph_constraint: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The best relations of one image, best first; of equals the one whose pair came first, then the first predicate.

    Returns:
        Scores, places among the pairs and predicates, each of shape `(num_relations,)`.
    """
    shares = predicate_logits.float().softmax(dim=-1)  # (num_pairs, num_predicates)
    if graph_constraint:
        predicates = shares.argmax(dim=-1, keepdim=True)  # (num_pairs, 1)
        shares = shares.gather(-1, predicates)
    else:
        predicates = torch.arange(shares.shape[1], device=shares.device).expand_as(shares)
    scores = (pair_scores[:, None] * shares).flatten()
    scores, order = scores.sort(descending=True, stable=True)
    order = order[(scores > threshold) & (torch.arange(len(scores), device=scores.device) < top_k)]
    return (
        scores[: len(order)],
        torch.div(order, predicates.shape[1], rounding_mode="floor"),
        predicates.flatten()[order],
    )


def graphs_in_pixels(
    outputs: Any,
    threshold: float,
    relation_threshold: float,
    top_k: int,
    target_sizes: Sizes,
    graph_constraint: bool,
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
        relation_scores, of_pair, predicates = best_relations(
            pair_scores, outputs.predicate_logits[row, exists], top_k, relation_threshold, graph_constraint
        )
        boxes = regions.boxes[row, order].float()  # (num_objects, 4)
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
