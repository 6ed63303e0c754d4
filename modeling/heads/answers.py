# SPDX-License-Identifier: Apache-2.0
"""Attention hops (Yang et al. 2016): the question attends to the regions repeatedly, then an answer is scored."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from ..configuration_butd import ButdTopDownConfig
from ..regions import ButdBoxEmbedding, ButdRegions
from ..top_down.transformer import ButdAttention, ButdFeedForward, ButdRegionLayer


@dataclass
class ButdAnswers(ModelOutput):
    """
    Args:
        logits (`torch.FloatTensor` of shape `(num_questions, num_labels)`): Score of each answer.
        last_hidden_state (`torch.FloatTensor` of shape `(num_questions, hidden_size)`): What they were scored by.
        region_attentions (`torch.FloatTensor` of shape `(num_questions, num_hops, num_regions)`): Where each
            hop attended, the mean over heads.
    """

    logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    region_attentions: torch.FloatTensor | None = None


def visible_regions(
    regions: ButdRegions, region_dropout: float, num_questions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """
    Features, boxes and mask of the regions, zero where there is none, and the number of questions about each image.

    Raises:
        ValueError: If `num_questions` is no multiple of the number of images.
    """
    num_images = regions.features.shape[0]
    if num_questions % num_images:
        raise ValueError(
            f"`input_ids` has {num_questions} rows, expected a multiple of the {num_images} images they are about."
        )
    mask = regions.mask
    if region_dropout > 0:
        mask = mask & (torch.rand(mask.shape, device=mask.device) >= region_dropout)
    features = regions.features.masked_fill(~mask[..., None], 0)
    return features, regions.boxes.masked_fill(~mask[..., None], 0), mask, num_questions // num_images


class ButdAttentionHop(GradientCheckpointingLayer):
    """One hop, pre-norm: the question attends to the regions, then a feed-forward network."""

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.cross_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attn = ButdAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = ButdFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, state: torch.Tensor, placed: torch.Tensor, regions: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            state (`torch.FloatTensor` of shape `(num_questions, hidden_size)`): State of each question.
            placed (`torch.FloatTensor` of shape `(num_images, num_regions, hidden_size)`): Regions with their box
                geometry added, for keys.
            regions (`torch.FloatTensor` of shape `(num_images, num_regions, hidden_size)`): Regions, for values.
            mask (`torch.BoolTensor` of shape `(num_images, num_regions)`): True where there is one.

        Returns:
            The new state; the attended regions `(num_questions, hidden_size)`, zero if there are none; and the
            attention `(num_questions, num_regions)`.
        """
        num_images, num_regions, hidden_size = regions.shape
        # questions about one image share its keys and values: no copies
        queries = self.cross_attn_norm(state).view(num_images, -1, hidden_size)  # (num_images, questions_each, ...)
        has_regions = mask.any(dim=1, keepdim=True)  # (num_images, 1)
        attended, weights = self.cross_attn(
            queries,
            self.cross_attn.key_values(placed, regions),
            (mask | ~has_regions)[:, None, None],
            output_attentions=True,  # one query each: forming the weights costs nothing
        )
        seen = (attended * has_regions[..., None].to(attended.dtype)).reshape(state.shape)
        weights = weights.mean(dim=1) * mask[:, None].to(weights.dtype)  # (num_images, questions_each, num_regions)
        state = state + self.dropout(seen)
        state = state + self.dropout(self.feed_forward(self.feed_forward_norm(state)))
        return state, seen, weights.reshape(-1, num_regions)


class ButdHopAnswers(nn.Module):
    """
    Answers a question about regions by `num_hops` attention hops.

    Question and attended regions meet in a product beside their sum, as in the two branches of Anderson et al.
    (2018), so that an answer can depend on both at once. Without any region the answer is that of the question alone.
    """

    def __init__(self, config: ButdTopDownConfig, region_size: int, num_labels: int):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        hidden_size, answer_size = config.hidden_size, 2 * config.hidden_size
        self.region_norm = nn.LayerNorm(region_size, eps=config.layer_norm_eps)  # backbones differ widely in scale
        self.region_proj = nn.Linear(region_size, hidden_size)
        self.box_embedding = ButdBoxEmbedding(config)
        self.region_layers = nn.ModuleList([ButdRegionLayer(config) for _ in range(config.num_region_layers)])
        self.memory_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.glimpses = nn.ModuleList([ButdAttentionHop(config) for _ in range(config.num_hops)])
        self.dropout = nn.Dropout(config.dropout)

        self.state_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.seen_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.state_proj = nn.Linear(hidden_size, answer_size)
        self.seen_proj = nn.Linear(hidden_size, answer_size)
        self.state_gate = nn.Linear(hidden_size, answer_size)
        self.seen_gate = nn.Linear(hidden_size, answer_size)
        self.answer_norm = nn.LayerNorm(answer_size, eps=config.layer_norm_eps)
        self.act_fn = ACT2FN[config.hidden_act]
        self.answer_dropout = nn.Dropout(config.answer_dropout)
        self.classifier = nn.Linear(answer_size, num_labels)

    def forward(self, question: torch.Tensor, regions: ButdRegions) -> ButdAnswers:
        """
        Args:
            question (`torch.FloatTensor` of shape `(num_questions, hidden_size)`): As many for each image, those
                about one image next to one another.
            regions (`ButdRegions`): Of each image.

        Raises:
            ValueError: If `num_questions` is no multiple of the number of images.
        """
        region_dropout = self.config.region_dropout if self.training else 0.0
        features, boxes, mask, _ = visible_regions(regions, region_dropout, question.shape[0])
        dtype = self.region_proj.weight.dtype
        hidden_states = self.dropout(self.region_proj(self.region_norm(features.to(dtype))))
        geometry = self.box_embedding(boxes.to(dtype))  # (num_images, num_regions, hidden_size)
        attention_mask = create_bidirectional_mask(  # for one query: the same for every other
            config=self.config,
            inputs_embeds=hidden_states[:, :1],
            attention_mask=mask | ~mask.any(dim=1, keepdim=True),  # an image without regions: no NaN
            encoder_hidden_states=hidden_states,
        )
        for layer in self.region_layers:
            hidden_states = layer(hidden_states, geometry, attention_mask)
        hidden_states = self.memory_norm(hidden_states)

        state, all_seen, attentions = question, [], []
        for hop in self.glimpses:
            state, seen, weights = hop(state, hidden_states + geometry, hidden_states, mask)
            all_seen.append(seen)
            attentions.append(weights)
        asked = self.state_norm(state)
        seen = self.seen_norm(torch.stack(all_seen).sum(dim=0))  # (num_questions, hidden_size)
        joint = self.state_proj(asked) + self.seen_proj(seen) + self.state_gate(asked) * self.seen_gate(seen)
        joint = self.answer_dropout(self.act_fn(self.answer_norm(joint)))  # (num_questions, answer_size)
        return ButdAnswers(
            logits=self.classifier(joint),
            last_hidden_state=state,
            region_attentions=torch.stack(attentions, dim=1),  # (num_questions, num_hops, num_regions)
        )
