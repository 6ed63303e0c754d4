# SPDX-License-Identifier: Apache-2.0
"""The backbone: a timm model, and the feature maps that selectors get from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import nn
from transformers import TimmBackbone, TimmBackboneConfig
from transformers.utils import ModelOutput

from ..configuration_butd import ButdBottomUpConfig
from .feature_pyramid import ButdPyramid
from .resnet_c4 import ButdResnetC4


# transformer backbones are built for one image size unless told otherwise, each family by an argument of its own
ANY_IMAGE_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


@dataclass
class FeatureMaps:
    """What a selector gets: images of one size as the backbone sees them. Images of other sizes come separately, so
    that nothing depends on the rest of the batch.
    """

    maps: tuple[torch.Tensor, ...]  # each (batch_size, num_channels, height, width), finest first
    image_size: tuple[int, int]  # height and width of the images in pixels
    image_scale: torch.Tensor | None  # (batch_size,): pixels of the image per pixel of the original one
    backbone: nn.Module  # what made the maps: the published detector runs its last stage on regions
    pyramid: ButdPyramid | None = None  # set by a selector that has one, for decoders that attend to it
    proposals: ModelOutput | None = None  # set by a learned selector, for its losses

    def concatenated(self) -> torch.Tensor:
        """One map: the finer ones averaged down to the coarsest, `(batch_size, sum of channels, height, width)`."""
        coarsest = min(self.maps, key=lambda feature_map: feature_map.shape[-1] * feature_map.shape[-2]).shape[-2:]
        return torch.cat([F.adaptive_avg_pool2d(feature_map, coarsest) for feature_map in self.maps], dim=1)


def build_backbone(config: ButdBottomUpConfig) -> TimmBackbone | ButdResnetC4:
    """The timm backbone that the config names, with random weights; it takes images of any size if it can."""
    if config.selector == "faster_rcnn_c4":
        return ButdResnetC4(config)
    backbone_config = TimmBackboneConfig(
        backbone=config.backbone,
        num_channels=config.num_channels,
        out_indices=list(config.out_indices),
        freeze_batch_norm_2d=True,  # batches of region data are small and unlike ImageNet's
    )
    refusals = []
    for any_image_size in ANY_IMAGE_SIZE:
        try:
            return TimmBackbone(backbone_config, **{**any_image_size, **(config.backbone_kwargs or {})})
        except TypeError as refusal:  # the family doesn't know this argument: try the next one's
            refusals.append(refusal)
    raise refusals[-1]


def images_by_size(
    pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images of one size at a time, without padding, and which rows of the batch they are: convolutions and attention
    would carry the padding into the image.
    """
    if pixel_mask is None:
        yield torch.arange(pixel_values.shape[0], device=pixel_values.device), pixel_values
        return
    sizes = torch.stack([pixel_mask[:, :, 0].sum(dim=1), pixel_mask[:, 0].sum(dim=1)], dim=1)  # (batch_size, 2)
    distinct_sizes, group_of_image = sizes.unique(dim=0, return_inverse=True)
    for group, (height, width) in enumerate(distinct_sizes.tolist()):
        rows = (group_of_image == group).nonzero()[:, 0]
        yield rows, pixel_values[rows, :, :height, :width]


def feature_maps(backbone: nn.Module, images: torch.Tensor, image_scale: torch.Tensor | None = None) -> FeatureMaps:
    """Feature maps of images `(batch_size, num_channels, height, width)` of one size, without padding."""
    maps = tuple(backbone(images).feature_maps)
    if getattr(getattr(backbone, "_backbone", None), "output_fmt", Format.NCHW) == Format.NHWC:  # Swin and its kin
        maps = tuple(feature_map.permute(0, 3, 1, 2) for feature_map in maps)  # (batch_size, channels, height, width)
    return FeatureMaps(maps, tuple(images.shape[-2:]), image_scale, backbone)
