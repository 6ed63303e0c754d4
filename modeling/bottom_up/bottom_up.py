# SPDX-License-Identifier: Apache-2.0
"""The bottom-up half: a timm backbone, and a selector that ranks regions of its feature maps."""

from dataclasses import dataclass

import torch
from torch import nn

from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, checked_mask, concatenate_regions, mask_regions
from .backbone import FeatureMaps, build_backbone, feature_maps, images_by_size
from .faster_rcnn import ButdFasterRcnnSelector
from .feature_pyramid import ButdPyramid, join_pyramids
from .grid import ButdGridSelector
from .rpn import ButdProposals, ButdRpnSelector
from .saliency import ButdSaliencySelector


class ButdGivenRegions(nn.Module):
    """Says the size of the regions that others select; there is no backbone to make feature maps."""

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.region_size = config.region_size

    def forward(self, feature_maps: FeatureMaps, boxes: torch.Tensor | None = None) -> ButdRegions:
        raise ValueError(f"The selector 'given' selects nothing: give `region_features` of size {self.region_size}.")


# A selector is built as `Selector(config, channels)`, with the channels of the backbone's maps, finest first. It has a
# `region_size` and is called as `selector(feature_maps, boxes=None) -> ButdRegions`: regions of images of one size,
# selected, or at given boxes `(batch_size, num_regions, 4)` in [0, 1], all of which then exist.
SELECTORS = {
    "grid": ButdGridSelector,
    "saliency": ButdSaliencySelector,
    "rpn": ButdRpnSelector,
    "faster_rcnn_c4": ButdFasterRcnnSelector,
    "given": ButdGivenRegions,
}


@dataclass
class ButdBottomUpOutput:
    """What the bottom-up half makes of a batch of images."""

    regions: ButdRegions
    pyramid: ButdPyramid | None = None  # of a selector that has one
    proposals: ButdProposals | None = None  # of every cell, of a learned selector
    noised_boxes: torch.Tensor | None = None  # (batch_size, num_noised, 4): in training, boxes near the labelled ones
    noised: ButdRegions | None = None  # the regions there


class ButdBottomUp(nn.Module):
    """Proposes, ranks and pools regions of images."""

    main_input_name = "pixel_values"

    def __init__(self, config: ButdBottomUpConfig):
        super().__init__()
        self.config = config
        if config.selector not in SELECTORS:
            raise ValueError(
                f"ButdBottomUpConfig.selector must be one of {', '.join(SELECTORS)}, got {config.selector!r}."
            )
        self.backbone = None if config.selector == "given" else build_backbone(config)
        self.selector = SELECTORS[config.selector](config, self.backbone.channels if self.backbone else [])
        self.region_size = self.selector.region_size

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_scale: torch.Tensor | None = None,
    ) -> ButdBottomUpOutput:
        """See `ButdPreTrainedModel.encode_image`; `ValueError` without a backbone or if shapes don't fit."""
        if self.backbone is None:
            raise ValueError(
                f"`pixel_values` can't be used: this model has no backbone (selector 'given'). Give "
                f"`region_features` (batch_size, num_regions, {self.region_size}) instead."
            )
        if region_boxes is not None:
            region_mask = checked_mask(region_boxes, region_mask, len(pixel_values))
            region_boxes = region_boxes * region_mask[..., None].to(region_boxes.dtype)
        regions, maps, order = [], [], []
        for rows, images in images_by_size(pixel_values, pixel_mask):
            scale = image_scale[rows] if image_scale is not None else None
            boxes = region_boxes[rows] if region_boxes is not None else None
            maps.append(feature_maps(self.backbone, images, scale))
            regions.append(self.selector(maps[-1], boxes))
            order.append(rows)
        order = torch.cat(order).argsort()
        output = ButdBottomUpOutput(concatenate_regions(regions, order))
        if region_boxes is not None:
            output.regions = mask_regions(output.regions, region_mask)
        if maps[0].pyramid is not None:
            output.pyramid = join_pyramids([one.pyramid for one in maps], order)
        if maps[0].proposals is not None:
            output.proposals = concatenate_regions([one.proposals for one in maps], order)
        return output
