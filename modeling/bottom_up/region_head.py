# SPDX-License-Identifier: Apache-2.0
"""The region head: what a proposed box shows, and where its object really ends."""

import torch
from torch import nn
from transformers import initialization as init

from ..boxes import clip_boxes, refine_boxes
from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, mask_regions
from .feature_pyramid import ButdPyramid, pool_deepest, pool_pyramid
from .mask_head import ButdMaskHead


POOLED_SIZE = 7
NARROW_SIZE = 64  # channels per cell before one linear layer joins all cells: it has most of the head's weights


class ButdRegionHead(nn.Module):
    """Features, classes, attributes, a refined box and a mask of each region (Ren et al. 2015; Anderson et al. 2018).

    A region's feature has two halves: the mean of the backbone's last map in the box, and what this head computes from
    7 × 7 cells of the pyramid. Features are pooled at the proposed box. Refinement is class-agnostic, and begins as
    none.
    """

    def __init__(self, config: ButdBottomUpConfig, deepest_size: int):
        super().__init__()
        self.config = config
        self.region_size = deepest_size + config.region_head_size
        self.narrow_proj = nn.Linear(config.fpn_size, NARROW_SIZE)
        self.cells_proj = nn.Linear(NARROW_SIZE * POOLED_SIZE**2, config.region_head_size)
        self.norm = nn.LayerNorm(config.region_head_size)
        self.act_fn = nn.GELU()
        self.box_proj = nn.Linear(config.region_head_size, 4)
        self.class_proj = self.attribute_proj = self.mask_head = None
        if config.num_region_labels > 0:
            self.class_proj = nn.Linear(self.region_size, config.num_region_labels)
        if config.num_region_attributes > 0:
            self.attribute_proj = nn.Linear(self.region_size, config.num_region_attributes)
        if config.region_mask_size > 0:
            self.mask_head = ButdMaskHead(config.fpn_size, self.region_size, config.region_mask_size)
        self.init_own_weights()

    def init_own_weights(self):
        init.zeros_(self.box_proj.weight)
        init.zeros_(self.box_proj.bias)

    def features(self, pyramid: ButdPyramid, boxes: torch.Tensor) -> torch.Tensor:
        """Features of shape `(batch_size, num_regions, region_size)` of boxes `(batch_size, num_regions, 4)`."""
        cells = pool_pyramid(pyramid, boxes, POOLED_SIZE).flatten(2).transpose(1, 2)  # (num_boxes, 49, fpn_size)
        cells = self.act_fn(self.narrow_proj(cells)).flatten(1)  # (num_boxes, 49 * NARROW_SIZE)
        read = self.act_fn(self.norm(self.cells_proj(cells))).unflatten(0, boxes.shape[:2])
        deepest = pool_deepest(pyramid, boxes).to(read.dtype)  # (batch_size, num_regions, deepest_size)
        return torch.cat([deepest, read], dim=-1)  # (batch_size, num_regions, region_size)

    def deltas(self, features: torch.Tensor) -> torch.Tensor:
        """How to refine each box, see `refine_boxes`: `(batch_size, num_regions, 4)`."""
        return self.box_proj(features[..., -self.config.region_head_size :]).float()

    def mask_logits(self, pyramid: ButdPyramid, boxes: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Logits of masks within the boxes: `(total number of boxes, region_mask_size, region_mask_size)`."""
        return self.mask_head(pyramid, boxes, features.flatten(0, -2))

    def forward(
        self,
        pyramid: ButdPyramid,
        boxes: torch.Tensor,  # (batch_size, num_regions, 4): `x0, y0, x1, y1` in [0, 1]
        saliency: torch.Tensor | None = None,  # (batch_size, num_regions): what ranked them; 1 if nobody did
        mask: torch.Tensor | None = None,  # (batch_size, num_regions): True where there is a region; default all
        refine: bool = True,
    ) -> ButdRegions:
        """The regions at the boxes, refined unless `refine` is False."""
        if mask is None:
            mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        features = self.features(pyramid, boxes)
        regions = ButdRegions(
            features=features,
            # whoever attends to regions sees where they are, but doesn't move them
            boxes=clip_boxes(refine_boxes(boxes, self.deltas(features).detach())) if refine else boxes,
            saliency=mask.float() if saliency is None else saliency,
            mask=mask,
        )
        if self.class_proj is not None:
            regions["class_logits"] = self.class_proj(features)
        if self.attribute_proj is not None:
            regions["attribute_logits"] = self.attribute_proj(features)
        if self.mask_head is not None and not self.training:  # losses draw the few masks that they compare
            masks = self.mask_logits(pyramid, regions.boxes, features).sigmoid()
            regions["masks"] = masks.unflatten(0, mask.shape)  # (batch_size, num_regions, m, m)
        return mask_regions(regions, mask)
