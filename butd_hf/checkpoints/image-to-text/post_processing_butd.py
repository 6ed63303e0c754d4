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
"""From what detection models return to boxes and masks in the pixels of the original pictures."""

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


def paste_mask(mask: torch.Tensor, box: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """
    A mask within a box as a mask of the picture, sampled at the centres of its pixels.

    Args:
        mask (`torch.FloatTensor` of shape `(m, m)`): In [0, 1], within the box.
        box (`torch.FloatTensor` of shape `(4,)`): `x0, y0, x1, y1` in pixels.

    Returns:
        `torch.FloatTensor` of shape `(height, width)`; zero outside the box.
    """
    x0, y0, x1, y1 = box.tolist()
    across = torch.arange(max(0, round(x0)), min(width, max(round(x1), round(x0) + 1)), device=mask.device) + 0.5
    down = torch.arange(max(0, round(y0)), min(height, max(round(y1), round(y0) + 1)), device=mask.device) + 0.5
    picture = mask.new_zeros(height, width)
    if len(across) and len(down):
        across_box = (across - x0) / max(x1 - x0, 1e-6) * 2 - 1
        down_box = (down - y0) / max(y1 - y0, 1e-6) * 2 - 1
        places = torch.stack([across_box.expand(len(down), -1), down_box[:, None].expand(-1, len(across))], dim=-1)
        seen = F.grid_sample(mask[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]
        top, left = int(down[0]), int(across[0])
        picture[top : top + len(down), left : left + len(across)] = seen
    return picture


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
    sizes = check_sizes(target_sizes, len(outputs.logits))
    if sizes is None:
        sizes = [tuple(outputs.pred_masks.shape[-2:])] * len(outputs.logits)
    results = []
    for row, found in enumerate(objects_in_pixels(outputs, threshold, sizes, top_k)):
        height, width = sizes[row]
        masks = outputs.pred_masks[row, found["queries"]].float().sigmoid()  # (num_objects, m, m)
        segments, maps = [], []
        free = torch.ones(height, width, dtype=torch.bool, device=masks.device)
        segmentation = torch.full((height, width), -1, dtype=torch.int32, device=masks.device)
        overlapping = return_coco_annotation or return_binary_maps
        for mask, box, score, label in zip(masks, found["boxes"], found["scores"], found["labels"], strict=True):
            whole = paste_mask(mask, box, height, width) > mask_threshold
            area = int(whole.sum())
            rest = whole & free  # what better objects leave
            if area == 0 or (not overlapping and int(rest.sum()) < max(1, overlap_mask_area_threshold * area)):
                continue
            segmentation[rest] = len(segments)
            free &= ~whole
            segments.append({"id": len(segments), "label_id": int(label), "score": round(float(score), 6)})
            maps.append(whole)
        if return_binary_maps:
            segmentation = torch.stack(maps) if maps else segmentation.new_zeros((0, height, width), dtype=torch.bool)
        elif return_coco_annotation:
            segmentation = [binary_mask_to_rle(one.cpu().int()) for one in maps]
        results.append({"segmentation": segmentation, "segments_info": segments})
    return results


__all__ = ["objects_in_pixels", "segments_in_pixels"]
