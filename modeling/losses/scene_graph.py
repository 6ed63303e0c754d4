# SPDX-License-Identifier: Apache-2.0
"""Labels of scene graphs, how regions match them, and the losses."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torchvision.ops import box_convert

from ..configuration_butd import ButdConfig
from ..outputs import ButdSceneGraphGenerationOutput
from ..regions import ButdRegions
from .targets import checked_objects, match_boxes, mean_count, require_range


SAME_BOX = 1e-4  # of the image: rounding of conversions between formats of boxes
NO_OBJECT_WEIGHT = 0.1  # of "no object" in the loss, as in DETR: most regions match nothing


@dataclass
class ButdGraphTarget:
    """The annotated scene graph of one image."""

    class_labels: torch.Tensor  # (num_objects,)
    boxes: torch.Tensor  # (num_objects, 4): `x0, y0, x1, y1` in [0, 1]
    relations: torch.Tensor | None  # (num_relations, 3): subject, object, predicate; None where nobody annotated any


class ButdMatchedGraph(NamedTuple):
    """The annotated graphs of a batch in terms of its regions."""

    objects: torch.Tensor  # (batch_size, num_regions): the object that each region matches, or -1
    relations: torch.Tensor  # (batch_size, num_regions, num_regions, num_predicates): subject, object, predicate
    is_annotated: torch.Tensor  # (batch_size,): whether anybody annotated relations
    labels: torch.Tensor  # (batch_size, num_regions): labels that relations are predicted from


def prepare_graph_targets(
    labels: list[dict[str, torch.Tensor]], config: ButdConfig, num_images: int
) -> list[ButdGraphTarget]:
    """Checks labels, see `ButdForSceneGraphGeneration.forward`; `ValueError` names the image and row that don't fit.
    Repeated relations count once, those of an object to itself are left out.
    """
    targets = []
    for name, label, class_labels, boxes in checked_objects(labels, config.num_labels, num_images):
        relations = label.get("relations")
        if relations is not None:
            relations = relations.long()
            relations = relations.reshape(-1, 3) if relations.numel() == 0 else relations
            if relations.dim() != 2 or relations.shape[1] != 3:
                raise ValueError(
                    f"{name}['relations'] has shape {tuple(relations.shape)}, expected (num_relations, 3): "
                    f"subject, object, predicate."
                )
            for column, number in enumerate((len(class_labels), len(class_labels), config.num_predicates)):
                require_range(relations[:, column], 0, number - 1, f"{name}['relations'][:, {column}]")
            relations = relations[relations[:, 0] != relations[:, 1]].unique(dim=0)
        targets.append(ButdGraphTarget(class_labels, box_convert(boxes, "cxcywh", "xyxy"), relations))
    return targets


@torch.no_grad()
def match_objects(
    boxes: torch.Tensor,
    mask: torch.Tensor,
    targets: list[ButdGraphTarget],
    labelled: bool,  # whether the regions came with labels: they must then be the annotated objects
) -> torch.Tensor:
    """The object that each region matches, or -1: `(batch_size, num_regions)`.

    Where regions are the annotated boxes in their order, they match in that order: objects may share a box. Else it is
    the object that the region overlaps most, by at least half.
    """
    matched = match_boxes(boxes, mask, targets)
    for row, target in enumerate(targets):
        places, number = mask[row].nonzero()[:, 0], len(target.boxes)
        if labelled and len(places) != number:
            raise ValueError(
                f"labels[{row}] has {number} objects, expected one for each of its {len(places)} regions, in their "
                f"order, because `region_labels` are given."
            )
        found = boxes[row, places].float()  # (num_existing, 4)
        same = len(places) == number and torch.allclose(found, target.boxes.clamp(0, 1), rtol=0, atol=SAME_BOX)
        if labelled or same:
            matched[row, places] = torch.arange(number, device=mask.device)
    return matched


def region_relations(matched: torch.Tensor, targets: list[ButdGraphTarget], num_predicates: int) -> torch.Tensor:
    """Which relations hold between regions `(batch_size, num_regions, num_regions, num_predicates)`: all regions that
    match an object take part in its relations.
    """
    related = matched.new_zeros(*matched.shape, matched.shape[1], num_predicates, dtype=torch.bool)
    for row, target in enumerate(targets):
        if target.relations is not None and len(target.relations):
            number = len(target.boxes)
            of_objects = related.new_zeros(number + 1, number + 1, num_predicates)  # the last is no object
            of_objects[tuple(target.relations.T)] = True
            related[row] = of_objects[matched[row][:, None], matched[row]]
    return related


def object_loss(
    logits: torch.Tensor, matched: torch.Tensor, mask: torch.Tensor, targets: list[ButdGraphTarget]
) -> torch.Tensor:
    """Cross-entropy of the labels of regions `(batch_size, num_regions, num_labels + 1)`, "no object" last."""
    no_object = logits.shape[-1] - 1
    expected = torch.full_like(matched, no_object)
    for row, target in enumerate(targets):
        found = matched[row] >= 0
        expected[row, found] = target.class_labels[matched[row, found]]
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = NO_OBJECT_WEIGHT
    losses = F.cross_entropy(logits[mask], expected[mask], weight=weight, reduction="sum")
    return losses / mean_count(weight[expected[mask]].sum(), least=1e-6)


def relation_losses(pairs: ButdSceneGraphGenerationOutput, matched: ButdMatchedGraph) -> dict[str, torch.Tensor]:
    """`loss_selection` and `loss_pair`, the binary cross-entropy of which pairs are related, of the score that selects
    them and of the final one, and `loss_predicate`, the cross-entropy of how.

    Pairs that nobody annotated count as unrelated; images without annotated relations don't count. The predicates of a
    pair with several share its loss equally.
    """
    rows = torch.arange(len(pairs.pairs), device=pairs.pairs.device)[:, None]
    related = matched.relations[rows, pairs.pairs[..., 0], pairs.pairs[..., 1]] & pairs.pair_mask[..., None]
    predicates = related.to(pairs.predicate_logits.dtype)  # (batch_size, num_pairs, num_predicates)
    number = predicates.sum(dim=-1)  # (batch_size, num_pairs)
    positive = number > 0
    shares = predicates[positive] / number[positive][:, None]
    loss = -(shares * pairs.predicate_logits[positive].log_softmax(dim=-1)).sum()
    losses = {"loss_predicate": loss / mean_count(positive.sum().float())}
    is_annotated = pairs.pair_mask & matched.is_annotated[:, None]
    num_annotated = mean_count(is_annotated.sum().float())
    for name, logits in (("loss_selection", pairs.selection_logits), ("loss_pair", pairs.pair_logits)):
        loss = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
        losses[name] = (loss * is_annotated).sum() / num_annotated
    return losses


def match_graph(
    regions: ButdRegions,
    labels: torch.Tensor,  # (batch_size, num_regions): labels of the regions, given or predicted
    targets: list[ButdGraphTarget],
    config: ButdConfig,
    is_labelled: bool,  # whether they were given: the regions are then the annotated objects in their order
    is_training: bool,  # relations are then predicted from the true labels of matched regions
) -> ButdMatchedGraph:
    """Matches annotated graphs with regions."""
    objects = match_objects(regions.boxes, regions.mask, targets, is_labelled)
    relations = region_relations(objects, targets, config.num_predicates)
    is_annotated = torch.tensor([target.relations is not None for target in targets], device=objects.device)
    if is_training and not is_labelled:
        labels = labels.clone()
        for row, target in enumerate(targets):
            is_matched = objects[row] >= 0
            labels[row, is_matched] = target.class_labels[objects[row, is_matched]]
    return ButdMatchedGraph(objects, relations, is_annotated, labels)


def scene_graph_losses(
    logits: torch.Tensor,
    pairs: ButdSceneGraphGenerationOutput,
    matched: ButdMatchedGraph,
    mask: torch.Tensor,
    targets: list[ButdGraphTarget],
    is_labelled: bool,
) -> dict[str, torch.Tensor]:
    """All losses of object labels, unless these were given, and of relations, by name."""
    losses = {} if is_labelled else {"loss_object": object_loss(logits, matched.objects, mask, targets)}
    return {**losses, **relation_losses(pairs, matched)}
