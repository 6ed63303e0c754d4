# SPDX-License-Identifier: Apache-2.0
"""No selector: whoever calls the model brings ready regions."""

import torch
from torch import nn

from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions
from .backbone import FeatureMaps


class ButdGivenRegions(nn.Module):
    """Says the size of the regions that others select; there is no backbone to make feature maps."""

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.region_size = config.region_size

    def forward(self, feature_maps: FeatureMaps, boxes: torch.Tensor | None = None) -> ButdRegions:
        raise ValueError(f"The selector 'given' selects nothing: give `region_features` of size {self.region_size}.")
