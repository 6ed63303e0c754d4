# SPDX-License-Identifier: Apache-2.0
"""The region proposal network of the published bottom-up detector (Ren et al. 2015), in both of its variants."""

import torch
from torch import nn
from torchvision.ops import nms

from ..configuration_butd import ButdBottomUpConfig
from .faster_rcnn_anchors import cell_anchors, clip_to_image, grid_anchors, move_boxes
from .resnet_c4 import STRIDE


HIDDEN_SIZE = 512
NUM_CANDIDATES = 6000  # enter non-maximum suppression
NUM_PROPOSALS = 300  # leave it, at most
NMS_THRESHOLD = 0.7
SMALLEST_SIDE = 16  # of a proposal of the Caffe code, in pixels of the original image


class ButdFasterRcnnProposals(nn.Module):
    """
    Boxes that may hold an object, from anchors at every cell of the feature map.

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

    def forward(
        self, feature_map: torch.Tensor, height: int, width: int, image_scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            feature_map (`torch.FloatTensor` of shape `(1, num_channels, map_height, map_width)`): Of one image.
            height, width (`int`): Size of the image in pixels.
            image_scale (`float`): Pixels of the image per pixel of the original image.

        Returns:
            Boxes `(num_proposals, 4)`, `x0, y0, x1, y1` in pixels, best first, at least one; and scores
            `(num_proposals,)`.
        """
        variant = self.config.variant
        hidden_states = self.act_fn(self.conv(feature_map))
        scores = self.scores(self.objectness(hidden_states))  # (map_height * map_width * num_anchors,)
        deltas = self.deltas(hidden_states)[0].unflatten(0, (self.num_anchors, 4))
        deltas = deltas.permute(2, 3, 0, 1).reshape(-1, 4).float()  # (map_height * map_width * num_anchors, 4)
        anchors = grid_anchors(self.cell_anchors.float(), *feature_map.shape[2:], STRIDE)
        boxes = clip_to_image(move_boxes(anchors, deltas, variant), height, width, variant)

        sides = boxes[:, 2:] - boxes[:, :2]  # (map_height * map_width * num_anchors, 2)
        if variant == "caffe":
            usable = (sides + 1 >= SMALLEST_SIDE * image_scale).all(dim=1)
            boxes, scores = boxes[usable], scores[usable]
            scores, order = scores.sort(descending=True, stable=True)
            boxes, scores = boxes[order[:NUM_CANDIDATES]], scores[:NUM_CANDIDATES]
        else:
            scores, order = scores.sort(descending=True, stable=True)
            order, scores = order[:NUM_CANDIDATES], scores[:NUM_CANDIDATES]
            usable = (sides[order] > 0).all(dim=1)
            boxes, scores = boxes[order][usable], scores[usable]
        if len(boxes) == 0:  # of an image too small for any proposal: all of it
            whole = clip_to_image(boxes.new_tensor([[0.0, 0.0, width, height]]), height, width, variant)
            return whole, scores.new_zeros(1)
        keep = nms(inclusive(boxes) if variant == "caffe" else boxes, scores, NMS_THRESHOLD)
        keep = keep[:NUM_PROPOSALS]
        return boxes[keep], scores[keep]

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Objectness of each anchor, in the order of the anchors: a probability for `"caffe"`, else a logit."""
        logits = logits[0].float()  # (scores_per_anchor * num_anchors, map_height, map_width)
        if self.config.variant == "caffe":  # all backgrounds come first
            logits = logits.unflatten(0, (2, self.num_anchors)).softmax(dim=0)[1]
        return logits.permute(1, 2, 0).flatten()


def inclusive(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes whose last pixel is included, as boxes of the same area whose end isn't."""
    return boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
