# SPDX-License-Identifier: Apache-2.0
"""What Bottom-Up Top-Down attention models return."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .regions import ButdRegions


@dataclass
class ButdMemory(ModelOutput):
    """What a decoder keeps of an image's regions, computed once per image whatever the number of texts about it."""

    hidden_states: torch.FloatTensor | None = None  # (batch_size, num_regions, hidden_size): regions in context
    attention_mask: torch.Tensor | None = None  # which regions exist, as the attention takes it; None if all do
    # keys and values of each layer, (batch_size, num_heads, num_regions, head_dim); of recurrent ones without heads
    key_values: tuple[tuple[torch.FloatTensor, torch.FloatTensor], ...] | None = None
    pooled: torch.FloatTensor | None = None  # (batch_size, value_size): mean of the regions, for recurrent decoders


@dataclass
class ButdEncoderOutput(ModelOutput):
    """An image, encoded: its regions, and what the decoder keeps of them."""

    last_hidden_state: torch.FloatTensor | None = None  # (batch_size, num_regions, hidden_size): regions in context
    regions: ButdRegions | None = None
    memory: ButdMemory | None = None


@dataclass
class ButdModelOutput(ModelOutput):
    """What a decoder of texts returns; tuples of attentions and hidden states where they were asked for.

    Attentions of each layer are `(num_texts, num_heads, length, past_length + length)` over the tokens, and
    `(num_texts, num_heads, length, num_regions)` over the regions.
    """

    last_hidden_state: torch.FloatTensor | None = None  # (num_texts, length, hidden_size): one state per token
    cache: Cache | None = None  # what the next step needs of the steps before, with `use_cache`
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None  # embeddings, then each layer's output
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    region_attentions: torch.FloatTensor | None = None  # (num_texts, length, num_regions): mean of layers and heads
    encoder_last_hidden_state: torch.FloatTensor | None = None  # (batch_size, num_regions, hidden_size)
    regions: ButdRegions | None = None


@dataclass
class ButdConditionalGenerationOutput(ModelOutput):
    """As `ButdModelOutput`, with scores of tokens instead of states."""

    loss: torch.FloatTensor | None = None  # (): mean cross-entropy of the labels, with `labels`
    logits: torch.FloatTensor | None = None  # (num_texts, length, vocab_size): scores of the next token
    cache: Cache | None = None
    decoder_hidden_states: tuple[torch.FloatTensor, ...] | None = None
    decoder_attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    region_attentions: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    regions: ButdRegions | None = None


@dataclass
class ButdTaskOutput(ModelOutput):
    """What the models with a head have in common; what a query, question or pair is depends on the task."""

    loss: torch.FloatTensor | None = None  # (): with labels
    loss_dict: dict[str, torch.FloatTensor] | None = None  # its parts by name, before weighting, if it has several
    logits: torch.FloatTensor | None = None  # scores before the softmax or sigmoid, in the last dimension
    last_hidden_state: torch.FloatTensor | None = None  # (..., hidden_size): what the head read
    hidden_states: tuple[torch.FloatTensor, ...] | None = None  # with `output_hidden_states`: input and each layer's
    region_attentions: torch.FloatTensor | None = None  # over its last dimensions: sums to one, or 0 without regions
    regions: ButdRegions | None = None


@dataclass
class ButdQuestionAnsweringOutput(ButdTaskOutput):
    """As `ButdTaskOutput`: `logits` `(num_questions, num_labels)`, one per answer; `hidden_states` of the question
    encoder, each `(num_questions, length, size)`; `region_attentions` `(num_questions, num_hops, num_regions)`, the
    mean over heads, always there.
    """


@dataclass
class ButdObjectDetectionOutput(ButdTaskOutput):
    """As `ButdTaskOutput`; `regions` are those that became queries.

    `logits` are `(batch_size, num_queries, num_labels + 1)`: one sigmoid per class; the last column is "no object" and
    always 0. Queries that don't exist have -30 for every class. `region_attentions` are `(batch_size, num_queries, 7,
    7)`, of each query to the cells of its box in the last layer.

    `loss_dict` has, bottom-up, `loss_objectness`, `loss_proposal_box`, `loss_region_box`, and if configured
    `loss_region_class`, `loss_attribute`, `loss_region_mask`; top-down `loss_ce`, `loss_bbox`, `loss_giou` of the last
    layer, with `_0`, `_1`, ... of those before, and in training all of them once more with `_many`.
    """

    pred_boxes: torch.FloatTensor | None = None  # (batch_size, num_queries, 4): `centre x, centre y, w, h` in [0, 1]
    auxiliary_outputs: list[dict[str, torch.FloatTensor]] | None = None  # of earlier layers, in training


@dataclass
class ButdInstanceSegmentationOutput(ButdObjectDetectionOutput):
    """As `ButdObjectDetectionOutput`; `loss_dict` has `loss_mask` and `loss_dice` as well."""

    # (batch_size, num_queries, mask_size, mask_size): logits within each box; None in training, which draws a few
    pred_masks: torch.FloatTensor | None = None


@dataclass
class ButdSceneGraphGenerationOutput(ButdTaskOutput):
    """As `ButdTaskOutput`, with the states of pairs; `regions` are the nodes of the graph.

    `logits` are `(batch_size, num_regions, num_labels + 1)`, of objects before the softmax; the last column is "no
    object" and always 0. Given labels have 30, all others -30. `region_attentions` are `(batch_size, num_pairs,
    num_regions)`, the mean over layers and heads. `loss_dict` has `loss_object`, `loss_selection`, `loss_pair`,
    `loss_predicate`, and the bottom-up losses where that half is trained along.
    """

    # (batch_size, num_regions): what relations were judged by: given, else matched in training, else most likely
    region_labels: torch.LongTensor | None = None
    pairs: torch.LongTensor | None = None  # (batch_size, num_pairs, 2): places of subject and object, likeliest first
    pair_mask: torch.BoolTensor | None = None  # (batch_size, num_pairs): True where there is a pair
    pair_logits: torch.FloatTensor | None = None  # (batch_size, num_pairs): related at all; -30 where no pair is
    predicate_logits: torch.FloatTensor | None = None  # (batch_size, num_pairs, num_predicates): before the softmax
    selection_logits: torch.FloatTensor | None = None  # (batch_size, num_pairs): the scores that selected the pairs
