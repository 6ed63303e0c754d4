# SPDX-License-Identifier: Apache-2.0
"""The Up-Down decoder with one GRU: half the recurrent weights, for small data and fast training."""

from typing import ClassVar

import torch
from torch import nn

from ..configuration_butd import ButdTopDownConfig
from .attention import ButdAdditiveAttention
from .recurrent import ButdRecurrentCell, ButdRecurrentDecoder


class ButdGruCell(ButdRecurrentCell):
    """
    A GRU in the place of the attention LSTM, and in the place of the language LSTM one layer without a memory.

    That layer joins the state with what it saw (Luong et al. 2015, equation 5), and its output is fed back, as the
    language LSTM's is (their section 3.3).
    """

    num_states: ClassVar[int] = 2  # the GRU's, and the output

    def __init__(self, config: ButdTopDownConfig, value_size: int):
        super().__init__()
        hidden_size = config.hidden_size
        self.order = -1 if config.recurrent_variant == "port" else 1
        embedding_size = config.embedding_size or hidden_size
        self.attention_gru = nn.GRUCell(embedding_size + value_size + hidden_size, hidden_size)
        self.attention = ButdAdditiveAttention(config)
        self.language_proj = nn.Linear(hidden_size + value_size, hidden_size)

    def forward(
        self,
        word: torch.Tensor,
        pooled: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
        *states: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        attention_state, output = states
        inputs = torch.cat([word, pooled, output][:: self.order], dim=1)  # (num_texts, sum of their sizes)
        attention_state = self.attention_gru(inputs, attention_state)
        attended, weights = self.attention(attention_state, keys, values, mask)
        inputs = torch.cat([attention_state, attended][:: self.order], dim=1)  # (num_texts, sum of their sizes)
        return weights, attention_state, torch.tanh(self.language_proj(inputs))


class ButdGruDecoder(ButdRecurrentDecoder):
    """Up-Down with one GRU: it reads and attends to the regions, a single layer writes."""

    cell_class = ButdGruCell
