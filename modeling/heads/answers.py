# SPDX-License-Identifier: Apache-2.0
"""Attention hops (Yang et al. 2016): the question attends to the regions repeatedly, then an answer is scored."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from ..configuration_butd import ButdTopDownConfig
from ..outputs import ButdQuestionAnsweringOutput
from ..regions import ButdRegions, texts_each, visible
from ..top_down.transformer import ButdCrossLayer, ButdRegionEncoder


def visible_regions(
    regions: ButdRegions, region_dropout: float, num_questions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Features, boxes and mask of the regions, zero where there is none, and the number of questions per image."""
    each = texts_each(num_questions, len(regions.features))
    mask = visible(regions.mask, region_dropout)
    features = regions.features.masked_fill(~mask[..., None], 0)
    return features, regions.boxes.masked_fill(~mask[..., None], 0), mask, each


class ButdAttentionHop(ButdCrossLayer):
    """One hop: the question attends to the regions, then a feed-forward network."""

    def forward(
        self,
        state: torch.Tensor,  # (num_questions, hidden_size): of each question
        placed: torch.Tensor,  # (num_images, num_regions, hidden_size): regions with box geometry added, for keys
        regions: torch.Tensor,  # (num_images, num_regions, hidden_size): regions, for values
        mask: torch.Tensor,  # (num_images, num_regions): true where there is one
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The new state, the attended regions `(num_questions, hidden_size)`, zero without any, and the attention."""
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
        return self.feed(state + self.dropout(seen)), seen, weights.reshape(-1, num_regions)


class ButdHopAnswers(ButdRegionEncoder):
    """Answers a question about regions by `num_hops` attention hops.

    Question and attended regions meet in a product beside their sum, as in the two branches of Anderson et al.
    (2018), so that an answer can depend on both at once. Without any region the answer is that of the question alone.
    """

    def __init__(self, config: ButdTopDownConfig, region_size: int, num_labels: int):
        super().__init__(config, region_size)
        hidden_size, answer_size = config.hidden_size, 2 * config.hidden_size
        self.glimpses = nn.ModuleList([ButdAttentionHop(config) for _ in range(config.num_hops)])
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

    def forward(self, question: torch.Tensor, regions: ButdRegions) -> ButdQuestionAnsweringOutput:
        """Answers questions `(num_questions, hidden_size)`, as many for each image, those of one image together."""
        region_dropout = self.config.region_dropout if self.training else 0.0
        features, boxes, mask, _ = visible_regions(regions, region_dropout, question.shape[0])
        hidden_states, geometry, _ = self.encode_regions(features, boxes, mask)
        state, all_seen, attentions = question, [], []
        for hop in self.glimpses:
            state, seen, weights = hop(state, hidden_states + geometry, hidden_states, mask)
            all_seen.append(seen)
            attentions.append(weights)
        asked = self.state_norm(state)
        seen = self.seen_norm(torch.stack(all_seen).sum(dim=0))  # (num_questions, hidden_size)
        joint = self.state_proj(asked) + self.seen_proj(seen) + self.state_gate(asked) * self.seen_gate(seen)
        joint = self.answer_dropout(self.act_fn(self.answer_norm(joint)))  # (num_questions, answer_size)
        return ButdQuestionAnsweringOutput(
            logits=self.classifier(joint),
            last_hidden_state=state,
            region_attentions=torch.stack(attentions, dim=1),  # (num_questions, num_hops, num_regions)
        )
