# SPDX-License-Identifier: Apache-2.0
"""The Up-Down decoder: one LSTM says where to look, another what to say."""

from typing import ClassVar

import torch
from torch import nn

from ..configuration_butd import ButdTopDownConfig
from .attention import ButdAdditiveAttention
from .recurrent import ButdRecurrentCell, ButdRecurrentDecoder


class ButdLstmCell(ButdRecurrentCell):
    """
    Attention LSTM and language LSTM (Anderson et al. 2018, section 3.2).

    The inputs of both are concatenated as in the variant's code, so that its weights fit as they are: the port puts
    them in the opposite order of the paper.
    """

    num_states: ClassVar[int] = 4  # hidden and cell state of the attention LSTM, cell and hidden of the language LSTM

    def __init__(self, config: ButdTopDownConfig, value_size: int):
        super().__init__()
        hidden_size = config.hidden_size
        self.order = -1 if config.recurrent_variant == "port" else 1
        embedding_size = config.embedding_size or hidden_size
        self.attention_lstm = nn.LSTMCell(embedding_size + value_size + hidden_size, hidden_size)
        self.attention = ButdAdditiveAttention(config)
        self.language_lstm = nn.LSTMCell(hidden_size + value_size, hidden_size)
        for lstm in (self.attention_lstm, self.language_lstm):  # read where weights are initialised
            lstm.forget_bias = 1.0 if config.recurrent_variant == "paper" else 0.0

    def forward(
        self,
        word: torch.Tensor,
        pooled: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
        *states: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        attention_state, attention_cell, language_cell, language_state = states
        inputs = torch.cat([word, pooled, language_state][:: self.order], dim=1)  # (num_texts, sum of their sizes)
        attention_state, attention_cell = self.attention_lstm(inputs, (attention_state, attention_cell))
        attended, weights = self.attention(attention_state, keys, values, mask)
        inputs = torch.cat([attention_state, attended][:: self.order], dim=1)  # (num_texts, sum of their sizes)
        language_state, language_cell = self.language_lstm(inputs, (language_state, language_cell))
        return weights, attention_state, attention_cell, language_cell, language_state


class ButdLstmDecoder(ButdRecurrentDecoder):
    """Up-Down: an attention LSTM that reads, an attention over the regions, and a language LSTM that writes."""

    cell_class = ButdLstmCell
