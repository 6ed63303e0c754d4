# SPDX-License-Identifier: Apache-2.0
"""The learned selector: dense class-agnostic proposals from a feature pyramid, ranked by objectness."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..boxes import clip_boxes
from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, gather_regions, select_regions
from .feature_pyramid import ButdFeaturePyramid, ButdPyramid, group_norm
from .region_head import ButdRegionHead


FIRST_PROBABILITY = 0.01  # of an object, before training (Lin et al. 2017, "Focal loss"): most cells have none
FIRST_REACH = 4.0  # cells from a point to each side of its box, before training: each level's boxes suit its stride
LARGEST_EXPONENT = 3.0  # a box reaches from 1/20 of that to 20 times as far


@dataclass
class ButdCandidates(ModelOutput):
    """
    What every cell of every level proposes, level after level, rows first.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, num_candidates)`): Objectness before the sigmoid.
        boxes (`torch.FloatTensor` of shape `(batch_size, num_candidates, 4)`): `x0, y0, x1, y1` in units of the
            unpadded image, not clipped to it.
        points (`torch.FloatTensor` of shape `(batch_size, num_candidates, 2)`): `x, y` of the cell's centre in [0, 1].
        mask (`torch.BoolTensor` of shape `(batch_size, num_candidates)`): True where there is a cell.
    """

    logits: torch.FloatTensor | None = None
    boxes: torch.FloatTensor | None = None
    points: torch.FloatTensor | None = None
    mask: torch.BoolTensor | None = None


@dataclass
class ButdBottomUpOutput:
    """
    What the learned bottom-up half found in a batch of images.

    Args:
        regions (`ButdRegions`): The selected regions, without cells of the whole image.
        pyramid (`ButdPyramid`): The feature maps they were found on.
        noised (`ButdRegions`, *optional*): Regions at noised boxes of the labels, in training.
        loss_dict (`dict`, *optional*): The parts of the bottom-up loss by name, with labels.
    """

    regions: ButdRegions | None = None
    pyramid: ButdPyramid | None = None
    noised: ButdRegions | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None


class ButdProposalHead(nn.Module):
    """
    Objectness and a box for each cell, anchor-free as FCOS (Tian et al. 2019).

    What differs: no classes and no centerness, since objectness itself learns how well the box fits
    (`losses_proposals.py`), and distances are `FIRST_REACH` cells times an exponential, with one scale for all
    levels.
    """

    def __init__(self, config: ButdBottomUpConfig):
        super().__init__()
        self.conv = nn.Conv2d(config.fpn_size, config.fpn_size, kernel_size=3, padding=1, bias=False)
        self.norm = group_norm(config.fpn_size)
        self.act_fn = nn.ReLU()
        self.objectness = nn.Conv2d(config.fpn_size, 1, kernel_size=1)
        self.distances = nn.Conv2d(config.fpn_size, 4, kernel_size=1)
        self.init_own_weights()

    def init_own_weights(self):
        init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        init.constant_(self.objectness.bias, math.log(FIRST_PROBABILITY / (1 - FIRST_PROBABILITY)))

    def forward(self, feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, boxes and points of the cells of one level; see `ButdCandidates`."""
        batch_size, _, height, width = feature_map.shape
        hidden_states = self.act_fn(self.norm(self.conv(feature_map)))
        logits = self.objectness(hidden_states).flatten(1).float()  # (batch_size, height * width)
        exponents = self.distances(hidden_states).flatten(2).transpose(1, 2).float()  # (batch_size, height * width, 4)

        device = feature_map.device
        down = torch.arange(height, device=device, dtype=torch.float32) + 0.5
        across = torch.arange(width, device=device, dtype=torch.float32) + 0.5
        points = torch.stack([across.expand(height, -1), down[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
        size = points.new_tensor([width, height])
        reach = FIRST_REACH * exponents.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).exp()
        boxes = torch.cat([points - reach[..., :2], points + reach[..., 2:]], dim=-1) / size.repeat(2)
        return logits, boxes, (points / size).expand(batch_size, -1, -1)


class ButdRpnSelector(nn.Module):
    """
    A region proposal network over a feature pyramid, and a light head that describes what it proposed.

    Args:
        channels (`list[int]`): Channels of the backbone's feature maps, finest first.
    """

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.config = config
        self.pyramid = ButdFeaturePyramid(config, channels)
        self.proposal_head = ButdProposalHead(config)
        self.region_head = ButdRegionHead(config, deepest_size=channels[-1])

    def forward(self, maps: list[torch.Tensor]) -> ButdRegions:
        """Regions of images of one size, without padding."""
        pyramid, candidates = self.look(maps)
        return self.describe(pyramid, candidates)

    def describe(self, pyramid: ButdPyramid, candidates: ButdCandidates) -> ButdRegions:
        """The best candidates as regions, and the cells of the whole image behind them."""
        boxes, saliency, mask = self.whole_image(*self.select(candidates))
        return self.region_head(pyramid, boxes, saliency, mask, refine=saliency > 0)[0]

    def look(self, maps: list[torch.Tensor]) -> tuple[ButdPyramid, ButdCandidates]:
        """The pyramid of images of one size, without padding, and what its cells propose."""
        pyramid = self.pyramid(maps)
        levels = [self.proposal_head(feature_map) for feature_map in pyramid.maps]
        logits, boxes, points = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        return pyramid, ButdCandidates(
            logits=logits, boxes=boxes, points=points, mask=torch.ones_like(logits, dtype=torch.bool)
        )

    @torch.no_grad()
    def select(self, candidates: ButdCandidates) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes `(batch_size, num_regions, 4)`, saliency and mask `(batch_size, num_regions)`, most salient first."""
        scores = candidates.logits.sigmoid().masked_fill(~candidates.mask, -math.inf)
        scores, ranking = scores.sort(dim=1, descending=True, stable=True)
        scores, ranking = scores[:, : self.config.num_candidates], ranking[:, : self.config.num_candidates]
        boxes = clip_boxes(candidates.boxes.gather(1, ranking[..., None].expand(-1, -1, 4)))
        indices, mask = select_regions(
            boxes,
            scores,
            num_regions=self.config.num_regions,
            min_regions=self.config.min_regions,
            score_threshold=self.config.score_threshold,
            nms_threshold=self.config.nms_threshold,
        )
        scores = scores.gather(1, indices)  # (batch_size, num_regions)
        mask = mask & scores.isfinite()  # a small image among large ones may have too few cells
        return gather_regions(boxes, indices, mask), scores.masked_fill(~mask, 0.0), mask

    def whole_image(self, boxes: torch.Tensor, saliency: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Adds the cells of the grid over the whole image behind the regions that exist."""
        side = self.config.image_grid_size
        if side == 0:
            return boxes, saliency, mask
        low = torch.cartesian_prod(*2 * [torch.arange(side, device=boxes.device, dtype=boxes.dtype)]).flip(-1)
        cells = torch.cat([low, low + 1], dim=-1).expand(boxes.shape[0], -1, -1) / side  # (batch_size, side * side, 4)
        boxes = torch.cat([boxes, cells], dim=1)
        saliency = torch.cat([saliency, saliency.new_zeros(cells.shape[:2])], dim=1)
        mask = torch.cat([mask, mask.new_ones(cells.shape[:2])], dim=1)
        order = (~mask).long().argsort(dim=1, stable=True)
        return gather_regions(boxes, order, mask.gather(1, order)), saliency.gather(1, order), mask.gather(1, order)


__all__ = ["ButdBottomUpOutput", "ButdCandidates", "ButdProposalHead", "ButdRpnSelector"]
