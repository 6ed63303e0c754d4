# SPDX-License-Identifier: Apache-2.0
"""Anchors of the published bottom-up detector and the boxes that it makes of them, in the conventions of its variants.

The Caffe code counts pixels: a box from 0 to 15 is 16 wide, and an image's last column is its width minus one. The
detectron2 ports measure: that box is 15 wide, and the image ends at its width.
"""

import math

import torch


RATIOS = (0.5, 1.0, 2.0)  # height to width
SCALES = (4, 8, 16, 32)
BASE_SIZE = 16
LARGEST_LOG_SCALE = math.log(1000 / 16)  # of the detectron2 ports: a box grows to 62 times its anchor at most


def cell_anchors(variant: str) -> torch.Tensor:
    """
    The 12 anchors of a cell, `(12, 4)` as `x0, y0, x1, y1` in pixels.

    `"caffe"`: for each ratio a box of whole pixels around the centre 7.5, last pixel included, at each scale; the
    first is -38, -16, 53, 31. `"detectron2"`: for each scale a box of exact area and ratio around 0.
    """
    if variant == "detectron2":
        sizes = [(BASE_SIZE * scale / math.sqrt(ratio), ratio) for scale in SCALES for ratio in RATIOS]
        return torch.tensor([[-width / 2, -ratio * width / 2, width / 2, ratio * width / 2] for width, ratio in sizes])
    centre = (BASE_SIZE - 1) / 2
    anchors = []
    for ratio in RATIOS:
        width = round(math.sqrt(BASE_SIZE**2 / ratio))
        height = round(width * ratio)  # halves to even, as numpy does
        for scale in SCALES:
            across, down = (width * scale - 1) / 2, (height * scale - 1) / 2
            anchors.append([centre - across, centre - down, centre + across, centre + down])
    return torch.tensor(anchors)


def grid_anchors(anchors: torch.Tensor, height: int, width: int, stride: int) -> torch.Tensor:
    """Anchors of all cells of a map, `(height * width * num_anchors, 4)`, rows first, those of a cell together."""
    down = torch.arange(height, device=anchors.device, dtype=anchors.dtype) * stride
    across = torch.arange(width, device=anchors.device, dtype=anchors.dtype) * stride
    corners = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width)], dim=-1)  # (height, width, 2)
    shifts = corners.repeat(1, 1, 2).view(-1, 1, 4)  # (height * width, 1, 4)
    return (shifts + anchors).view(-1, 4)


def move_boxes(
    boxes: torch.Tensor,
    deltas: torch.Tensor,
    variant: str,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> torch.Tensor:
    """
    Boxes moved and scaled by regressed deltas (Girshick et al. 2014, appendix C).

    Args:
        boxes (`torch.FloatTensor` of shape `(num_boxes, 4)`): `x0, y0, x1, y1` in pixels.
        deltas (`torch.FloatTensor` of shape `(num_boxes, 4)`): Of centre and size, `x, y, log width, log height`.
        variant (`str`): `"caffe"` counts pixels in the sizes of `boxes`, but not in the result, as the published code;
            `"detectron2"` doesn't, and bounds the growth.
        weights (`tuple`): What the deltas are divided by.
    """
    size = boxes[:, 2:] - boxes[:, :2] + (1.0 if variant == "caffe" else 0.0)
    centre = boxes[:, :2] + 0.5 * size
    deltas = deltas / deltas.new_tensor(weights)
    log_scale = deltas[:, 2:]
    if variant == "detectron2":
        log_scale = log_scale.clamp(max=LARGEST_LOG_SCALE)
    centre = deltas[:, :2] * size + centre
    size = log_scale.exp() * size
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=1)  # (num_boxes, 4)


def clip_to_image(boxes: torch.Tensor, height: int, width: int, variant: str) -> torch.Tensor:
    """Boxes within the image; its last pixel is the one before its size for `"caffe"`."""
    last = 1 if variant == "caffe" else 0
    high = boxes.new_tensor([width - last, height - last]).repeat(2)
    return torch.minimum(boxes.clamp(min=0), high)
