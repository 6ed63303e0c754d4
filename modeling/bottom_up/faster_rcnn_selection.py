# SPDX-License-Identifier: Apache-2.0
"""Which proposals of the published bottom-up detector become regions, in both of its variants."""

import torch
from torchvision.ops import batched_nms, nms

from ..configuration_butd import ButdBottomUpConfig
from .faster_rcnn_proposals import inclusive


NMS_STEP = 0.1  # by which the detectron2 ports raise the threshold until enough regions are left


def select_by_class(
    boxes: torch.Tensor,  # (num_boxes, 4): in pixels of the original image, last included
    scores: torch.Tensor,  # (num_boxes, num_labels): without background
    config: ButdBottomUpConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The selection of Anderson et al. (2018): suppression within each class, then each box's best score that is left.

    Boxes that reach `score_threshold` are kept, but at least the best `min_regions` and at most the best
    `num_regions`. A score is suppressed only by higher ones, so scores below the threshold matter only if too few
    boxes reach it: without them there is little to do.

    Returns:
        Indices of the kept boxes, best first and equals in their order, and their best scores.
    """
    boxes, enough = inclusive(boxes), min(config.min_regions, len(boxes))
    for least in (config.score_threshold, 0.0):
        rows, labels = (scores >= least).nonzero(as_tuple=True)
        likely = scores[rows, labels]
        keep = batched_nms(boxes[rows], likely, labels, config.nms_threshold)
        confidence = torch.zeros_like(scores[:, 0]).scatter_reduce(0, rows[keep], likely[keep], "amax")  # (num_boxes,)
        if (confidence >= config.score_threshold).sum() >= enough:
            break
    return _best(confidence, config)


def _best(confidence: torch.Tensor, config: ButdBottomUpConfig) -> tuple[torch.Tensor, torch.Tensor]:
    ranked, order = confidence.sort(descending=True, stable=True)
    count = int((ranked >= config.score_threshold).sum())
    count = min(max(count, config.min_regions), config.num_regions)
    return order[:count], ranked[:count]


def select_by_best_class(
    boxes: torch.Tensor,  # (num_boxes, 4): regressed for the best class of each
    scores: torch.Tensor,  # (num_boxes,): of that class
    config: ButdBottomUpConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The selection of the detectron2 ports: one suppression for all, by each box's best class.

    Where fewer than `min_regions` are left, the threshold is raised by 0.1 and again; the ports give up at 0.9, or at
    once. Scores have no threshold there, though the ports' settings name one.

    Returns:
        Indices of the kept boxes, best first, and their scores.
    """
    threshold = config.nms_threshold
    keep = nms(boxes, scores, threshold)
    while len(keep) < min(config.min_regions, len(boxes)) and threshold < 1:
        threshold = min(round(threshold + NMS_STEP, 6), 1.0)  # nothing overlaps by more than 1: then all are left
        keep = nms(boxes, scores, threshold)
    keep = keep[: config.num_regions]
    return keep, scores[keep]
