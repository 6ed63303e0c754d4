# SPDX-License-Identifier: Apache-2.0
"""
The region proposal network of the published bottom-up detector (Ren et al. 2015), in the conventions of its variants.

The Caffe code counts pixels: a box from 0 to 15 is 16 wide, and an image's last column is its width minus one. The
detectron2 ports measure: that box is 15 wide, and the image ends at its width.
"""

import math

import torch
from torch import nn
from torchvision.ops import nms

from ..configuration_butd import ButdBottomUpConfig
from .resnet_c4 import STRIDE


RATIOS = (0.5, 1.0, 2.0)  # of anchors, height to width
SCALES = (4, 8, 16, 32)
BASE_SIZE = 16
LARGEST_LOG_SCALE = math.log(1000 / 16)  # of the detectron2 ports: a box grows to 62 times its anchor at most

HIDDEN_SIZE = 512
NUM_CANDIDATES = 6000  # enter non-maximum suppression
NUM_PROPOSALS = 300  # leave it, at most
NMS_THRESHOLD = 0.7
SMALLEST_SIDE = 16  # of a proposal of the Caffe code, in pixels of the original image


def cell_anchors(variant: str) -> torch.Tensor:
    """The 12 anchors of a cell, `(12, 4)` as `x0, y0, x1, y1` in pixels.

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
    boxes: torch.Tensor,  # (num_boxes, 4): `x0, y0, x1, y1` in pixels
    deltas: torch.Tensor,  # (num_boxes, 4): of centre and size, `x, y, log width, log height`
    variant: str,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),  # what the deltas are divided by
) -> torch.Tensor:
    """Boxes moved and scaled by regressed deltas (Girshick et al. 2014, appendix C).

    `"caffe"` counts pixels in the sizes of `boxes`, but not in the result, as the published code; `"detectron2"`
    doesn't, and bounds the growth.
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


def inclusive(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes whose last pixel is included, as boxes of the same area whose end isn't."""
    return boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])


class ButdFasterRcnnProposals(nn.Module):
    """Boxes that may hold an object, from anchors at every cell of the feature map.

    `"caffe"`: two scores per anchor, background and foreground; small boxes are dropped, then the best 6000 kept.
    `"detectron2"`: one score per anchor; the best 6000 are kept, then empty ones dropped. The anchors are part of the
    state, since those of a checkpoint may be ordered and centred otherwise.
    """

    def __init__(self, config: ButdBottomUpConfig, num_channels: int):
        super().__init__()
        self.config = config
        anchors = cell_anchors(config.variant)
        self.num_anchors = len(anchors)
        scores_per_anchor = 2 if config.variant == "caffe" else 1
        self.register_buffer("cell_anchors", anchors)
        self.conv = nn.Conv2d(num_channels, HIDDEN_SIZE, kernel_size=3, padding=1)
        self.act_fn = nn.ReLU()
        self.objectness = nn.Conv2d(HIDDEN_SIZE, scores_per_anchor * self.num_anchors, kernel_size=1)
        self.deltas = nn.Conv2d(HIDDEN_SIZE, 4 * self.num_anchors, kernel_size=1)

    def forward(self, feature_map: torch.Tensor, height: int, width: int, image_scale: float) -> torch.Tensor:
        """Boxes `(num_proposals, 4)`, `x0, y0, x1, y1` in pixels, best first, at least one, of an image `height` and
        `width` pixels large, `image_scale` times as large as the original, and its map `(1, num_channels, ...)`.
        """
        variant = self.config.variant
        hidden_states = self.act_fn(self.conv(feature_map))
        scores = self.scores(self.objectness(hidden_states))  # (map_height * map_width * num_anchors,)
        deltas = self.deltas(hidden_states)[0].unflatten(0, (self.num_anchors, 4))
        deltas = deltas.permute(2, 3, 0, 1).reshape(-1, 4).float()  # (map_height * map_width * num_anchors, 4)
        anchors = grid_anchors(self.cell_anchors.float(), *feature_map.shape[2:], STRIDE)
        boxes = clip_to_image(move_boxes(anchors, deltas, variant), height, width, variant)

        sides = boxes[:, 2:] - boxes[:, :2]  # (map_height * map_width * num_anchors, 2)
        order = scores.argsort(descending=True, stable=True)
        if variant == "caffe":
            usable = (sides + 1 >= SMALLEST_SIDE * image_scale).all(dim=1)
            order = order[usable[order]][:NUM_CANDIDATES]
        else:
            order = order[:NUM_CANDIDATES]
            order = order[(sides[order] > 0).all(dim=1)]
        if len(order) == 0:  # of an image too small for any proposal: all of it
            return clip_to_image(boxes.new_tensor([[0.0, 0.0, width, height]]), height, width, variant)
        boxes = boxes[order]
        keep = nms(inclusive(boxes) if variant == "caffe" else boxes, scores[order], NMS_THRESHOLD)
        return boxes[keep[:NUM_PROPOSALS]]

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Objectness of each anchor, in the order of the anchors: a probability for `"caffe"`, else a logit."""
        logits = logits[0].float()  # (scores_per_anchor * num_anchors, map_height, map_width)
        if self.config.variant == "caffe":  # all backgrounds come first
            logits = logits.unflatten(0, (2, self.num_anchors)).softmax(dim=0)[1]
        return logits.permute(1, 2, 0).flatten()
