# SPDX-License-Identifier: Apache-2.0
"""Losses of the bottom-up half: of proposals from every cell, and of what the region head predicts for regions."""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import box_iou, generalized_box_iou_loss

from ..bottom_up.bottom_up import ButdBottomUpOutput
from ..bottom_up.feature_pyramid import ButdPyramid, with_rows
from ..bottom_up.region_head import ButdRegionHead
from ..bottom_up.rpn import ButdProposals, ButdRpnSelector
from ..boxes import noise_boxes, refine_boxes
from ..regions import ButdRegions, join_regions
from .targets import ButdTarget, masks_within, match_boxes, mean_count


CELLS_PER_OBJECT = 10  # that learn to propose it, as in TOOD
FIT_EXPONENT = 6.0  # how much more fit counts than objectness when cells are chosen, as in TOOD
FOCUS = 2.0  # exponent that keeps the many easy empty cells from outweighing the others
EMPTY_WEIGHT = 0.75  # of empty cells, as in VarifocalNet
NOISED_COPIES = 2  # of each labelled box
BOX_NOISE = 0.4  # of its size: most copies overlap their box by more than half, as good proposals do
MOST_NOISED = 100  # boxes per image: crowded images would otherwise set the pace of a batch


@torch.no_grad()
def assign_cells(
    points: torch.Tensor,  # (num_cells, 2): centres
    boxes: torch.Tensor,  # (num_cells, 4): what each cell proposes
    scores: torch.Tensor,  # (num_cells,): its objectness, in [0, 1]
    target: ButdTarget,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which cells of one image learn to propose which object: task-aligned assignment (Feng et al. 2021, "TOOD").

    An object's cells are those with their centre in its box whose own box fits it best; no scale is fixed for a
    level. An object too small for any centre takes the nearest cell. Returned are for each cell the index of its
    object or -1, the objectness to learn in [0, 1], and whether it counts as empty, which cells in crowds don't.
    """
    is_counted = ~target.in_crowd(boxes)  # (num_cells,)
    objects = target.boxes
    matched = torch.full_like(is_counted, -1, dtype=torch.long)
    objectness = torch.zeros_like(scores)
    if len(objects) == 0:
        return matched, objectness, is_counted
    low, high = objects[:, None, :2], objects[:, None, 2:]
    inside = ((points > low) & (points < high)).all(dim=-1)  # (num_objects, num_cells)
    nearest = torch.cdist((objects[:, :2] + objects[:, 2:]) / 2, points).argmin(dim=1)
    rows = torch.arange(len(objects), device=nearest.device)
    inside[rows, nearest] |= ~inside.any(dim=1)

    fit = box_iou(objects, boxes).nan_to_num() * inside  # (num_objects, num_cells)
    alignment = scores * fit.clamp(min=1e-3) ** FIT_EXPONENT * inside
    best, cells = alignment.topk(min(CELLS_PER_OBJECT, alignment.shape[1]), dim=1)
    chosen = torch.zeros_like(alignment).scatter(1, cells, best)  # zero where the cell is outside
    highest, best_object = chosen.max(dim=0)  # of two objects, a cell serves the one that it fits better
    is_positive = highest > 0
    matched[is_positive] = best_object[is_positive]
    # the best cell of an object learns its own fit, the others less in proportion: nearly one proposal per object
    most_aligned = chosen.amax(dim=1).clamp(min=1e-30)
    best_fit = (fit * (chosen > 0)).amax(dim=1)
    share = (chosen / most_aligned[:, None] * best_fit[:, None]).gather(0, best_object[None])[0]  # (num_cells,)
    objectness[is_positive] = share[is_positive]
    return matched, objectness, is_counted | is_positive


def proposal_losses(proposals: ButdProposals, targets: list[ButdTarget]) -> dict[str, torch.Tensor]:
    """`loss_objectness` (varifocal, Zhang et al. 2021) and `loss_proposal_box` (generalised IoU) of all cells."""
    scores = proposals.logits.sigmoid()
    cells = (proposals.points, proposals.boxes.detach(), scores.detach(), targets)
    assigned = [assign_cells(*image) for image in zip(*cells, strict=True)]
    matched, objectness, is_counted = map(torch.stack, zip(*assigned, strict=True))  # each (batch_size, num_cells)
    is_positive = matched >= 0
    empty_weight = EMPTY_WEIGHT * scores.detach() ** FOCUS * (is_counted & proposals.mask)
    weight = torch.where(is_positive, objectness, empty_weight)
    loss = F.binary_cross_entropy_with_logits(proposals.logits, objectness, weight, reduction="sum")

    objects = torch.cat([target.boxes[row[row >= 0]] for target, row in zip(targets, matched, strict=True)])
    box = generalized_box_iou_loss(proposals.boxes[is_positive], objects) * objectness[is_positive]
    total = mean_count(objectness.sum())
    return {"loss_objectness": loss / total, "loss_proposal_box": box.sum() / total}


def region_losses(
    region_head: ButdRegionHead,
    pyramid: ButdPyramid,
    boxes: torch.Tensor,  # (batch_size, num_regions, 4): boxes of the regions before refinement
    regions: ButdRegions,
    targets: list[ButdTarget],
) -> dict[str, torch.Tensor]:
    """Losses of regions that match an object: `loss_region_box`, and of what the head is configured for
    `loss_region_class`, `loss_attribute` and `loss_region_mask`.
    """
    matched = match_boxes(boxes, regions.mask, targets)  # (batch_size, num_regions)
    rows, places = torch.where(matched >= 0)
    objects = matched[rows, places]
    total = mean_count(boxes.new_tensor(len(rows)))

    def of_objects(name: str) -> torch.Tensor:
        values = [getattr(target, name)[row[row >= 0]] for target, row in zip(targets, matched, strict=True)]
        return torch.cat(values)  # (num_positives, ...)

    features = regions.features[rows, places]  # (num_positives, region_size)
    refined = refine_boxes(boxes[rows, places], region_head.deltas(features))
    losses = {"loss_region_box": generalized_box_iou_loss(refined, of_objects("boxes"), reduction="sum") / total}
    if region_head.class_proj is not None:
        logits = regions.class_logits[rows, places].float()  # (num_positives, num_region_labels)
        losses["loss_region_class"] = F.cross_entropy(logits, of_objects("class_labels"), reduction="sum") / total
    if region_head.attribute_proj is not None:
        logits, labels = regions.attribute_logits[rows, places].float(), of_objects("attribute_labels")
        number = mean_count((labels >= 0).sum().float())
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        losses["loss_attribute"] = 0.5 * loss / number  # half, as Anderson et al. weigh it
    if region_head.mask_head is not None:
        has_mask = of_objects("has_mask")
        placed = with_rows(boxes).view(*boxes.shape[:2], 5)[rows, places][has_mask]  # (num_masks, 5)
        logits = region_head.mask_logits(pyramid, placed, features[has_mask])
        labels = masks_within(targets, placed, objects[has_mask], logits.shape[-1])
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=(1, 2)).sum()
        losses["loss_region_mask"] = loss / mean_count(logits.new_tensor(len(logits)))
    return losses


def noised_regions(
    selector: ButdRpnSelector, pyramid: ButdPyramid, targets: list[ButdTarget]
) -> tuple[torch.Tensor, ButdRegions]:
    """Boxes `(batch_size, num_noised, 4)` near the labelled ones, and the regions there: early proposals miss most
    objects, which would then teach the heads nothing.
    """
    noised = []
    for target in targets:
        chosen = torch.randperm(len(target.boxes), device=target.boxes.device)[:MOST_NOISED]
        noised.append(noise_boxes(target.boxes[chosen].repeat(NOISED_COPIES, 1), BOX_NOISE))
    boxes = nn.utils.rnn.pad_sequence(noised, batch_first=True)  # (batch_size, most, 4)
    counts = torch.tensor([len(rows) for rows in noised], device=boxes.device)
    mask = torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None]  # (batch_size, most)
    return boxes, selector.region_head(pyramid, boxes, mask.float(), mask)


def bottom_up_losses(
    selector: ButdRpnSelector, image: ButdBottomUpOutput, targets: list[ButdTarget]
) -> dict[str, torch.Tensor]:
    """All losses of a learned selector, by name."""
    with torch.autocast(image.proposals.logits.device.type, enabled=False):
        losses = proposal_losses(image.proposals, targets)
    boxes, regions = image.proposals.selected, image.regions
    if image.noised is not None:
        boxes = torch.cat([boxes, image.noised_boxes], dim=1)  # (batch_size, num_regions + num_noised, 4)
        regions = join_regions(regions, image.noised)
    losses.update(region_losses(selector.region_head, image.pyramid, boxes, regions, targets))
    return losses
