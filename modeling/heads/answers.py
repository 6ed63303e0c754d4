# SPDX-License-Identifier: Apache-2.0
"""Answers: by attention hops (Yang et al. 2016), or by the one attention and the product of published heads."""

import torch
from torch import nn
from transformers import initialization as init
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


class ButdScaledLinear(nn.Module):
    """A linear layer whose matrix is a direction times one scale (Salimans and Kingma 2016).

    It is torch's `weight_norm(nn.Linear(...), dim=None)`, under names that transformers doesn't translate on loading.
    """

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(out_size, in_size))
        self.scale = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.zeros(out_size))
        self.init_own_weights()

    def init_own_weights(self):
        out_size, in_size = self.direction.shape
        bound = in_size**-0.5  # torch's own for linear layers
        init.uniform_(self.direction, -bound, bound)
        init.constant_(self.scale, (out_size / 3) ** 0.5)  # the norm that such a matrix has on average
        init.zeros_(self.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight = self.direction * (self.scale / self.direction.norm())
        return nn.functional.linear(hidden_states, weight, self.bias)


class ButdGatedTanh(nn.Module):
    """A layer of tanh units, each with a gate (Anderson et al. 2018, equations 6 to 8)."""

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        self.up_proj = nn.Linear(in_size, out_size)
        self.gate_proj = nn.Linear(in_size, out_size)

    def init_own_weights(self):
        for linear in (self.up_proj, self.gate_proj):  # a product of small branches would hardly learn
            init.xavier_uniform_(linear.weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.up_proj(hidden_states)) * torch.sigmoid(self.gate_proj(hidden_states))


class ButdRectified(nn.Module):
    """The port's layer: weight norm, then ReLU."""

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        self.up_proj = ButdScaledLinear(in_size, out_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.up_proj(hidden_states))


class ButdProductAnswers(nn.Module):
    """The published answer head (Anderson et al. 2018, section 3.3; Teney et al. 2018) and its PyTorch port.

    What differs from the port: regions that don't exist are out of the softmax, and of an image without regions zeros
    are attended to; the port takes 36 regions of every image.
    """

    def __init__(self, config: ButdTopDownConfig, region_size: int, num_labels: int):
        super().__init__()
        self.config = config
        is_paper = config.question_variant == "paper"
        self.by_product = config.question_variant == "baseline0_newatt"
        layer, linear = (ButdGatedTanh, nn.Linear) if is_paper else (ButdRectified, ButdScaledLinear)
        hidden_size, answer_size = config.hidden_size, 2 * config.hidden_size
        if self.by_product:
            self.region_key = layer(region_size, hidden_size)
            self.question_key = layer(hidden_size, hidden_size)
        else:
            self.joint_key = layer(region_size + hidden_size, hidden_size)
        self.score_proj = linear(hidden_size, 1)
        self.attention_dropout = nn.Dropout(config.attention_dropout if self.by_product else 0.0)
        self.question_layer = layer(hidden_size, hidden_size)
        self.seen_layer = layer(region_size, hidden_size)
        self.answer_layer = layer(hidden_size, answer_size)
        self.answer_dropout = nn.Dropout(config.answer_dropout)
        self.classifier = linear(answer_size, num_labels)

    def forward(self, question: torch.Tensor, regions: ButdRegions) -> ButdQuestionAnsweringOutput:
        """See `ButdHopAnswers.forward`."""
        region_dropout = self.config.region_dropout if self.training else 0.0
        features, _, mask, each = visible_regions(regions, region_dropout, question.shape[0])
        features = features.to(question.dtype)
        queries = question.view(-1, each, question.shape[-1])  # (num_images, questions_each, hidden_size)
        scores = self.scores(queries, features)  # (num_images, questions_each, num_regions)
        scores = scores.masked_fill(~(mask | ~mask.any(dim=1, keepdim=True))[:, None], torch.finfo(scores.dtype).min)
        weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)
        weights = weights * mask[:, None].to(weights.dtype)
        seen = torch.matmul(weights, features).flatten(0, 1)  # (num_questions, region_size)
        joint = self.question_layer(question) * self.seen_layer(seen)  # (num_questions, hidden_size)
        return ButdQuestionAnsweringOutput(
            logits=self.classifier(self.answer_dropout(self.answer_layer(joint))),
            last_hidden_state=joint,
            region_attentions=weights.flatten(0, 1)[:, None],  # (num_questions, 1, num_regions)
        )

    def scores(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Attention scores `(num_images, questions_each, num_regions)` before the softmax."""
        # CODEPATH: the port's second model multiplies, its first model and the paper concatenate
        if self.by_product:
            joint = self.region_key(features)[:, None] * self.question_key(queries)[:, :, None]
        else:
            shape = (features.shape[0], queries.shape[1], features.shape[1], -1)
            pairs = [features[:, None].expand(shape), queries[:, :, None].expand(shape)]
            joint = self.joint_key(torch.cat(pairs, dim=-1))  # (num_images, questions_each, num_regions, hidden_size)
        return self.score_proj(self.attention_dropout(joint))[..., 0]
