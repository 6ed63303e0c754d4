# SPDX-License-Identifier: Apache-2.0
"""Set losses of detection and instance segmentation: each object is matched with a prediction, then compared."""

from types import SimpleNamespace

import torch
from torchvision.ops import box_convert
from transformers.loss.loss_for_object_detection import dice_loss, sigmoid_focal_loss
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher, RTDetrLoss

from ..configuration_butd import ButdConfig
from ..top_down.detection import ABSENT_LOGIT, centred
from .counts import shared_count
from .targets import ButdTarget


# one pair of tensors per image: predictions, and the objects that they are matched with
Matches = list[tuple[torch.Tensor, torch.Tensor]]


class ButdSetLoss:
    """
    The Hungarian matching and the losses of RT-DETR in transformers, with what they leave open.

    Matching and classes are those of one sigmoid per class: `loss_ce` is the varifocal loss, in which a matched
    prediction learns how well its box fits. Absent queries and those in crowds learn nothing. An object may be
    matched several times (Jia et al. 2023, "DETRs with hybrid matching").
    """

    def __init__(self, config: ButdConfig):
        self.config = config
        self.weights = {
            "loss_ce": config.class_loss_coefficient,
            "loss_bbox": config.bbox_loss_coefficient,
            "loss_giou": config.giou_loss_coefficient,
            "loss_mask": config.mask_loss_coefficient,
            "loss_dice": config.dice_loss_coefficient,
        }
        settings = SimpleNamespace(  # RT-DETR's own values, except for what this package's config says
            num_labels=config.num_labels,
            matcher_class_cost=config.class_cost,
            matcher_bbox_cost=config.bbox_cost,
            matcher_giou_cost=config.giou_cost,
            matcher_alpha=0.25,
            matcher_gamma=2.0,
            use_focal_loss=True,
            focal_loss_alpha=0.75,
            focal_loss_gamma=2.0,
            weight_loss_vfl=1.0,
            weight_loss_bbox=5.0,
            weight_loss_giou=2.0,
            eos_coefficient=1e-4,
        )
        self.matcher = RTDetrHungarianMatcher(settings)
        self.criterion = RTDetrLoss(settings)

    def __call__(
        self,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        present: torch.Tensor,
        targets: list[ButdTarget],
        copies: int = 1,
    ) -> tuple[dict[str, torch.Tensor], Matches]:
        """
        Args:
            logits (`torch.FloatTensor` of shape `(batch_size, num_queries, num_labels)`): One sigmoid per class.
            boxes (`torch.FloatTensor` of shape `(batch_size, num_queries, 4)`): `x0, y0, x1, y1`, not clipped.
            present (`torch.BoolTensor` of shape `(batch_size, num_queries)`): False where there is no query.
            copies (`int`): Predictions matched with each object.

        Returns:
            `loss_ce`, `loss_bbox` and `loss_giou`, and the matches.
        """
        wanted = [
            {"class_labels": target.class_labels.repeat(copies), "boxes": target.centred_boxes.repeat(copies, 1)}
            for target in targets
        ]
        outputs = {"logits": logits.float(), "pred_boxes": centred(boxes)}
        matches = []
        for row, (queries, objects) in enumerate(self.matcher(outputs, wanted)):
            there = present[row].cpu()[queries]
            matches.append((queries[there].to(logits.device), objects[there].to(logits.device)))
        outputs["logits"] = outputs["logits"].masked_fill(self.excused(outputs, targets, matches), ABSENT_LOGIT)
        number = shared_count(outputs["logits"].new_tensor(sum(len(target["class_labels"]) for target in wanted)))
        losses = {"loss_ce": self.criterion.loss_labels_vfl(outputs, wanted, matches, number)["loss_vfl"]}
        outputs["pred_boxes"] = box_convert(boxes, "xyxy", "cxcywh")  # clipped ones would not feel the border
        losses.update(self.criterion.loss_boxes(outputs, wanted, matches, number))
        return losses, matches

    @torch.no_grad()
    def excused(self, outputs: dict[str, torch.Tensor], targets: list[ButdTarget], matches: Matches) -> torch.Tensor:
        """True at unmatched queries in a crowd: `(batch_size, num_queries, 1)`."""
        excused = torch.zeros(outputs["logits"].shape[:2], dtype=torch.bool, device=outputs["logits"].device)
        for row, (target, (queries, _)) in enumerate(zip(targets, matches, strict=True)):
            boxes = box_convert(outputs["pred_boxes"][row], "cxcywh", "xyxy")
            excused[row] = target.in_crowd(boxes)
            excused[row, queries] = False
        return excused[..., None]

    def weighted(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The sum of losses whose names begin with one that has a weight, e.g. `loss_ce_0`."""
        return sum(self.weights["_".join(name.split("_")[:2])] * loss for name, loss in losses.items())


def mask_losses(
    logits: torch.Tensor, boxes: torch.Tensor, targets: list[ButdTarget], matches: Matches
) -> dict[str, torch.Tensor]:
    """
    `loss_mask` (cross-entropy per cell) and `loss_dice` of masks within boxes.

    Args:
        logits (`torch.FloatTensor` of shape `(num_masks, m, m)`): In the order of the matches, image after image.
        boxes (`torch.FloatTensor` of shape `(num_masks, 4)`): The boxes in which they are drawn, `x0, y0, x1, y1`.
        matches: Only those of objects that have a mask.
    """
    seen, begin = [logits.new_zeros((0, *logits.shape[1:]))], 0
    for target, (_, objects) in zip(targets, matches, strict=True):
        if len(objects):
            end = begin + len(objects)
            seen.append(target.masks_within(boxes[begin:end], objects, logits.shape[-1]))
            begin = end
    logits, seen = logits.flatten(1), torch.cat(seen).flatten(1)  # (num_masks, m * m)
    number = shared_count(logits.new_tensor(len(logits)))
    return {
        "loss_mask": sigmoid_focal_loss(logits, seen, number, alpha=-1, gamma=0),
        "loss_dice": dice_loss(logits, seen, number),
    }


__all__ = ["ButdSetLoss", "mask_losses"]
