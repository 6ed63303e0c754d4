# SPDX-License-Identifier: Apache-2.0
"""The published answer heads: one attention over regions, and the product of question and attended regions."""

import torch
from torch import nn
from transformers import initialization as init

from ..configuration_butd import ButdTopDownConfig
from ..outputs import ButdQuestionAnsweringOutput
from ..regions import ButdRegions
from .answers import visible_regions


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
