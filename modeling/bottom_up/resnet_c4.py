# SPDX-License-Identifier: Apache-2.0
"""The ResNet of the published bottom-up detector: timm's blocks, with the strides, pooling and dilation of 2018."""

import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import Bottleneck, ResNet
from timm.utils.model import freeze_batch_norm_2d
from torch import nn
from torchvision.ops import roi_pool
from transformers.modeling_outputs import BackboneOutput

from ..configuration_butd import ButdBottomUpConfig


STRIDE = 16  # of the fourth of five stages, where regions are proposed and pooled
POOLED_SIZE = 14
REGIONS_AT_ONCE = 32  # what the last stage computes of so many regions stays within the caches


def is_plain_bottleneck(block: nn.Module) -> bool:
    return type(block) is Bottleneck and block.se is None and isinstance(block.aa, nn.Identity)


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the one convolution that does what `conv` and a batch norm with fixed statistics do."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()  # (out_channels,)
    weight = (conv.weight * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    return weight, norm.bias - norm.running_mean * scale


def folded_weights(block: Bottleneck) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """Weights and biases of a block's three convolutions, and of the one on its shortcut if it has one."""
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)]
    if block.downsample is not None:
        pairs.append((block.downsample[0], block.downsample[1]))
    return tuple(folded(conv, norm) for conv, norm in pairs)


def folded_block(
    block: Bottleneck,
    hidden_states: torch.Tensor,
    weights: tuple[tuple[torch.Tensor, torch.Tensor], ...],
) -> torch.Tensor:
    """What the block computes with its `folded_weights`, undilated."""
    first, second, third, *shortcut = weights
    residual = hidden_states
    if shortcut:
        residual = F.conv2d(hidden_states, *shortcut[0], stride=block.downsample[0].stride)
    hidden_states = F.conv2d(hidden_states, *first, stride=block.conv1.stride).relu()
    hidden_states = F.conv2d(hidden_states, *second, padding=1, groups=block.conv2.groups).relu()
    return (F.conv2d(hidden_states, *third) + residual).relu()


class ButdResnetC4(nn.Module):
    """ResNet (He et al. 2016) as Anderson et al. (2018) use it: four stages for the image, the fifth for each region.

    What differs from timm's, whose blocks and names of weights it has: stages stride in the first 1 × 1 convolution of
    their first block; the pooling of the stem has no padding, but a last partial window; the last stage has stride 1
    and every 3 × 3 convolution in it dilation 2.

    Batch norm is folded into the convolutions, memory is channels last, and the dilated last stage is computed
    undilated: the same to rounding, several times faster on a CPU.
    """

    def __init__(self, config: ButdBottomUpConfig):
        super().__init__()
        self.config = config
        kwargs = config.backbone_kwargs or {}
        resnet = timm.create_model(config.backbone, num_classes=0, in_chans=config.num_channels, **kwargs)
        is_plain = isinstance(resnet, ResNet) and isinstance(resnet.conv1, nn.Conv2d)
        stages = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4] if is_plain else []
        blocks = [block for stage in stages for block in stage]
        if not blocks or not all(is_plain_bottleneck(block) for block in blocks):
            raise ValueError(
                f"ButdBottomUpConfig.backbone must be a ResNet of plain bottleneck blocks, such as 'resnet101', for "
                f"the selector 'faster_rcnn_c4', got {config.backbone!r}."
            )
        self.conv1, self.bn1, self.act1 = resnet.conv1, resnet.bn1, resnet.act1
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=True)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for stage in stages:
            stride = 1 if stage in (stages[0], stages[-1]) else 2
            dilation = 2 if stage is stages[-1] else 1
            for index, block in enumerate(stage):
                block.conv1.stride = (stride, stride) if index == 0 else (1, 1)
                block.conv2.stride = (1, 1)
                block.conv2.dilation = block.conv2.padding = (dilation, dilation)
                if block.downsample is not None:
                    block.downsample[0].stride = (stride, stride)
        freeze_batch_norm_2d(self)
        # of its map, and of what its last stage makes of regions
        self.channels = [self.layer3[-1].conv3.out_channels, resnet.num_features]

    def forward(self, pixel_values: torch.Tensor) -> BackboneOutput:
        """The map of the fourth stage, stride 16, of images of one size."""
        weight, bias = folded(self.conv1, self.bn1)
        pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        hidden_states = F.conv2d(pixel_values, weight, bias, self.conv1.stride, self.conv1.padding).relu()
        hidden_states = self.maxpool(hidden_states)
        for block in (*self.layer1, *self.layer2, *self.layer3):
            hidden_states = folded_block(block, hidden_states, folded_weights(block))
        return BackboneOutput(feature_maps=(hidden_states,))

    def describe(self, feature_map: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Appearance of regions: max RoI pooling to 14 × 14 (Girshick 2015), the last stage, the mean.

        Where the last stage is all dilated by 2, cells of even and of odd rows and columns never meet: it is four
        undilated ones on 7 × 7 cells each.

        The map is `(1, num_channels, height, width)`, boxes `(num_regions, 4)` are `x0, y0, x1, y1` in pixels, the
        last included; returns `(num_regions, region_size)`.
        """
        rois = F.pad(boxes.float(), (1, 0))  # (num_regions, 5): all of image 0
        dtype = feature_map.dtype
        feature_map = feature_map.float().contiguous()  # pooling has no half precision kernel on every device
        weights = [folded_weights(block) for block in self.layer4]
        parts = []
        for some in rois.split(REGIONS_AT_ONCE):
            pooled = roi_pool(feature_map, some, POOLED_SIZE, 1 / STRIDE)  # (some, num_channels, 14, 14)
            pooled = pooled.to(dtype)
            phases = [pooled[:, :, top::2, left::2] for top in (0, 1) for left in (0, 1)]
            phases = torch.cat(phases)  # (4 * some, num_channels, 7, 7)
            phases = phases.contiguous(memory_format=torch.channels_last)
            for block, of_block in zip(self.layer4, weights, strict=True):
                phases = folded_block(block, phases, of_block)
            means = phases.mean(dim=(2, 3))  # (4 * some, region_size)
            parts.append(means.unflatten(0, (4, -1)).mean(dim=0))  # (some, region_size)
        return torch.cat(parts)  # (num_regions, region_size)
