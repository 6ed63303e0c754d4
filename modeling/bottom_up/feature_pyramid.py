# SPDX-License-Identifier: Apache-2.0
"""A pyramid of feature maps, and how boxes are pooled from the level that suits their size."""

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import FeaturePyramidNetwork, roi_align
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..configuration_butd import ButdBottomUpConfig


CHANNELS_PER_GROUP = 8
CELLS_PER_SIDE = 8  # fewer, and the finer level is the better one; more are slower and know less of the whole


@dataclass
class ButdPyramid(ModelOutput):
    """Feature maps of a batch of images, finest first.

    Images that are smaller than a map repeat their last row and column beyond their edge: sampling at the edge then
    gives what it gives in a batch of one.
    """

    maps: tuple[torch.FloatTensor, ...] | None = None  # one per level, (batch_size, fpn_size, height, width)
    deepest: torch.FloatTensor | None = None  # (batch_size, num_channels, height, width): the backbone's last map
    sizes: torch.LongTensor | None = None  # (batch_size, num_levels + 1, 2): the image's rows and columns in each


def join_pyramids(groups: list[ButdPyramid], order: torch.LongTensor) -> ButdPyramid:
    """Pyramids of several groups of images as those of one batch; `order` as in `concatenate_regions`."""
    if len(groups) == 1:
        return groups[0]
    levels = []
    for level in zip(*[(*group.maps, group.deepest) for group in groups], strict=True):
        height, width = (max(one.shape[axis] for one in level) for axis in (2, 3))
        grown = [F.pad(one, (0, width - one.shape[3], 0, height - one.shape[2]), mode="replicate") for one in level]
        levels.append(torch.cat(grown)[order])  # (batch_size, num_channels, height, width)
    sizes = torch.cat([group.sizes for group in groups])[order]  # (batch_size, num_levels + 1, 2)
    return ButdPyramid(maps=tuple(levels[:-1]), deepest=levels[-1], sizes=sizes)


def pool_level(
    feature_map: torch.Tensor,  # (batch_size, num_channels, height, width)
    sizes: torch.Tensor,  # (batch_size, 2): rows and columns that belong to each image
    boxes: torch.Tensor,  # (num_boxes, 5): row of the image, then `x0, y0, x1, y1` in [0, 1]
    side: int,
) -> torch.Tensor:
    """RoIAlign (He et al. 2017) of boxes from one map: `(num_boxes, num_channels, side, side)`."""
    scale = sizes[boxes[:, 0].long()].flip(-1).repeat(1, 2).to(boxes.dtype)  # (num_boxes, 4)
    # RoIAlign reads anywhere in memory at a coordinate that is no number
    rois = torch.cat([boxes[:, :1], (boxes[:, 1:] * scale).nan_to_num(0.0, 0.0, 0.0)], dim=1)
    # RoIAlign has no half precision kernel on every device, and float32 costs little here
    pooled = roi_align(feature_map.float(), rois.float(), output_size=side, sampling_ratio=2, aligned=True)
    return pooled.to(feature_map.dtype)  # (num_boxes, num_channels, side, side)


def pool_pyramid(pyramid: ButdPyramid, boxes: torch.Tensor, side: int) -> torch.Tensor:
    """RoIAlign of each box from the level where it spans 8 to 16 cells (Lin et al. 2017, equation 1, but 14 to 28
    there): `(batch_size * num_boxes, fpn_size, side, side)`.

    Boxes are `(batch_size, num_boxes, 4)`, `x0, y0, x1, y1` in [0, 1], or `(num_boxes, 5)`, behind the image's row.
    """
    boxes = boxes.detach().float()
    if boxes.dim() == 3:
        boxes = with_rows(boxes)  # (batch_size * num_boxes, 5)
    finest = pyramid.sizes[boxes[:, 0].long(), 0].flip(-1)  # (num_boxes, 2): columns and rows
    area = ((boxes[:, 3:] - boxes[:, 1:3]) * finest).prod(dim=-1).nan_to_num(0.0)  # a NaN is for the loss to show
    level_of_box = (area.clamp(min=1e-6).sqrt() / CELLS_PER_SIDE).log2().floor().clamp(0, len(pyramid.maps) - 1)
    pooled = pyramid.maps[0].new_zeros((boxes.shape[0], pyramid.maps[0].shape[1], side, side))
    for level, feature_map in enumerate(pyramid.maps):
        (rows,) = torch.where(level_of_box == level)
        pooled = pooled.index_copy(0, rows, pool_level(feature_map, pyramid.sizes[:, level], boxes[rows], side))
    return pooled


def with_rows(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes `(batch_size, num_boxes, 4)` as `(batch_size * num_boxes, 5)`, each behind the row of its image."""
    rows = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    return torch.cat([rows[:, None, None].expand(-1, boxes.shape[1], 1), boxes], dim=-1).flatten(0, 1)


def pool_deepest(pyramid: ButdPyramid, boxes: torch.Tensor) -> torch.Tensor:
    """Mean of the backbone's last map in each box: `(batch_size, num_boxes, num_channels)`."""
    pooled = pool_level(pyramid.deepest, pyramid.sizes[:, -1], with_rows(boxes.detach().float()), side=2)
    return pooled.mean(dim=(2, 3)).unflatten(0, boxes.shape[:2])  # (batch_size, num_boxes, num_channels)


def group_norm(num_channels: int) -> nn.GroupNorm:
    """Normalises within one image, whatever the batch: batches of detection are small."""
    return nn.GroupNorm(num_channels // CHANNELS_PER_GROUP, num_channels)


class ButdFeaturePyramid(nn.Module):
    """Fine maps that know what coarse ones do: torchvision's feature pyramid network (Lin et al. 2017)."""

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.network = FeaturePyramidNetwork(list(channels), config.fpn_size, norm_layer=group_norm)

    def init_own_weights(self):
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_uniform_(module.weight, a=1)

    def forward(self, maps: list[torch.Tensor]) -> ButdPyramid:
        """Maps of images of one size, finest first, each `(batch_size, num_channels, height, width)`."""
        levels = self.network(OrderedDict((str(level), feature_map) for level, feature_map in enumerate(maps)))
        sizes = [list(feature_map.shape[-2:]) for feature_map in (*maps, maps[-1])]
        sizes = torch.tensor(sizes, device=maps[0].device)  # (num_levels + 1, 2)
        return ButdPyramid(maps=tuple(levels.values()), deepest=maps[-1], sizes=sizes.expand(maps[0].shape[0], -1, -1))
