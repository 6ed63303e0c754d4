# SPDX-License-Identifier: Apache-2.0
"""Frozen batch norms as part of the convolutions before them: nothing is written to memory twice."""

from itertools import pairwise
from types import MethodType

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, FrozenBatchNormAct2d, conv2d_same
from torch import nn
from torchvision.ops import FrozenBatchNorm2d


def fold_frozen_norms(backbone: nn.Module, pixel_values: torch.Tensor) -> int:
    """
    Makes each convolution do the work of the frozen norm behind it. Weights and their names stay as they are.

    A frozen norm scales and shifts channels. Scaling the kernels instead is the same to rounding and costs next to
    nothing, whereas under autocast the norm alone would run in float32, over every pixel.

    Args:
        backbone: A timm feature extractor, or transformers' `TimmBackbone` around one.
        pixel_values: Any images, `(batch_size, 3, height, width)`, to try it on.

    Returns:
        How many were folded: none if the backbone then gave something else.
    """
    pairs = []
    for module in backbone.modules():
        for conv, norm in pairwise(module.children()):
            if can_fold(conv, norm):
                pairs.append((conv, norm))
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        expected = backbone(pixel_values).feature_maps
        for conv, norm in pairs:
            conv.__dict__["norm_behind"] = (norm,)  # a tuple: as a module it would be saved a second time
            # methods, not closures: the copies that averages make must use their own weights
            conv.forward = MethodType(convolve_and_normalise, conv)
            norm.forward = MethodType(activate, norm)
        found = backbone(pixel_values).feature_maps
    same = all(torch.allclose(one, other, atol=1e-3, rtol=1e-3) for one, other in zip(expected, found, strict=True))
    if not same:  # modules that are neighbours in their list need not be in the forward pass
        for conv, norm in pairs:
            del conv.__dict__["norm_behind"], conv.__dict__["forward"], norm.__dict__["forward"]
    backbone.train(was_training)
    return len(pairs) if same else 0


def can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether these neighbours may be a convolution and its frozen norm."""
    return (
        type(conv) in (nn.Conv2d, Conv2dSame)
        and conv.padding_mode == "zeros"
        and isinstance(norm, FrozenBatchNorm2d | FrozenBatchNormAct2d)
        and conv.out_channels == len(norm.running_mean)
    )


def convolve_and_normalise(self: nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
    """The forward pass of a convolution that has taken over its norm."""
    (norm,) = self.norm_behind
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bias = norm.bias - norm.running_mean * scale
    if self.bias is not None:
        bias = bias + self.bias * scale
    convolve = conv2d_same if isinstance(self, Conv2dSame) else F.conv2d
    weight = self.weight * scale[:, None, None, None]
    return convolve(hidden_states, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def activate(self: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """What is left of a norm: timm's bring an activation."""
    if isinstance(self, FrozenBatchNormAct2d):
        return self.act(self.drop(hidden_states))
    return hidden_states
