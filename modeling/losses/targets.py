# SPDX-License-Identifier: Apache-2.0
"""Labels of detection, checked and prepared for losses; and what sums of losses are divided by."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torchvision.ops import box_convert, box_iou

from ..bottom_up.feature_pyramid import pool_level
from ..boxes import overlap_with
from ..configuration_butd import ButdConfig


POSITIVE_OVERLAP = 0.5  # of a region with the object that it matches, as in Faster R-CNN
CROWD_OVERLAP = 0.5  # share of a box in a crowd from which nobody can tell whether it is wrong


@dataclass
class ButdTarget:
    """What is to be found in one image: neither crowds, nor boxes without any area inside the image."""

    class_labels: torch.Tensor  # (num_objects,)
    boxes: torch.Tensor  # (num_objects, 4): `x0, y0, x1, y1` in [0, 1], clipped to the image
    crowds: torch.Tensor  # (num_crowds, 4): boxes in which nothing found is wrong
    attribute_labels: torch.Tensor  # (num_objects,): -1 if unknown
    masks: torch.Tensor | None  # (num_objects, height, width)
    has_mask: torch.Tensor  # (num_objects,): True where its mask is known

    def in_crowd(self, boxes: torch.Tensor) -> torch.Tensor:
        """Which of the boxes (num_boxes, 4), `x0, y0, x1, y1` in [0, 1], lie in a crowd: `(num_boxes,)`."""
        return (overlap_with(boxes, self.crowds) > CROWD_OVERLAP).any(dim=1)


def mean_count(
    count: torch.Tensor,  # (): what this process counts, on the device that processes talk by
    least: float = 1.0,  # least count of all processes together
) -> torch.Tensor:
    """The mean over processes of what each of them counts, so that the mean over processes of their sums of losses,
    divided by it, is the loss of all their images together. The detectors of transformers do the same.

    Processes meet here only where gradients are wanted. Then they step together; in evaluations one may have more
    batches than another, and would wait for ever.
    """
    processes = 1
    if torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized():
        processes = torch.distributed.get_world_size()
        count = count.clone()
        torch.distributed.all_reduce(count)
    return count.clamp(min=least) / processes


def masks_within(
    targets: list[ButdTarget],
    boxes: torch.Tensor,  # (num_boxes, 5): row of the image, then `x0, y0, x1, y1` in [0, 1]; image after image
    objects: torch.Tensor,  # (num_boxes,): whose mask is cut out by each
    side: int,
) -> torch.Tensor:
    """Masks of some objects, cut out by boxes, `(num_boxes, side, side)`: 1.0 on the object, else 0.0."""
    parts = [boxes.new_zeros((0, side, side))]
    for row, target in enumerate(targets):
        is_here = boxes[:, 0] == row
        if is_here.any():
            masks = target.masks[:, None].float()  # (num_objects, 1, height, width)
            sizes = torch.tensor(masks.shape[-2:], device=boxes.device).expand(len(masks), -1)
            rois = torch.cat([objects[is_here].to(boxes.dtype)[:, None], boxes[is_here, 1:]], dim=1)
            parts.append((pool_level(masks, sizes, rois, side)[:, 0] >= 0.5).float())
    return torch.cat(parts)


@torch.no_grad()
def match_boxes(boxes: torch.Tensor, mask: torch.Tensor, targets: list) -> torch.Tensor:
    """The object that each box overlaps most, -1 below `POSITIVE_OVERLAP`: `(batch_size, num_regions)`."""
    matched = torch.full_like(mask, -1, dtype=torch.long)
    for row, target in enumerate(targets):
        if len(target.boxes):
            overlap, index = box_iou(boxes[row].float(), target.boxes).nan_to_num().max(dim=1)
            matched[row] = torch.where(mask[row] & (overlap >= POSITIVE_OVERLAP), index, -1)
    return matched


def require_range(values: torch.Tensor, lowest: int, highest: int, name: str) -> None:
    """Raises `ValueError` that names the first of `values` (n,) outside `lowest` to `highest`."""
    wrong = (values < lowest) | (values > highest)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ValueError(f"{name}[{first}] is {int(values[first])}, expected {lowest} to {highest}.")


def checked_objects(
    labels: list[dict[str, torch.Tensor]], num_labels: int, num_images: int
) -> Iterator[tuple[str, dict[str, torch.Tensor], torch.Tensor, torch.Tensor]]:
    """For each image its name in errors, its label, and its class labels (n,) and boxes (n, 4); `ValueError` where
    there are not as many labels as images, not as many boxes as classes, or a class doesn't exist.
    """
    if len(labels) != num_images:
        raise ValueError(f"`labels` has {len(labels)} entries, expected one for each of the {num_images} images.")
    for image, label in enumerate(labels):
        class_labels, boxes = label["class_labels"].long().reshape(-1), label["boxes"].float()
        boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
        if boxes.shape != (len(class_labels), 4):
            raise ValueError(
                f"labels[{image}]['boxes'] has shape {tuple(boxes.shape)}, expected {(len(class_labels), 4)}: one box "
                "for each of its class_labels."
            )
        require_range(class_labels, 0, num_labels - 1, f"labels[{image}]['class_labels']")
        yield f"labels[{image}]", label, class_labels, boxes


def prepare_targets(labels: list[dict[str, torch.Tensor]], config: ButdConfig, num_images: int) -> list[ButdTarget]:
    """Checks labels, see `ButdForObjectDetection.forward`, and separates objects from crowds; `ValueError` names the
    image and row that don't fit.
    """
    num_attributes = config.bottom_up_config.num_region_attributes
    targets = []
    for name, label, class_labels, boxes in checked_objects(labels, config.num_labels, num_images):
        number = len(class_labels)
        corners = box_convert(boxes, "cxcywh", "xyxy")
        finite = corners.isfinite().all(dim=1)
        corners = corners.nan_to_num().clamp(0.0, 1.0)  # (number, 4)
        has_area = finite & ((corners[:, 2:] - corners[:, :2]) > 1e-6).all(dim=1)
        crowd = label.get("iscrowd")
        crowd = crowd.bool() if crowd is not None else torch.zeros_like(has_area)
        kept = has_area & ~crowd

        masks, has_mask, attributes = (label.get(name) for name in ("masks", "has_mask", "attribute_labels"))
        if has_mask is None:
            has_mask = torch.full_like(kept, masks is not None)
        if attributes is None:
            attributes = torch.full_like(class_labels, -1)
        for field, value in (("masks", masks), ("has_mask", has_mask), ("attribute_labels", attributes)):
            if value is not None and len(value) != number:
                raise ValueError(f"{name}[{field!r}] has {len(value)} rows, expected {number}.")
        if num_attributes > 0:
            require_range(attributes.long(), -1, num_attributes - 1, f"{name}['attribute_labels']")
        if masks is None:
            has_mask = torch.zeros_like(kept)
        targets.append(
            ButdTarget(
                class_labels=class_labels[kept],
                boxes=corners[kept],
                crowds=corners[has_area & crowd],
                attribute_labels=attributes.long()[kept],
                masks=masks[kept] if masks is not None else None,
                has_mask=has_mask.bool()[kept],
            )
        )
    return targets
