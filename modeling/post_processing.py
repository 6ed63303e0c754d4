# SPDX-License-Identifier: Apache-2.0
"""From what detection models return to boxes and masks in the pixels of the original pictures."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.ops import box_convert
from transformers.models.detr.image_processing_detr import binary_mask_to_rle


NOTHING = 1e-12  # scores of queries that don't exist are lower
Sizes = torch.Tensor | list[tuple[int, int]] | None


def check_sizes(target_sizes: Sizes, batch_size: int) -> list[tuple[int, int]] | None:
    """Heights and widths as integers."""
    if target_sizes is None:
        return None
    sizes = target_sizes.tolist() if isinstance(target_sizes, torch.Tensor) else target_sizes
    if len(sizes) != batch_size:
        raise ValueError(f"target_sizes has {len(sizes)} sizes, expected one for each of {batch_size} images.")
    return [(int(height), int(width)) for height, width in sizes]


def best_pairs(logits: torch.Tensor, threshold: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    The best pairs of query and class of one image, best first.

    Args:
        logits (`torch.FloatTensor` of shape `(num_queries, num_labels + 1)`): One sigmoid per class; the last column
            is "no object" and isn't read.

    Returns:
        Scores, classes and queries, each of shape `(num_pairs,)`.
    """
    scores = logits[:, :-1].float().sigmoid()  # (num_queries, num_labels)
    num_labels = scores.shape[1]
    scores, pairs = scores.flatten().sort(descending=True, stable=True)
    kept = (scores > max(threshold, NOTHING)) & (torch.arange(len(scores), device=scores.device) < top_k)
    pairs = pairs[kept]
    return scores[kept], pairs % num_labels, torch.div(pairs, num_labels, rounding_mode="floor")


def objects_in_pixels(outputs: Any, threshold: float, target_sizes: Sizes, top_k: int) -> list[dict]:
    """
    Scores, labels, boxes in pixels and queries of the objects in each image, best first.

    Raises:
        ValueError: `target_sizes` isn't as long as the batch.
    """
    logits, boxes = outputs.logits, box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy").clamp(0.0, 1.0)
    sizes = check_sizes(target_sizes, len(logits))
    results = []
    for row in range(len(logits)):
        scores, labels, queries = best_pairs(logits[row], threshold, top_k)
        found = boxes[row, queries]  # (num_objects, 4)
        if sizes is not None:
            height, width = sizes[row]
            found = found * found.new_tensor([width, height, width, height])
        results.append({"scores": scores, "labels": labels, "boxes": found, "queries": queries})
    return results


@dataclass
class ButdPastedObject:
    """
    An object on the pixels of its picture, kept as the part of the picture that its box covers.

    Args:
        label (`int`): Its class.
        score (`float`): In [0, 1].
        window (`torch.BoolTensor` of shape `(num_rows, num_columns)`): True on the object; False everywhere else in
            the picture.
        top (`int`): Row of the picture where the window begins.
        left (`int`): Column of the picture where the window begins.
    """

    label: int
    score: float
    window: torch.Tensor
    top: int
    left: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the picture that the window covers."""
        num_rows, num_columns = self.window.shape
        return slice(self.top, self.top + num_rows), slice(self.left, self.left + num_columns)


def paste_mask(mask: torch.Tensor, box: list[float], height: int, width: int) -> tuple[torch.Tensor, int, int]:
    """
    A mask within a box at the resolution of the picture, sampled at the centres of its pixels.

    Args:
        mask (`torch.FloatTensor` of shape `(m, m)`): In [0, 1], within the box.
        box (`list[float]`): `x0, y0, x1, y1` in pixels.

    Returns:
        `torch.FloatTensor` of shape `(num_rows, num_columns)`, the pixels of the picture that the box covers, perhaps
        none; and the row and column where they begin.
    """
    x0, y0, x1, y1 = box
    top, left = max(0, round(y0)), max(0, round(x0))
    bottom, right = min(height, max(round(y1), round(y0) + 1)), min(width, max(round(x1), round(x0) + 1))
    if top >= bottom or left >= right:
        return mask.new_zeros(0, 0), top, left
    across = torch.arange(left, right, device=mask.device) + 0.5
    down = torch.arange(top, bottom, device=mask.device) + 0.5
    across_box = (across - x0) / max(x1 - x0, 1e-6) * 2 - 1
    down_box = (down - y0) / max(y1 - y0, 1e-6) * 2 - 1
    places = torch.stack([across_box.expand(len(down), -1), down_box[:, None].expand(-1, len(across))], dim=-1)
    pasted = F.grid_sample(mask[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]
    return pasted, top, left  # (num_rows, num_columns)


def pasted_objects(
    outputs: Any, threshold: float, mask_threshold: float, target_sizes: Sizes, top_k: int
) -> list[list[ButdPastedObject]]:
    """
    The objects in each image, best first, on the pixels of the original pictures; those without any are left out.

    Raises:
        ValueError: `target_sizes` isn't as long as the batch.
    """
    sizes = mask_sizes(outputs, target_sizes)
    results = []
    for row, found in enumerate(objects_in_pixels(outputs, threshold, sizes, top_k)):
        queries = found["queries"].tolist()
        masks = outputs.pred_masks[row, found["queries"]].float().sigmoid()  # (num_objects, m, m)
        windows, objects = {}, []
        numbers = zip(*(found[name].tolist() for name in ("labels", "scores", "boxes")), strict=True)
        for query, mask, (label, score, box) in zip(queries, masks, numbers, strict=True):
            if query not in windows:  # one that may be several things is drawn once
                pasted, *corner = paste_mask(mask, box, *sizes[row])
                pasted = pasted > mask_threshold
                windows[query] = (pasted, *corner, bool(pasted.any()))
            *window, seen = windows[query]
            if seen:
                objects.append(ButdPastedObject(label, score, *window))
        results.append(objects)
    return results


def mask_sizes(outputs: Any, target_sizes: Sizes) -> list[tuple[int, int]]:
    """Heights and widths of the pictures; those of the predicted masks if none are given."""
    sizes = check_sizes(target_sizes, len(outputs.logits))
    return [tuple(outputs.pred_masks.shape[-2:])] * len(outputs.logits) if sizes is None else sizes


def segments_in_pixels(
    outputs: Any,
    threshold: float,
    mask_threshold: float,
    overlap_mask_area_threshold: float,
    target_sizes: Sizes,
    return_coco_annotation: bool,
    return_binary_maps: bool,
    top_k: int,
) -> list[dict]:
    """The body of `ButdImageProcessor.post_process_instance_segmentation`."""
    if return_coco_annotation and return_binary_maps:
        raise ValueError("return_coco_annotation and return_binary_maps cannot both be True.")
    sizes = mask_sizes(outputs, target_sizes)
    device = outputs.pred_masks.device
    results = []
    for (height, width), objects in zip(
        sizes, pasted_objects(outputs, threshold, mask_threshold, sizes, top_k), strict=True
    ):
        if return_coco_annotation or return_binary_maps:
            segmentation = torch.zeros((len(objects), height, width), dtype=torch.bool, device=device)
            for number, found in enumerate(objects):
                segmentation[number][found.place] = found.window
            if return_coco_annotation:
                segmentation = [binary_mask_to_rle(one.int()) for one in segmentation.cpu()]
        else:
            segmentation, objects = arranged(objects, overlap_mask_area_threshold, height, width, device)
        segments = [
            {"id": number, "label_id": found.label, "score": round(found.score, 6)}
            for number, found in enumerate(objects)
        ]
        results.append({"segmentation": segmentation, "segments_info": segments})
    return results


def arranged(
    objects: list[ButdPastedObject], least_share: float, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, list[ButdPastedObject]]:
    """A map `(height, width)` of which object is where, better ones in front, and those that are seen enough."""
    segmentation = torch.full((height, width), -1, dtype=torch.int32, device=device)
    free = torch.ones(height, width, dtype=torch.bool, device=device)
    kept = []
    for found in objects:
        rest = found.window & free[found.place]  # what better objects leave
        if int(rest.sum()) >= max(1, least_share * int(found.window.sum())):
            segmentation[found.place][rest] = len(kept)
            free[found.place] &= ~found.window
            kept.append(found)
    return segmentation, kept


__all__ = ["ButdPastedObject", "objects_in_pixels", "pasted_objects", "segments_in_pixels"]
