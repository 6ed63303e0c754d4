# SPDX-License-Identifier: Apache-2.0
"""Boxes as `x0, y0, x1, y1` in [0, 1] of the unpadded image: how they are refined, and how labels are noised."""

import math

import torch
from torchvision.ops import box_convert


ABSENT_LOGIT = -30.0  # of every class of a query that doesn't exist: a probability of 1e-13
LARGEST_STEP = math.log(1000 / 16)  # of a side, in one refinement; torchvision's detectors stop there too


def refine_boxes(boxes: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """Moves and scales boxes in their own frame (Girshick et al. 2014, equations 1 to 4).

    Features are pooled in that frame; the sigmoid space of Deformable DETR is the image's, and saturates where boxes
    touch the border.

    Args:
        boxes (`torch.FloatTensor` of shape `(..., 4)`): `x0, y0, x1, y1`.
        deltas (`torch.Tensor` of shape `(..., 4)`): Shift of the centre in widths and heights, and the logarithm of
            the change of width and height.

    Returns:
        `torch.FloatTensor` of shape `(..., 4)`, not clipped to the image, which would stop gradients.
    """
    deltas = deltas.float()
    low, high = boxes[..., :2], boxes[..., 2:]
    size = (high - low) * deltas[..., 2:].clamp(-LARGEST_STEP, LARGEST_STEP).exp()
    centre = (low + high) / 2 + deltas[..., :2] * (high - low)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)  # (..., 4)


def clip_boxes(boxes: torch.Tensor, smallest: float = 1e-3) -> torch.Tensor:
    """Boxes cut at the image's border; no side is shorter than `smallest`, so that every box has something to pool."""
    low = boxes[..., :2].clamp(0.0, 1.0 - smallest)
    high = torch.maximum(boxes[..., 2:].clamp(max=1.0), low + smallest)
    return torch.cat([low, high], dim=-1)  # (..., 4)


def centred(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes clipped to the image, as `centre x, centre y, width, height`: what detection models return."""
    return box_convert(clip_boxes(boxes), "xyxy", "cxcywh")


def with_no_object(logits: torch.Tensor) -> torch.Tensor:
    """Logits of one sigmoid per class with a last column for "no object", always 0.

    Beside that column the softmax of a class alone is its sigmoid: code that expects the softmax of DETR ranks and
    thresholds nearly as code that reads the sigmoids.
    """
    return torch.cat([logits, logits.new_zeros((*logits.shape[:-1], 1))], dim=-1)


def noise_boxes(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """Boxes moved by up to half of `scale` and scaled by up to `scale` of their size, clipped to the image."""
    size = boxes[..., 2:] - boxes[..., :2]
    shift = (torch.rand_like(size) - 0.5) * scale
    growth = torch.log1p((torch.rand_like(size) * 2 - 1) * scale)
    return clip_boxes(refine_boxes(boxes, torch.cat([shift, growth], dim=-1)))  # (..., 4)


def overlap_with(boxes: torch.Tensor, areas: torch.Tensor) -> torch.Tensor:
    """How much of each box `(num_boxes, 4)` lies in each of `areas` `(num_areas, 4)`, in [0, 1]."""
    low = torch.maximum(boxes[:, None, :2], areas[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], areas[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)  # (num_boxes, num_areas)
    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    return shared / size[:, None].clamp(min=1e-9)
