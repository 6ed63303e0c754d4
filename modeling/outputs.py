# SPDX-License-Identifier: Apache-2.0
"""What Bottom-Up Top-Down attention models return."""

from dataclasses import dataclass

import torch
from transformers.cache_utils import Cache
from transformers.utils import ModelOutput

from .regions import ButdRegions


@dataclass
class ButdMemory(ModelOutput):
    """
    What a decoder keeps of an image's regions, computed once per image whatever the number of texts about it.

    Args:
        hidden_states (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`): Regions in context.
        attention_mask (`torch.Tensor`, *optional*): Which regions exist, in the form that the attention implementation
            takes; None if all do.
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
class ButdEncoderOutput(ModelOutput):
    """
    An image, encoded: its regions, and what the decoder keeps of them.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`): Regions in context.
        regions (`ButdRegions`): The selected regions.
        memory (`ButdMemory`): What the decoder attends to.
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
        decoder_attentions (`tuple`): Each layer's attention over the tokens, with `output_attentions`, of shape
            `(num_texts, num_heads, length, past_length + length)`.
        cross_attentions (`tuple`): Each layer's attention over the regions, with `output_attentions`, of shape
            `(num_texts, num_heads, length, num_regions)`.
        region_attentions (`torch.FloatTensor` of shape `(num_texts, length, num_regions)`): Attention of each token,
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


@dataclass
class ButdTaskOutput(ModelOutput):
    """
    What the models with a head have in common; what a query, question or pair is depends on the task.

    Args:
        loss (`torch.FloatTensor` of shape `()`): With labels.
        loss_dict (`dict`): The parts of which the loss is the weighted sum, where it has several.
        logits (`torch.FloatTensor`): Scores before the softmax or sigmoid, in the last dimension.
        last_hidden_state (`torch.FloatTensor` of shape `(..., hidden_size)`): What the head read.
        hidden_states (`tuple`): What the layers began with and each layer's output, with `output_hidden_states`.
        region_attentions (`torch.FloatTensor`): Where the last dimensions attended; sums to one, or is zero where the
            image has no regions.
        regions (`ButdRegions`): The selected regions.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    region_attentions: torch.FloatTensor | None = None
    regions: ButdRegions | None = None


@dataclass
class ButdQuestionAnsweringOutput(ButdTaskOutput):
    """
    As `ButdTaskOutput`: `logits` `(num_questions, num_labels)`, one per answer; `hidden_states` of the question
    encoder, each `(num_questions, length, size)`; `region_attentions` `(num_questions, num_hops, num_regions)`, the
    mean over heads, always there.
    """


@dataclass
class ButdObjectDetectionOutput(ButdTaskOutput):
    """
    As `ButdTaskOutput`, with `region_attentions` `(batch_size, num_queries, 7, 7)` of each query to the cells of its
    box in the last layer, with `output_attentions`; `regions` are those that became queries.

    Args:
        loss_dict (`dict`): Every part of the loss by name, before weighting. Bottom-up: `loss_objectness`,
            `loss_proposal_box`, `loss_region_box`, and if configured `loss_region_class`, `loss_attribute`,
            `loss_region_mask`. Top-down: `loss_ce`, `loss_bbox`, `loss_giou` of the last layer, with `_0`, `_1`, ...
            of those before, and all of them once more with `_many` of the one-to-many pass in training.
        logits (`torch.FloatTensor` of shape `(batch_size, num_queries, num_labels + 1)`): One sigmoid per class; the
            last column is "no object" and always 0. Queries that don't exist have -30 for every class.
        pred_boxes (`torch.FloatTensor` of shape `(batch_size, num_queries, 4)`): `centre x, centre y, width, height`
            in [0, 1] of the unpadded image.
        auxiliary_outputs (`list[dict]`): `logits` and `pred_boxes` of each layer before the last, in training.
    """

    pred_boxes: torch.FloatTensor | None = None
    auxiliary_outputs: list[dict[str, torch.FloatTensor]] | None = None


@dataclass
class ButdInstanceSegmentationOutput(ButdObjectDetectionOutput):
    """
    As `ButdObjectDetectionOutput`; `loss_dict` has `loss_mask` and `loss_dice` as well.

    Args:
        pred_masks (`torch.FloatTensor` of shape `(batch_size, num_queries, mask_size, mask_size)`): Logits of each
            query's mask within its box. None in training mode, where only matched masks are drawn, for the loss.
    """

    pred_masks: torch.FloatTensor | None = None


@dataclass
class ButdSceneGraphGenerationOutput(ButdTaskOutput):
    """
    As `ButdTaskOutput`, with the states of pairs; `region_attentions` `(batch_size, num_pairs, num_regions)` is the
    mean over layers and heads, with `output_attentions`; `regions` are the nodes of the graph.

    Args:
        loss_dict (`dict`): Every part of the loss by name, before weighting: `loss_object`, `loss_selection`,
            `loss_pair`, `loss_predicate`, and the bottom-up losses where that half is trained along.
        logits (`torch.FloatTensor` of shape `(batch_size, num_regions, num_labels + 1)`): Object labels before the
            softmax; the last column is "no object" and always 0. Given labels have 30, all others -30.
        region_labels (`torch.LongTensor` of shape `(batch_size, num_regions)`): The labels that relations were judged
            by: those given, else in training those of the matched objects, else the most likely.
        pairs (`torch.LongTensor` of shape `(batch_size, num_pairs, 2)`): Subject and object of each pair, as places
            among the regions; the most likely pairs first, where there are more than `config.pair_budget` only those.
        pair_mask (`torch.BoolTensor` of shape `(batch_size, num_pairs)`): True where there is a pair.
        pair_logits (`torch.FloatTensor` of shape `(batch_size, num_pairs)`): Whether they are related at all, before
            the sigmoid; -30 where there is no pair.
        predicate_logits (`torch.FloatTensor` of shape `(batch_size, num_pairs, num_predicates)`): Before the softmax.
    """

    region_labels: torch.LongTensor | None = None
    pairs: torch.LongTensor | None = None
    pair_mask: torch.BoolTensor | None = None
    pair_logits: torch.FloatTensor | None = None
    predicate_logits: torch.FloatTensor | None = None


__all__ = [
    "ButdConditionalGenerationOutput",
    "ButdEncoderOutput",
    "ButdInstanceSegmentationOutput",
    "ButdMemory",
    "ButdModelOutput",
    "ButdObjectDetectionOutput",
    "ButdQuestionAnsweringOutput",
    "ButdSceneGraphGenerationOutput",
]
