# SPDX-License-Identifier: Apache-2.0
"""The learned selector: class-agnostic proposals from every cell of a feature pyramid, ranked by objectness."""

import torch
from torch import nn

from ..boxes import clip_boxes
from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, gather_regions, select_regions
from .backbone import FeatureMaps
from .feature_pyramid import ButdFeaturePyramid, ButdPyramid
from .proposals import ButdProposalHead, ButdProposals
from .region_head import ButdRegionHead


NUM_CANDIDATES = 512  # enter NMS: an object has about ten near-copies, and 36 regions must remain


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
