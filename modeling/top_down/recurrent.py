# SPDX-License-Identifier: Apache-2.0
"""What the recurrent decoders have in common: their memory of the regions, and the way from word to word."""

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
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ButdTopDownOutput:
        """`position_ids` say nothing to a decoder that reads word by word."""
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (num_texts, length, embedding_size)
        num_texts, length, _ = inputs_embeds.shape
        num_images = memory.hidden_states.shape[0]
        if num_texts % num_images:
            raise ValueError(
                f"`input_ids` has {num_texts} rows, expected a multiple of the {num_images} images they are about."
            )
        if cache is not None and not isinstance(cache, ButdRecurrentCache):
            raise ValueError(f"`cache` is a {type(cache).__name__}, expected the ButdRecurrentCache of a step before.")
        if use_cache and cache is None:
            cache = ButdRecurrentCache()

        words = self.dropout(torch.relu(inputs_embeds)) if self.is_port else inputs_embeds
        pooled = memory.pooled.repeat_interleave(num_texts // num_images, dim=0)  # (num_texts, value_size)
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
