# SPDX-License-Identifier: Apache-2.0
"""The recurrent decoders: Up-Down (Anderson et al. 2018) with two LSTMs, and the same with one GRU."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration_butd import ButdTopDownConfig
from ..outputs import ButdMemory, ButdTopDownOutput
from ..regions import ButdRegions
from .recurrent_cache import ButdRecurrentCache


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


class ButdRecurrentCell(GradientCheckpointingLayer, ABC):
    """
    One step of a recurrent decoder: from a word and the states before it to the states after it.

    With gradient checkpointing, what a step computes between its states is computed again when it is needed.
    """

    num_states: ClassVar[int]  # each of hidden_size, all zero before the first word; the last one is the output

    @abstractmethod
    def forward(
        self,
        word: torch.Tensor,
        pooled: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor,
        *states: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """
        Args:
            word (`torch.FloatTensor` of shape `(num_texts, embedding_size)`): Its embedding.
            pooled (`torch.FloatTensor` of shape `(num_texts, value_size)`): The mean of the image's regions.
            keys, values, mask: The regions, see `ButdAdditiveAttention`.
            states (`torch.FloatTensor` of shape `(num_texts, hidden_size)`): `num_states` of them.

        Returns:
            The attention `(num_texts, num_regions)`, and the new states.
        """


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


class ButdRecurrentDecoder(nn.Module):
    """
    Top-down attention by a recurrent network over selected regions.

    `encode` is called once per image, `forward` once per step. `config.recurrent_variant` says which of the
    published models it is: `"paper"` sees the raw features of regions, `"port"` their projections. Neither looks at
    boxes.
    """

    cell_class: ClassVar[type[ButdRecurrentCell]]

    def __init__(self, config: ButdTopDownConfig, region_size: int):
        super().__init__()
        self.config = config
        self.is_port = config.recurrent_variant == "port"
        embedding_size = config.embedding_size or config.hidden_size
        # published models begin with the token that pads; a padding row would keep it from learning
        padding_idx = None if config.pad_token_id == config.bos_token_id else config.pad_token_id
        self.embed_tokens = nn.Embedding(config.vocab_size, embedding_size, padding_idx=padding_idx)
        value_size = config.hidden_size if self.is_port else region_size
        if self.is_port:
            self.region_proj = nn.Linear(region_size, value_size)
            self.pooled_proj = nn.Linear(region_size, value_size)
        self.key_proj = nn.Linear(value_size, config.attention_size, bias=self.is_port)
        self.cell = self.cell_class(config, value_size)
        self.dropout = nn.Dropout(config.dropout if self.is_port else 0.0)

    def encode(self, regions: ButdRegions) -> ButdMemory:
        """Values and keys of the regions, and their mean."""
        mask = regions.mask
        if self.training and self.config.region_dropout > 0:
            mask = mask & (torch.rand_like(mask, dtype=torch.float32) >= self.config.region_dropout)
        mask = mask | ~mask.any(dim=1, keepdim=True)  # an image without regions: attend to their absence, not to NaN

        features = regions.features.to(self.key_proj.weight.dtype)
        shares = mask.to(features.dtype) / mask.sum(dim=1, keepdim=True)  # (batch_size, num_regions)
        pooled = torch.matmul(shares[:, None], features)[:, 0]  # (batch_size, region_size)
        values = features
        if self.is_port:
            values = self.dropout(torch.relu(self.region_proj(features)))  # (batch_size, num_regions, hidden_size)
            pooled = self.dropout(torch.relu(self.pooled_proj(pooled)))  # (batch_size, hidden_size)
        keys = self.key_proj(values)  # (batch_size, num_regions, attention_size)
        return ButdMemory(hidden_states=values, attention_mask=mask, key_values=((keys, values),), pooled=pooled)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        memory: ButdMemory,
        *,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        **kwargs,
    ) -> ButdTopDownOutput:
        """Not used: `position_ids`, by a decoder that reads word by word."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (num_texts, length, embedding_size)
        num_texts, length, _ = inputs_embeds.shape
        texts_each = memory.texts_each(num_texts)
        if cache is not None and not isinstance(cache, ButdRecurrentCache):
            raise ValueError(f"`cache` is a {type(cache).__name__}, expected the ButdRecurrentCache of a step before.")
        if use_cache and cache is None:
            cache = ButdRecurrentCache()

        words = self.dropout(torch.relu(inputs_embeds)) if self.is_port else inputs_embeds
        pooled = memory.pooled.repeat_interleave(texts_each, dim=0)  # (num_texts, value_size)
        ((keys, values),) = memory.key_values
        if cache is not None and cache.layers[0].states is not None:
            states = cache.layers[0].states.unbind(dim=1)  # num_states of (num_texts, hidden_size)
        else:
            empty = words.new_zeros(num_texts, self.config.hidden_size)  # (num_texts, hidden_size)
            states = (empty,) * self.cell.num_states
        is_word = attention_mask[:, -length:, None].bool() if attention_mask is not None else None

        outputs, attentions = [], []
        for step in range(length):
            attention, *after = self.cell(words[:, step], pooled, keys, values, memory.attention_mask, *states)
            if is_word is not None:  # padding leaves no trace
                after = [torch.where(is_word[:, step], new, old) for new, old in zip(after, states, strict=True)]
            states = after
            outputs.append(states[-1])
            attentions.append(attention)
        if cache is not None:
            cache.layers[0].update(torch.stack(list(states), dim=1), length)  # (num_texts, num_states, hidden_size)
        hidden_states = self.dropout(torch.stack(outputs, dim=1))  # (num_texts, length, hidden_size)
        region_attentions = torch.stack(attentions, dim=1)[:, None]  # (num_texts, 1, length, num_regions)
        return ButdTopDownOutput(
            last_hidden_state=hidden_states,
            cache=cache if use_cache else None,
            hidden_states=(inputs_embeds, hidden_states) if output_hidden_states else None,
            cross_attentions=(region_attentions,) if output_attentions else None,
        )


class ButdLstmDecoder(ButdRecurrentDecoder):
    """Up-Down: an attention LSTM that reads, an attention over the regions, and a language LSTM that writes."""

    cell_class = ButdLstmCell


class ButdGruDecoder(ButdRecurrentDecoder):
    """Up-Down with one GRU: it reads and attends to the regions, a single layer writes."""

    cell_class = ButdGruCell
