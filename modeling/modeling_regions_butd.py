# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""The bottom-up half alone: images in, regions out, for features that other models use."""

import torch
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp
from .configuration_butd import ButdConfig
from .modeling_butd import ButdPreTrainedModel
from .regions import ButdRegions


class ButdRegionModel(ButdPreTrainedModel):  # trf-ignore: TRF057
    """Bottom-up selection of regions, without a top-down half."""

    input_modalities = ("image",)

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.post_init()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        pixel_values: torch.FloatTensor,
        pixel_mask: torch.LongTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdRegions | tuple:
        """See `encode_image` for the arguments; with `region_boxes` those are described instead of selecting any."""
        return self.bottom_up(pixel_values, pixel_mask, region_boxes, region_mask, image_scale).regions


__all__ = ["ButdRegionModel"]
