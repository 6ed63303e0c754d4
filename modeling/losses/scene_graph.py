# SPDX-License-Identifier: Apache-2.0
"""What scene graphs are trained towards, and their losses."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, box_iou

from ..configuration_butd import ButdConfig
from .counts import shared_count


POSITIVE_OVERLAP = 0.5  # with an object, from which a region is about it
SAME_BOX = 1e-4  # of the image: as far as conversions between formats of boxes lead


@dataclass
class ButdGraphTarget:
    """
    The annotated scene graph of one image.

    Args:
        class_labels (`torch.LongTensor` of shape `(num_objects,)`): Class of each object.
        boxes (`torch.FloatTensor` of shape `(num_objects, 4)`): `x0, y0, x1, y1` in [0, 1].
        relations (`torch.LongTensor` of shape `(num_relations, 3)`, *optional*): Subject, object and predicate, each
            once, none of an object to itself; None where nobody annotated any.
    """

    class_labels: torch.Tensor
    boxes: torch.Tensor
    relations: torch.Tensor | None


def prepare_graph_targets(
    labels: list[dict[str, torch.Tensor]], num_labels: int, num_predicates: int
) -> list[ButdGraphTarget]:
    """
    Checks labels. Repeated relations count once, those of an object to itself are left out.

    Args:
        labels (`list[dict]`): For each image `class_labels` (n,), `boxes` (n, 4) as `centre x, centre y, width,
            height` in [0, 1] of the unpadded image, and unless nobody annotated any, `relations` (r, 3).

    Raises:
        ValueError: Shapes don't fit, or a label, object or predicate doesn't exist; the message names image and row.
    """
    targets = []
    for image, label in enumerate(labels):
        class_labels, boxes = label["class_labels"].long().reshape(-1), label["boxes"].float()
        number = len(class_labels)
        boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
        if boxes.shape != (number, 4):
            raise ValueError(
                f"labels[{image}]['boxes'] has shape {tuple(boxes.shape)}, expected {(number, 4)}: one box for each "
                f"of its class_labels."
            )
        check_range(class_labels, num_labels, f"labels[{image}]['class_labels']")
        relations = label.get("relations")
        if relations is not None:
            relations = relations.long()
            relations = relations.reshape(-1, 3) if relations.numel() == 0 else relations
            if relations.dim() != 2 or relations.shape[1] != 3:
                raise ValueError(
                    f"labels[{image}]['relations'] has shape {tuple(relations.shape)}, expected (num_relations, 3): "
                    f"subject, object, predicate."
                )
            for column, most in enumerate((number, number, num_predicates)):
                check_range(relations[:, column], most, f"labels[{image}]['relations'][:, {column}]")
            relations = relations[relations[:, 0] != relations[:, 1]].unique(dim=0)
        targets.append(ButdGraphTarget(class_labels, box_convert(boxes, "cxcywh", "xyxy"), relations))
    return targets


def check_range(values: torch.Tensor, most: int, name: str) -> None:
    wrong = (values < 0) | (values >= most)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"{name} has {int(values[row])} at row {row}, expected 0 to {most - 1}.")


@torch.no_grad()
def match_objects(
    boxes: torch.Tensor, mask: torch.Tensor, targets: list[ButdGraphTarget], labelled: bool
) -> torch.Tensor:
    """
    The object that each region is about, or -1: `(batch_size, num_regions)`.

    Where regions are the annotated boxes in their order, each is its own: of several objects with one box no overlap
    could tell them apart. Else it is the one that it overlaps most, by at least half.

    Args:
        labelled (`bool`): Whether the regions came with labels: they are then the annotated objects.

    Raises:
        ValueError: Labelled regions are not as many as the objects.
    """
    about = torch.full_like(mask, -1, dtype=torch.long)
    for row, target in enumerate(targets):
        places, number = mask[row].nonzero()[:, 0], len(target.boxes)
        found = boxes[row, places].float()  # (num_existing, 4)
        if labelled and len(places) != number:
            raise ValueError(
                f"labels[{row}] has {number} objects, expected one for each of its {len(places)} regions, in their "
                f"order, because `region_labels` are given."
            )
        same = len(places) == number and torch.allclose(found, target.boxes.clamp(0, 1), rtol=0, atol=SAME_BOX)
        if labelled or same:
            about[row, places] = torch.arange(number, device=mask.device)
        elif number > 0:
            overlap, owner = box_iou(found, target.boxes).nan_to_num().max(dim=1)
            about[row, places] = torch.where(overlap >= POSITIVE_OVERLAP, owner, -1)
    return about


def region_relations(about: torch.Tensor, targets: list[ButdGraphTarget]) -> list[torch.Tensor | None]:
    """
    The relations of each image between regions instead of objects, `(num_relations, 3)`, each once, none of a region
    to itself. Several regions about one object all take part in its relations.
    """
    related = []
    for row, target in zip(about, targets, strict=True):
        if target.relations is None:
            related.append(None)
            continue
        subject_row, subjects = (target.relations[:, :1] == row).nonzero().unbind(dim=1)
        object_row, objects = (target.relations[:, 1:2] == row).nonzero().unbind(dim=1)
        first, second = (subject_row[:, None] == object_row).nonzero().unbind(dim=1)
        subjects, objects = subjects[first], objects[second]
        relations = torch.stack([subjects, objects, target.relations[subject_row[first], 2]], dim=1)
        related.append(relations[subjects != objects].unique(dim=0))
    return related


def required_pairs(related: list[torch.Tensor | None], num_regions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Related pairs as `ButdPairScorer.select` takes them."""
    rows, pairs = [], []
    for row, relations in enumerate(related):
        if relations is not None:
            pairs.append(relations[:, 0] * num_regions + relations[:, 1])
            rows.append(torch.full_like(pairs[-1], row))
    if not pairs:
        return torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    return torch.cat(rows), torch.cat(pairs)


def object_loss(
    logits: torch.Tensor, about: torch.Tensor, mask: torch.Tensor, targets: list[ButdGraphTarget], config: ButdConfig
) -> torch.Tensor:
    """Cross-entropy of the labels of regions `(batch_size, num_regions, num_labels + 1)`, "no object" last."""
    no_object = logits.shape[-1] - 1
    wanted = torch.full_like(about, no_object)
    for row, target in enumerate(targets):
        found = about[row] >= 0
        wanted[row, found] = target.class_labels[about[row, found]]
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = config.no_object_weight
    losses = F.cross_entropy(logits[mask], wanted[mask], weight=weight, reduction="sum")
    return losses / shared_count(weight[wanted[mask]].sum(), least=1e-6)


def relation_losses(
    pairs: torch.Tensor,
    pair_mask: torch.Tensor,
    selection_logits: torch.Tensor,
    pair_logits: torch.Tensor,
    predicate_logits: torch.Tensor,
    related: list[torch.Tensor | None],
    num_regions: int,
) -> dict[str, torch.Tensor]:
    """
    `loss_selection` and `loss_pair`, the binary cross-entropy of which pairs are related at the first and at the
    second look, and `loss_predicate`, the cross-entropy of how.

    Pairs that nobody annotated count as unrelated; images without annotated relations teach nothing. A pair with
    several predicates wants all of them alike.
    """
    ids = pairs[..., 0] * num_regions + pairs[..., 1]  # (batch_size, num_pairs)
    taught = torch.zeros_like(pair_mask)
    wanted = torch.zeros_like(predicate_logits)
    for row, relations in enumerate(related):
        if relations is None:
            continue
        taught[row] = pair_mask[row]
        keys, owner = (relations[:, 0] * num_regions + relations[:, 1]).unique(return_inverse=True)
        if len(keys) == 0:
            continue
        predicates = wanted.new_zeros(len(keys), wanted.shape[-1])
        predicates[owner, relations[:, 2]] = 1.0
        place = torch.searchsorted(keys, ids[row]).clamp(max=len(keys) - 1)
        holds = (keys[place] == ids[row]) & pair_mask[row]
        wanted[row] = predicates[place] * holds[:, None]
    held = wanted.sum(dim=-1)  # (batch_size, num_pairs)
    positive = held > 0
    shares = wanted[positive] / held[positive][:, None]
    predicate_loss = -(shares * predicate_logits[positive].log_softmax(dim=-1)).sum()
    losses, num_taught = {}, shared_count(taught.sum().float())
    for name, logits in (("loss_selection", selection_logits), ("loss_pair", pair_logits)):
        wrong = F.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
        losses[name] = (wrong * taught).sum() / num_taught
    return {
        **losses,
        "loss_predicate": predicate_loss / shared_count(positive.sum().float()),
    }


__all__ = [
    "ButdGraphTarget",
    "match_objects",
    "object_loss",
    "prepare_graph_targets",
    "region_relations",
    "relation_losses",
    "required_pairs",
]
