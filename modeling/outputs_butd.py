# Copyright 2026 The butd_hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""What Bottom-Up Top-Down attention models return."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .regions_butd import ButdRegions


@dataclass
class ButdMemory(ModelOutput):
    """
    What a decoder keeps of an image's regions, computed once per image whatever the number of texts about it.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`): Regions in context.
        attention_mask (`torch.Tensor`, *optional*): Which regions exist, as the attention implementation wants it
            told; None if all do.
        key_values (`tuple`): Keys and values of each layer, each of shape
            `(batch_size, num_heads, num_regions, head_dim)`; of recurrent decoders one pair, without heads.
        pooled (`torch.FloatTensor` of shape `(batch_size, value_size)`, *optional*): The mean of the regions, for
            recurrent decoders.
    """

    hidden_states: torch.FloatTensor | None = None
    attention_mask: torch.Tensor | None = None
    key_values: tuple[tuple[torch.FloatTensor, torch.FloatTensor], ...] | None = None
    pooled: torch.FloatTensor | None = None


@dataclass
class ButdTopDownOutput(ModelOutput):
    """
    What every decoder returns.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(num_texts, length, hidden_size)`): One state per token.
        cache (`Cache`): What the next step needs of the steps before.
        hidden_states (`tuple`): Embeddings and each layer's output, if asked for.
        attentions (`tuple`): Each layer's attention over the tokens, if asked for, of shape
            `(num_texts, num_heads, length, past_length + length)`.
        cross_attentions (`tuple`): Each layer's attention over the regions, if asked for, of shape
            `(num_texts, num_heads, length, num_regions)`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    cache: Cache | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class ButdEncoderOutput(ModelOutput):
    """
    An image, encoded: its regions, and what the decoder keeps of them.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`): Regions in context.
        regions (`ButdRegions`): The selected regions.
        memory (`ButdMemory`): What the decoder attends to, computed once per image.
    """

    last_hidden_state: torch.FloatTensor | None = None
    regions: ButdRegions | None = None
    memory: ButdMemory | None = None


@dataclass
class ButdModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(num_texts, length, hidden_size)`): One state per token.
        cache (`Cache`): What the next step needs of the steps before, with `use_cache`.
        decoder_hidden_states (`tuple`): Embeddings and each decoder layer's output, with `output_hidden_states`.
        decoder_attentions (`tuple`): Each layer's attention over the tokens, with `output_attentions`.
        cross_attentions (`tuple`): Each layer's attention over the regions, with `output_attentions`, of shape
            `(num_texts, num_heads, length, num_regions)`.
        region_attentions (`torch.FloatTensor` of shape `(num_texts, length, num_regions)`): Where each token looked,
            with `output_attentions`: the mean over layers and heads, sums to one.
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`): Regions in
            context.
        regions (`ButdRegions`): The selected regions.
    """

    last_hidden_state: torch.FloatTensor | None = None
    cache: Cache | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    region_attentions: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    regions: ButdRegions | None = None


@dataclass
class ButdConditionalGenerationOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor` of shape `(1,)`): Mean cross-entropy of the labels, with `labels`.
        logits (`torch.FloatTensor` of shape `(num_texts, length, vocab_size)`): Scores of the next token.

    The other fields are those of `ButdModelOutput`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    cache: Cache | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    region_attentions: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    regions: ButdRegions | None = None


__all__ = [
    "ButdConditionalGenerationOutput",
    "ButdEncoderOutput",
    "ButdMemory",
    "ButdModelOutput",
    "ButdTopDownOutput",
]
