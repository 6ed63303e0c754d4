# SPDX-License-Identifier: Apache-2.0
"""Losses of the bottom-up half: of proposals from every cell, and of what the region head says about regions."""

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, generalized_box_iou_loss

from ..bottom_up.feature_pyramid import ButdPyramid, with_rows
from ..bottom_up.region_head import ButdRegionHead
from ..bottom_up.rpn import ButdCandidates
from ..boxes import refine_boxes
from ..regions import ButdRegions
from .counts import shared_count
from .targets import ButdTarget


CELLS_PER_OBJECT = 10  # that learn to propose it, as in TOOD
FIT_EXPONENT = 6.0  # how much more fit counts than objectness when cells are chosen, as in TOOD
FOCUS = 2.0  # exponent that keeps the many easy empty cells from outweighing the others
EMPTY_WEIGHT = 0.75  # of empty cells, as in VarifocalNet
POSITIVE_OVERLAP = 0.5  # of a region with the object that it is about, as in Faster R-CNN


@torch.no_grad()
def assign_cells(
    points: torch.Tensor, boxes: torch.Tensor, scores: torch.Tensor, target: ButdTarget
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Which cells of one image learn to propose which object: task-aligned assignment (Feng et al. 2021, "TOOD").

    An object's cells are those with their centre in its box whose own box fits it best; no scale is fixed for a
    level. An object too small for any centre takes the nearest cell.

    Args:
        points (`torch.FloatTensor` of shape `(num_cells, 2)`): Centres.
        boxes (`torch.FloatTensor` of shape `(num_cells, 4)`): What each cell proposes.
        scores (`torch.FloatTensor` of shape `(num_cells,)`): Its objectness, in [0, 1].

    Returns:
        For each cell the object's index or -1, the objectness to learn in [0, 1], and whether an empty cell counts:
        in crowds it doesn't.
    """
    counts = ~target.in_crowd(boxes)  # (num_cells,)
    objects = target.boxes
    owner = torch.full_like(counts, -1, dtype=torch.long)
    wanted = torch.zeros_like(scores)
    if len(objects) == 0:
        return owner, wanted, counts
    low, high = objects[:, None, :2], objects[:, None, 2:]
    inside = ((points > low) & (points < high)).all(dim=-1)  # (num_objects, num_cells)
    nearest = torch.cdist((objects[:, :2] + objects[:, 2:]) / 2, points).argmin(dim=1)
    rows = torch.arange(len(objects), device=nearest.device)
    inside[rows, nearest] |= ~inside.any(dim=1)

    fit = box_iou(objects, boxes).nan_to_num() * inside  # (num_objects, num_cells)
    alignment = scores * fit.clamp(min=1e-3) ** FIT_EXPONENT * inside
    best, cells = alignment.topk(min(CELLS_PER_OBJECT, alignment.shape[1]), dim=1)
    chosen = torch.zeros_like(alignment).scatter(1, cells, best)  # zero where the cell is outside
    highest, owner_of_cell = chosen.max(dim=0)  # of two objects, a cell serves the one that it fits better
    taken = highest > 0
    owner[taken] = owner_of_cell[taken]
    # the best cell of an object learns its own fit, the others less in proportion: nearly one proposal per object
    most_aligned = chosen.amax(dim=1).clamp(min=1e-30)
    best_fit = (fit * (chosen > 0)).amax(dim=1)
    share = (chosen / most_aligned[:, None] * best_fit[:, None]).gather(0, owner_of_cell[None])[0]  # (num_cells,)
    wanted[taken] = share[taken]
    return owner, wanted, counts | taken


def proposal_losses(candidates: ButdCandidates, targets: list[ButdTarget]) -> dict[str, torch.Tensor]:
    """`loss_objectness` (varifocal, Zhang et al. 2021) and `loss_proposal_box` (generalised IoU) of all cells."""
    scores = candidates.logits.sigmoid()
    assigned = [
        assign_cells(points, boxes, score, target)
        for points, boxes, score, target in zip(
            candidates.points, candidates.boxes.detach(), scores.detach(), targets, strict=True
        )
    ]
    owner, wanted, counts = (torch.stack(parts) for parts in zip(*assigned, strict=True))  # (batch_size, num_cells)
    taken = owner >= 0
    empty_weight = EMPTY_WEIGHT * scores.detach() ** FOCUS * (counts & candidates.mask)
    weight = torch.where(taken, wanted, empty_weight)
    objectness = F.binary_cross_entropy_with_logits(candidates.logits, wanted, weight, reduction="sum")

    objects = torch.cat([target.boxes[row[row >= 0]] for target, row in zip(targets, owner, strict=True)])
    box = generalized_box_iou_loss(candidates.boxes[taken], objects) * wanted[taken]
    total = shared_count(wanted.sum())
    return {"loss_objectness": objectness / total, "loss_proposal_box": box.sum() / total}


@torch.no_grad()
def match_regions(boxes: torch.Tensor, mask: torch.Tensor, targets: list[ButdTarget]) -> torch.Tensor:
    """The object that each region is about, or -1: `(batch_size, num_regions)`."""
    about = torch.full_like(mask, -1, dtype=torch.long)
    for row, target in enumerate(targets):
        if len(target.boxes):
            overlap, owner = box_iou(boxes[row], target.boxes).nan_to_num().max(dim=1)
            about[row] = torch.where(mask[row] & (overlap >= POSITIVE_OVERLAP), owner, -1)
    return about


def region_losses(
    region_head: ButdRegionHead,
    pyramid: ButdPyramid,
    proposals: torch.Tensor,
    deltas: torch.Tensor,
    regions: ButdRegions,
    targets: list[ButdTarget],
) -> dict[str, torch.Tensor]:
    """
    Losses of regions that are about an object: `loss_region_box`, and of what the head is configured for
    `loss_region_class`, `loss_attribute` and `loss_region_mask`.

    Args:
        proposals (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`): Boxes before refinement.
        deltas (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`): Their refinement.
    """
    about = match_regions(proposals, regions.mask, targets)  # (batch_size, num_regions)
    rows, places = torch.where(about >= 0)
    owners = about[rows, places]
    total = shared_count(proposals.new_tensor(len(rows)))

    def of_owners(name: str) -> torch.Tensor:
        values = [getattr(target, name)[row[row >= 0]] for target, row in zip(targets, about, strict=True)]
        return torch.cat(values)  # (num_positives, ...)

    refined = refine_boxes(proposals[rows, places], deltas[rows, places])
    losses = {"loss_region_box": generalized_box_iou_loss(refined, of_owners("boxes"), reduction="sum") / total}
    if region_head.class_proj is not None:
        logits = regions.class_logits[rows, places].float()  # (num_positives, num_region_labels)
        losses["loss_region_class"] = F.cross_entropy(logits, of_owners("class_labels"), reduction="sum") / total
    if region_head.attribute_proj is not None:
        logits, labels = regions.attribute_logits[rows, places].float(), of_owners("attribute_labels")
        known = shared_count((labels >= 0).sum().float())
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        losses["loss_attribute"] = 0.5 * loss / known  # half, as Anderson et al. weigh it
    if region_head.mask_head is not None:
        has_mask = of_owners("has_mask")
        rows, places, owners = rows[has_mask], places[has_mask], owners[has_mask]
        boxes = with_rows(proposals).view(*proposals.shape[:2], 5)[rows, places]  # (num_masks, 5)
        logits = region_head.mask_logits(pyramid, boxes, regions.features[rows, places])
        seen = [
            target.masks_within(boxes[rows == row, 1:], owners[rows == row], logits.shape[-1])
            for row, target in enumerate(targets)
            if (rows == row).any()
        ]
        seen = torch.cat([*seen, logits.new_zeros((0, *logits.shape[1:]))])  # (num_masks, m, m)
        loss = F.binary_cross_entropy_with_logits(logits, seen, reduction="none").mean(dim=(1, 2)).sum()
        losses["loss_region_mask"] = loss / shared_count(logits.new_tensor(len(rows)))
    return losses


__all__ = ["assign_cells", "match_regions", "proposal_losses", "region_losses"]
