# SPDX-License-Identifier: Apache-2.0
"""The grid selector: every cell of the feature map is a region, nothing is left out."""

import torch
from torch import nn

from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, describe_boxes
from .backbone import FeatureMaps


class ButdGridSelector(nn.Module):
    """Every cell of the feature map, the baseline that Anderson et al. (2018) compare selected regions with.

    Cells are ranked by how much they stand out: the distance of their feature from the image's mean feature.
    """

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.region_size = sum(channels)

    def forward(self, feature_maps: FeatureMaps, boxes: torch.Tensor | None = None) -> ButdRegions:
        feature_map = feature_maps.concatenated()
        if boxes is not None:
            return describe_boxes(feature_map, boxes)
        _, _, height, width = feature_map.shape
        features = feature_map.flatten(2).transpose(1, 2)  # (batch_size, height * width, num_channels)
        saliency = (features - features.mean(dim=1, keepdim=True)).norm(dim=-1)  # (batch_size, height * width)
        saliency, order = saliency.sort(dim=1, descending=True, stable=True)

        cell = torch.arange(height * width, device=feature_map.device)
        top, left = torch.div(cell, width, rounding_mode="floor"), cell % width
        corners = torch.stack([left, top, left + 1, top + 1], dim=-1)  # (height * width, 4)
        boxes = corners / corners.new_tensor([width, height, width, height])
        return ButdRegions(
            features=features.gather(1, order[..., None].expand_as(features)),
            boxes=boxes.to(feature_map.dtype)[order],  # (batch_size, height * width, 4)
            saliency=saliency,
            mask=torch.ones_like(order, dtype=torch.bool),
        )
