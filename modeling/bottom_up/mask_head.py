# SPDX-License-Identifier: Apache-2.0
"""Masks within boxes: what belongs to the object, cell by cell."""

import torch
from torch import nn
from transformers import initialization as init

from .feature_pyramid import ButdPyramid, group_norm, pool_pyramid


class ButdMaskHead(nn.Module):
    """A soft mask per box, convolved from what is pooled there, as in Mask R-CNN (He et al. 2017).

    What differs: one mask instead of one per class, two convolutions instead of four, and the state of the region or
    query scales and shifts the channels (Perez et al. 2018, "FiLM"), which tells two objects in one box apart.
    """

    def __init__(self, cell_size: int, state_size: int, mask_size: int):
        super().__init__()
        self.mask_size = mask_size
        self.modulation = nn.Linear(state_size, 2 * cell_size)
        self.first_conv = nn.Conv2d(cell_size, cell_size, kernel_size=3, padding=1, bias=False)
        self.first_norm = group_norm(cell_size)
        self.second_conv = nn.Conv2d(cell_size, cell_size, kernel_size=3, padding=1, bias=False)
        self.second_norm = group_norm(cell_size)
        self.upsample = nn.ConvTranspose2d(cell_size, cell_size // 2, kernel_size=2, stride=2)
        self.act_fn = nn.ReLU()
        self.out_conv = nn.Conv2d(cell_size // 2, 1, kernel_size=1)
        self.init_own_weights()

    def init_own_weights(self):
        for conv in (self.first_conv, self.second_conv):
            init.kaiming_normal_(conv.weight, nonlinearity="relu")
        init.kaiming_normal_(self.upsample.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pyramid: ButdPyramid, boxes: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Logits `(total number of boxes, mask_size, mask_size)` of boxes as `pool_pyramid` takes them, without
        gradient, and of the states `(total number of boxes, state_size)` of their regions or queries.
        """
        cells = pool_pyramid(pyramid, boxes, self.mask_size // 2)
        if cells.shape[0] == 0:
            # processes that train together must all give every weight a gradient, be it none
            nothing = 0 * sum(parameter.sum() for parameter in self.parameters())
            return cells.new_zeros((0, self.mask_size, self.mask_size)) + nothing
        scale, shift = self.modulation(states)[..., None, None].chunk(2, dim=1)  # (num_boxes, cell_size, 1, 1)
        hidden_states = self.first_norm(self.first_conv(cells)) * (1 + scale) + shift
        hidden_states = self.second_norm(self.second_conv(self.act_fn(hidden_states)))
        hidden_states = self.act_fn(self.upsample(self.act_fn(hidden_states)))
        return self.out_conv(hidden_states)[:, 0].float()  # (num_boxes, mask_size, mask_size)
