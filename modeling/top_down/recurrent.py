# SPDX-License-Identifier: Apache-2.0
"""The recurrent decoders: Up-Down (Anderson et al. 2018) with two LSTMs, and the same with one GRU."""

from typing import ClassVar

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration_butd import ButdTopDownConfig
from ..outputs import ButdMemory, ButdModelOutput
from ..regions import ButdRegions, texts_each, visible


class ButdRecurrentCacheLayer(DynamicLayer):
    """States of a recurrent decoder after the words so far, in `keys`; of one size, however long the text."""

    is_croppable = False
    seq_length = 0

    def update(self, states: torch.Tensor, length: int) -> torch.Tensor:
        """Replaces the states by those `length` words later, `(num_texts, num_states, hidden_size)`."""
        self.lazy_initialization(states, states)
        self.keys = self.values = states
        self.seq_length += length
        return states

    def get_seq_length(self) -> int:
        return self.seq_length

    def reset(self) -> None:
        super().reset()
        self.seq_length = 0

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError(f"a recurrent state can't forget its last {abs(tokens_to_remove)} words.")


class ButdRecurrentCache(Cache):
    """Cache of a recurrent decoder: the one layer that `generate` asks for lengths, reorders and repeats."""

    def __init__(self):
        super().__init__(layers=[ButdRecurrentCacheLayer()])


class ButdAdditiveAttention(nn.Module):
    """Soft attention by a network of one hidden layer (Anderson et al. 2018, equations 3 to 5; Bahdanau et al. 2015).

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
        self,
        query: torch.Tensor,  # (num_texts, hidden_size): as many texts for each image, those of one image together
        keys: torch.Tensor,  # (num_images, num_regions, attention_size): projected regions
        values: torch.Tensor,  # (num_images, num_regions, value_size): regions
        mask: torch.Tensor,  # (num_images, num_regions): true where a region exists, somewhere in every image
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What was attended to, `(num_texts, value_size)`, and where, `(num_texts, num_regions)`."""
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


class ButdRecurrentCell(GradientCheckpointingLayer):
    """One step of a recurrent decoder: from a word and the states before it to the states after it.

    Inputs are concatenated as in the variant's code, so that its weights fit as they are: the port puts them in the
    opposite order of the paper. With gradient checkpointing, what a step computes between its states is computed again
    when it is needed.
    """

    num_states: ClassVar[int]  # each of hidden_size, all zero before the first word; the last one is the output

    def __init__(self, config: ButdTopDownConfig, value_size: int):
        super().__init__()
        self.order = -1 if config.recurrent_variant == "port" else 1
        hidden_size = config.hidden_size
        self.build_layers(config, (config.embedding_size or hidden_size) + value_size + hidden_size, value_size)

    def forward(
        self,
        word: torch.Tensor,  # (num_texts, embedding_size)
        pooled: torch.Tensor,  # (num_texts, value_size): the mean of the image's regions
        keys: torch.Tensor,  # the regions, see `ButdAdditiveAttention`
        values: torch.Tensor,
        mask: torch.Tensor,
        *states: torch.Tensor,  # num_states of (num_texts, hidden_size)
    ) -> tuple[torch.Tensor, ...]:
        """The attention `(num_texts, num_regions)`, and the new states."""
        inputs = torch.cat([word, pooled, states[-1]][:: self.order], dim=1)  # (num_texts, sum of their sizes)
        states = self.read(inputs, states)
        attended, weights = self.attention(states[0], keys, values, mask)
        inputs = torch.cat([states[0], attended][:: self.order], dim=1)  # (num_texts, hidden_size + value_size)
        return weights, *self.write(inputs, states)


class ButdLstmCell(ButdRecurrentCell):
    """Attention LSTM and language LSTM (Anderson et al. 2018, section 3.2)."""

    num_states: ClassVar[int] = 4  # hidden and cell state of the attention LSTM, cell and hidden of the language LSTM

    def build_layers(self, config: ButdTopDownConfig, input_size: int, value_size: int):
        self.attention_lstm = nn.LSTMCell(input_size, config.hidden_size)
        self.attention = ButdAdditiveAttention(config)
        self.language_lstm = nn.LSTMCell(config.hidden_size + value_size, config.hidden_size)
        for lstm in (self.attention_lstm, self.language_lstm):  # read where weights are initialised
            lstm.forget_bias = 1.0 if config.recurrent_variant == "paper" else 0.0

    def read(self, inputs: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return *self.attention_lstm(inputs, states[:2]), *states[2:]

    def write(self, inputs: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        language_state, language_cell = self.language_lstm(inputs, (states[3], states[2]))
        return *states[:2], language_cell, language_state


class ButdGruCell(ButdRecurrentCell):
    """A GRU in the place of the attention LSTM, and in the place of the language LSTM one layer without a memory.

    That layer joins the state with what it attended to (Luong et al. 2015, equation 5), and its output is fed back, as
    the language LSTM's is (their section 3.3).
    """

    num_states: ClassVar[int] = 2  # the GRU's, and the output

    def build_layers(self, config: ButdTopDownConfig, input_size: int, value_size: int):
        self.attention_gru = nn.GRUCell(input_size, config.hidden_size)
        self.attention = ButdAdditiveAttention(config)
        self.language_proj = nn.Linear(config.hidden_size + value_size, config.hidden_size)

    def read(self, inputs: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return self.attention_gru(inputs, states[0]), states[1]

    def write(self, inputs: torch.Tensor, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return states[0], torch.tanh(self.language_proj(inputs))


class ButdRecurrentDecoder(nn.Module):
    """Top-down attention by a recurrent network over selected regions.

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
        mask = visible(regions.mask, self.config.region_dropout if self.training else 0.0)
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
    ) -> ButdModelOutput:
        """Not used: `position_ids`, by a decoder that reads word by word."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (num_texts, length, embedding_size)
        num_texts, length, _ = inputs_embeds.shape
        if cache is not None and not isinstance(cache, ButdRecurrentCache):
            raise ValueError(f"`cache` is a {type(cache).__name__}, expected the ButdRecurrentCache of a step before.")
        if use_cache and cache is None:
            cache = ButdRecurrentCache()

        words = self.dropout(torch.relu(inputs_embeds)) if self.is_port else inputs_embeds
        each = texts_each(num_texts, len(memory.pooled))
        pooled = memory.pooled.repeat_interleave(each, dim=0)  # (num_texts, value_size)
        ((keys, values),) = memory.key_values
        if cache is not None and cache.layers[0].keys is not None:
            states = cache.layers[0].keys.unbind(dim=1)  # num_states of (num_texts, hidden_size)
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
        return ButdModelOutput(
            last_hidden_state=hidden_states,
            cache=cache if use_cache else None,
            decoder_hidden_states=(inputs_embeds, hidden_states) if output_hidden_states else None,
            cross_attentions=(region_attentions,) if output_attentions else None,
        )


class ButdLstmDecoder(ButdRecurrentDecoder):
    """Up-Down: an attention LSTM that reads, an attention over the regions, and a language LSTM that writes."""

    cell_class = ButdLstmCell


class ButdGruDecoder(ButdRecurrentDecoder):
    """Up-Down with one GRU: it reads and attends to the regions, a single layer writes."""

    cell_class = ButdGruCell
