# SPDX-License-Identifier: Apache-2.0
"""The detection decoder: regions become queries that attend to one another and to the cells of their boxes."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..bottom_up.feature_pyramid import ButdPyramid, pool_pyramid
from ..boxes import ABSENT_LOGIT, clip_boxes, refine_boxes
from ..configuration_butd import ButdTopDownConfig
from ..regions import ButdBoxEmbedding, ButdRegions
from .transformer import ButdRegionLayer, attention_mask_of


POOLED_SIZE = 7
LAYOUT_SIZE = 32  # channels per cell of the linear layer over all cells
FIRST_PROBABILITY = 0.01  # of each class, before training


@dataclass
class ButdDetectionDecoderOutput(ModelOutput):
    """What the decoder predicts for each query, layer by layer; see `ButdObjectDetectionOutput` for the others."""

    logits: tuple[torch.FloatTensor, ...] | None = None  # each (batch_size, num_queries, num_labels)
    boxes: tuple[torch.FloatTensor, ...] | None = None  # each (…, 4): `x0, y0, x1, y1` of the image, not clipped to it
    last_hidden_state: torch.FloatTensor | None = None  # (batch_size, num_queries, hidden_size)
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    region_attentions: torch.FloatTensor | None = None


def weight_of(linear: nn.Linear) -> torch.Tensor:
    """The weight of a layer without bias; of a quantised one, computed from what it outputs."""
    if type(linear.weight) in (nn.Parameter, torch.Tensor):
        return linear.weight
    return linear(torch.eye(linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype)).T


class ButdCellAttention(nn.Module):
    """Multi-head attention of a query to the cells of its own box.

    No other query attends to these cells, so their keys and values are never formed: the query is projected into the
    space of the cells, and the weighted mean of the cells into that of the values: the same sum in another order, with
    a fraction of the work.
    """

    def __init__(self, config: ButdTopDownConfig, cell_size: int):
        super().__init__()
        self.config = config
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(cell_size, config.hidden_size, bias=False)  # softmax ignores what all keys share
        self.v_proj = nn.Linear(cell_size, config.hidden_size, bias=False)  # the output's bias takes its place
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: torch.Tensor, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The output `(num_queries, hidden_size)`, and the attention `(num_queries, num_heads, num_cells)`."""
        query = self.q_proj(queries).unflatten(1, (self.num_heads, -1)).transpose(0, 1) * self.scaling
        key_weight = weight_of(self.k_proj).unflatten(0, (self.num_heads, -1)).to(query.dtype)
        query = (query @ key_weight).transpose(0, 1)  # (num_queries, num_heads, cell_size)
        weights = (query @ cells.mT).softmax(dim=-1, dtype=torch.float32)  # (num_queries, num_heads, num_cells)
        kept = nn.functional.dropout(weights, self.config.attention_dropout, self.training).to(cells.dtype)
        attended = (kept @ cells).transpose(0, 1)  # (num_heads, num_queries, cell_size)
        value_weight = weight_of(self.v_proj).unflatten(0, (self.num_heads, -1)).to(attended.dtype)
        attended = (attended @ value_weight.mT).transpose(0, 1).flatten(1)  # (num_queries, hidden_size)
        return self.o_proj(attended), weights


class ButdDetectionLayer(ButdRegionLayer):
    """Pre-norm: attention to the other queries, then to the cells of the query's box, then the feed-forward; then
    class and box.

    The cells are used twice: by attention, and by a linear layer over all cells in their order, as in the heads of
    Faster R-CNN, which keeps where in the box everything is.
    """

    def __init__(self, config: ButdTopDownConfig, cell_size: int, num_labels: int):
        super().__init__(config)
        self.region_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.embed_cells = nn.Embedding(POOLED_SIZE**2, cell_size)
        self.region_attn = ButdCellAttention(config, cell_size)
        self.layout_in_proj = nn.Linear(cell_size, LAYOUT_SIZE)
        self.layout_act_fn = nn.GELU()
        self.layout_out_proj = nn.Linear(LAYOUT_SIZE * POOLED_SIZE**2, config.hidden_size)
        self.head_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.class_proj = nn.Linear(config.hidden_size, num_labels)
        self.box_in_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.box_act_fn = nn.GELU()
        self.box_out_proj = nn.Linear(config.hidden_size, 4)
        self.init_own_weights()

    def init_own_weights(self):
        init.constant_(self.class_proj.bias, math.log(FIRST_PROBABILITY / (1 - FIRST_PROBABILITY)))
        init.zeros_(self.box_out_proj.weight)  # the first guess is the region itself
        init.zeros_(self.box_out_proj.bias)
        init.normal_(self.embed_cells.weight, std=0.5)  # beside cells, which have unit variance

    def forward(
        self,
        hidden_states: torch.Tensor,  # (batch_size, num_queries, hidden_size): the queries
        geometry: torch.Tensor,  # (batch_size, num_queries, hidden_size): of their boxes
        cells: torch.Tensor,  # (batch_size * num_queries, 49, cell_size): pooled in the boxes
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The queries, their class logits, how to refine their boxes, and the attention to the cells."""
        hidden_states = self.attend(hidden_states, geometry, attention_mask)
        queries = (self.region_attn_norm(hidden_states) + geometry).flatten(0, 1)  # (all queries, hidden_size)
        attended, weights = self.region_attn(queries, cells + self.embed_cells.weight.to(cells.dtype))
        layout = self.layout_out_proj(self.layout_act_fn(self.layout_in_proj(cells)).flatten(1))
        hidden_states = self.feed(hidden_states + self.dropout(attended + layout).view_as(hidden_states))

        normed = self.head_norm(hidden_states)
        deltas = self.box_out_proj(self.box_act_fn(self.box_in_proj(normed)))  # (batch_size, num_queries, 4)
        return hidden_states, self.class_proj(normed), deltas, weights


class ButdDetectionDecoder(nn.Module):
    """Top-down attention for detection: the regions become queries that refine class and box (Cascade R-CNN, Cai &
    Vasconcelos 2018; Sparse R-CNN, Sun et al. 2021).

    What differs from Sparse R-CNN: queries begin as regions of the bottom-up half, and attention to the cells of a
    box takes the place of dynamic convolution.
    """

    def __init__(self, config: ButdTopDownConfig, region_size: int, cell_size: int, num_labels: int):
        super().__init__()
        self.config = config
        self.region_norm = nn.LayerNorm(region_size, eps=config.layer_norm_eps)
        self.region_proj = nn.Linear(region_size, config.hidden_size)
        self.box_embedding = ButdBoxEmbedding(config)
        layers = [ButdDetectionLayer(config, cell_size, num_labels) for _ in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        regions: ButdRegions,
        pyramid: ButdPyramid,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ButdDetectionDecoderOutput:
        boxes, absent = regions.boxes.float(), ~regions.mask[..., None]
        dtype = self.region_proj.weight.dtype
        hidden_states = self.region_proj(self.region_norm(regions.features.to(dtype)))
        attention_mask = attention_mask_of(self.config, hidden_states, regions.mask)
        all_hidden_states, all_logits, all_boxes, attention = (hidden_states,), (), (), None
        for layer in self.layers:
            cells = pool_pyramid(pyramid, boxes, POOLED_SIZE)
            cells = cells.flatten(2).transpose(1, 2)  # (batch_size * num_queries, 49, cell_size)
            geometry = self.box_embedding(boxes.to(dtype))  # (batch_size, num_queries, hidden_size)
            hidden_states, logits, deltas, attention = layer(hidden_states, geometry, cells, attention_mask)
            refined = refine_boxes(boxes, deltas)
            boxes = clip_boxes(refined.detach())  # no gradient between the layers' steps
            all_hidden_states += (hidden_states,)
            all_logits += (logits.float().masked_fill(absent, ABSENT_LOGIT),)
            all_boxes += (refined,)
        if output_attentions:
            attention = attention.mean(dim=1).view(*regions.mask.shape, POOLED_SIZE, POOLED_SIZE)
        return ButdDetectionDecoderOutput(
            logits=all_logits,
            boxes=all_boxes,
            last_hidden_state=hidden_states,
            hidden_states=all_hidden_states if output_hidden_states else None,
            region_attentions=attention if output_attentions else None,
        )
