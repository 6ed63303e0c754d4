# SPDX-License-Identifier: Apache-2.0
"""The learned selector: class-agnostic proposals from every cell of a feature pyramid, ranked by objectness."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..boxes import clip_boxes
from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, gather_regions, select_regions
from .backbone import FeatureMaps
from .feature_pyramid import ButdFeaturePyramid, ButdPyramid, group_norm
from .region_head import ButdRegionHead


NUM_CANDIDATES = 512  # enter NMS: an object has about ten near-copies, and 36 regions must remain
FIRST_PROBABILITY = 0.01  # of an object, before training (Lin et al. 2017, "Focal loss"): most cells have none
FIRST_REACH = 4.0  # cells from a point to each side of its box, before training: each level's boxes suit its stride
LARGEST_EXPONENT = 3.0  # a box reaches from 1/20 of that to 20 times as far


@dataclass
class ButdProposals(ModelOutput):
    """What every cell of every level proposes, level after level, rows first."""

    logits: torch.FloatTensor | None = None  # (batch_size, num_cells): objectness before the sigmoid
    boxes: torch.FloatTensor | None = None  # (batch_size, num_cells, 4): `x0, y0, x1, y1`, not clipped to [0, 1]
    points: torch.FloatTensor | None = None  # (batch_size, num_cells, 2): `x, y` of the cell's centre in [0, 1]
    mask: torch.BoolTensor | None = None  # (batch_size, num_cells): True where there is a cell
    selected: torch.FloatTensor | None = None  # (batch_size, num_regions, 4): became regions; before refinement


class ButdProposalHead(nn.Module):
    """Objectness and a box for each cell, anchor-free as FCOS (Tian et al. 2019).

    What differs: no classes and no centerness, since objectness itself learns how well the box fits
    (`losses/proposals.py`), and distances are `FIRST_REACH` cells times an exponential, with one scale for all
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
        """Logits, boxes and points of the cells of one level `(batch_size, fpn_size, height, width)`."""
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
    """A region proposal network over a feature pyramid, and a light head that describes what it proposed."""

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.config = config
        self.pyramid = ButdFeaturePyramid(config, channels)
        self.proposal_head = ButdProposalHead(config)
        self.region_head = ButdRegionHead(config, deepest_size=channels[-1])
        self.region_size = self.region_head.region_size

    def forward(self, feature_maps: FeatureMaps, boxes: torch.Tensor | None = None) -> ButdRegions:
        """See `SELECTORS`. The pyramid and all proposals are left in `feature_maps`."""
        feature_maps.pyramid = self.pyramid(feature_maps.maps)
        feature_maps.proposals = self.propose(feature_maps.pyramid)
        if boxes is not None:
            return self.region_head(feature_maps.pyramid, boxes.float(), refine=False)
        selected = self.select(feature_maps.proposals)
        feature_maps.proposals["selected"] = selected[0]
        return self.region_head(feature_maps.pyramid, *selected)

    def propose(self, pyramid: ButdPyramid) -> ButdProposals:
        """What the cells of all levels propose."""
        levels = [self.proposal_head(feature_map) for feature_map in pyramid.maps]
        logits, boxes, points = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        return ButdProposals(logits=logits, boxes=boxes, points=points, mask=torch.ones_like(logits, dtype=torch.bool))

    @torch.no_grad()
    def select(self, proposals: ButdProposals) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes `(batch_size, num_regions, 4)`, saliency and mask `(batch_size, num_regions)`, most salient first."""
        scores, ranking = proposals.logits.sigmoid().sort(dim=1, descending=True, stable=True)
        scores, ranking = scores[:, :NUM_CANDIDATES], ranking[:, :NUM_CANDIDATES]  # (batch_size, num_candidates)
        boxes = clip_boxes(proposals.boxes.gather(1, ranking[..., None].expand(-1, -1, 4)))
        indices, mask = select_regions(boxes, scores, self.config)
        return gather_regions(boxes, indices, mask), scores.gather(1, indices).masked_fill(~mask, 0.0), mask
