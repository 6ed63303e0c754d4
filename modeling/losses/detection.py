# SPDX-License-Identifier: Apache-2.0
"""Set losses of detection and instance segmentation: each object is matched with a query, then compared."""

import torch
from torchvision.ops import box_convert
from transformers import RTDetrConfig
from transformers.loss.loss_for_object_detection import dice_loss, sigmoid_focal_loss
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss

from ..boxes import ABSENT_LOGIT, centred
from ..top_down.detection import ButdDetectionDecoderOutput
from .targets import ButdTarget, masks_within, mean_count


# weights of the parts of the loss, as in Deformable DETR and RT-DETR; the bottom-up parts count as they are
LOSS_WEIGHTS = {"loss_ce": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0, "loss_mask": 1.0, "loss_dice": 1.0}

# one pair of tensors per image: queries, and the objects that they are matched with
Matches = list[tuple[torch.Tensor, torch.Tensor]]


class ButdSetLoss:
    """The Hungarian matching and the losses of RT-DETR in transformers.

    Matching and classes are those of one sigmoid per class: `loss_ce` is the varifocal loss, in which a matched
    query learns how well its box fits. Queries that don't exist, and unmatched ones in crowds, add nothing. An object
    may be matched several times (Jia et al. 2023, "DETRs with hybrid matching").
    """

    def __init__(self, num_labels: int):
        settings = RTDetrConfig(num_labels=num_labels)  # with the weights of its losses
        self.matcher = RTDetrHungarianMatcher(settings)
        self.criterion = RTDetrLoss(settings)

    def __call__(
        self,
        decoded: ButdDetectionDecoderOutput,  # logits and boxes of each layer
        exists: torch.Tensor,  # (batch_size, num_queries): False where there is no query
        targets: list[ButdTarget],
        copies: int = 1,  # queries matched with each object
    ) -> tuple[dict[str, torch.Tensor], Matches]:
        """`loss_ce`, `loss_bbox` and `loss_giou` of the last layer, with `_0`, `_1`, ... of those before, and the
        matches of the last.
        """
        labels = []
        for target in targets:
            boxes = box_convert(target.boxes, "xyxy", "cxcywh").repeat(copies, 1)
            labels.append({"class_labels": target.class_labels.repeat(copies), "boxes": boxes})
        number = mean_count(exists.new_tensor(sum(len(label["boxes"]) for label in labels), dtype=torch.float))
        losses, last = {}, len(decoded.logits) - 1
        for layer, (logits, boxes) in enumerate(zip(decoded.logits, decoded.boxes, strict=True)):
            outputs = {"logits": logits.float(), "pred_boxes": centred(boxes)}
            matches = []
            for row, (queries, objects) in enumerate(self.matcher(outputs, labels)):
                is_there = exists[row].cpu()[queries]
                matches.append((queries[is_there].to(boxes.device), objects[is_there].to(boxes.device)))
            ignored = ignored_queries(outputs["pred_boxes"], targets, matches)
            outputs["logits"] = outputs["logits"].masked_fill(ignored, ABSENT_LOGIT)
            parts = {"loss_ce": self.criterion.loss_labels_vfl(outputs, labels, matches, number)["loss_vfl"]}
            outputs["pred_boxes"] = box_convert(boxes, "xyxy", "cxcywh")  # clipped ones have no gradient at the border
            parts.update(self.criterion.loss_boxes(outputs, labels, matches, number))
            losses.update({name if layer == last else f"{name}_{layer}": part for name, part in parts.items()})
        return losses, matches


@torch.no_grad()
def ignored_queries(boxes: torch.Tensor, targets: list[ButdTarget], matches: Matches) -> torch.Tensor:
    """True at unmatched queries in a crowd, `(batch_size, num_queries, 1)`; boxes are `centre x, centre y, w, h`."""
    ignored = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for row, (target, (queries, _)) in enumerate(zip(targets, matches, strict=True)):
        ignored[row] = target.in_crowd(box_convert(boxes[row], "cxcywh", "xyxy"))
        ignored[row, queries] = False
    return ignored[..., None]


def mask_losses(
    logits: torch.Tensor,  # (num_masks, m, m): image after image
    boxes: torch.Tensor,  # (num_masks, 5): row of the image, then the mask's `x0, y0, x1, y1`
    objects: torch.Tensor,  # (num_masks,): whose masks they are
    targets: list[ButdTarget],
) -> dict[str, torch.Tensor]:
    """`loss_mask` (cross-entropy per cell) and `loss_dice` of masks within boxes."""
    labels = masks_within(targets, boxes, objects, logits.shape[-1]).flatten(1)  # (num_masks, m * m)
    number = mean_count(logits.new_tensor(len(logits)))
    return {
        "loss_mask": sigmoid_focal_loss(logits.flatten(1), labels, number, alpha=-1, gamma=0),
        "loss_dice": dice_loss(logits.flatten(1), labels, number),
    }


def weighted_sum(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss: parts by the weight of the name that theirs begins with, e.g. `loss_ce_0` by that of `loss_ce`."""
    return sum(LOSS_WEIGHTS.get("_".join(name.split("_")[:2]), 1.0) * loss for name, loss in losses.items())
