# SPDX-License-Identifier: Apache-2.0
"""Additive attention over regions, as the recurrent decoders attend: one glance per word."""

import torch
from torch import nn

from ..configuration_butd import ButdTopDownConfig


class ButdAdditiveAttention(nn.Module):
    """
    Soft attention by a network of one hidden layer (Anderson et al. 2018, equations 3 to 5; Bahdanau et al. 2015).

    The published port takes the softmax over all regions, sets those that don't exist to zero and divides by the sum.
    Here they are out of the softmax from the start, which gives the same weights and can't divide zero by zero.
    """

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        has_bias = config.recurrent_variant == "port"
        self.attention_dropout = config.attention_dropout
        self.query_proj = nn.Linear(config.hidden_size, config.attention_size, bias=has_bias)
        self.score_proj = nn.Linear(config.attention_size, 1, bias=has_bias)

    def forward(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            query (`torch.FloatTensor` of shape `(num_texts, hidden_size)`): What each text is looking for; as many
                texts for each image, those of one image next to one another.
            keys (`torch.FloatTensor` of shape `(num_images, num_regions, attention_size)`): Projected regions.
            values (`torch.FloatTensor` of shape `(num_images, num_regions, value_size)`): What is there to see.
            mask (`torch.BoolTensor` of shape `(num_images, num_regions)`): True where a region exists, somewhere in
                every image.

        Returns:
            What was seen, `(num_texts, value_size)`, and where, `(num_texts, num_regions)`.
        """
        num_images, _, attention_size = keys.shape
        # the texts of an image share its keys and values: no copies
        queries = self.query_proj(query).view(num_images, -1, 1, attention_size)  # (num_images, texts_each, 1, ...)
        hidden_states = torch.tanh(keys[:, None] + queries)  # (num_images, texts_each, num_regions, ...)
        scores = self.score_proj(hidden_states)[..., 0]  # (num_images, texts_each, num_regions)
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        weights = nn.functional.dropout(weights, p=self.attention_dropout, training=self.training)
        attended = torch.matmul(weights, values)  # (num_images, texts_each, value_size)
        return attended.flatten(0, 1), weights.flatten(0, 1)
