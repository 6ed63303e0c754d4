# SPDX-License-Identifier: Apache-2.0
"""The scene graph decoder: labelled regions in context, and pairs of them that attend to the image's regions."""

import math

import torch
from torch import nn
from transformers import initialization as init

from ..configuration_butd import ButdConfig, ButdTopDownConfig
from ..outputs import ButdSceneGraphGenerationOutput
from ..regions import ButdBoxEmbedding, ButdRegions
from .pairs import NUM_GEOMETRY, NUM_RANKS, ButdPairScorer, gather_pairs, pair_geometry, pair_ranks, union_boxes
from .transformer import ButdCrossLayer, ButdRegionLayer, attention_mask_of


CERTAIN_LOGIT = 30.0  # of a given label; all others have minus that
# of pair_geometry, so that each varies by about 1 over pairs of objects: offsets thrice, sizes, overlaps, gaps, union
GEOMETRY_SCALES = (1.0,) * 4 + (4.0,) * 2 + (1.0,) * 2 + (6.0, 3.0, 3.0) + (5.0,) * 2 + (4.0,)
FEW_RELATED = 0.02  # of all pairs, before training


class ButdRegionContext(nn.Module):
    """Self-attention among the regions of an image, with the geometry of their boxes."""

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([ButdRegionLayer(config) for _ in range(config.num_region_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, geometry: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Regions in context, and the attention mask of those that exist."""
        attention_mask = attention_mask_of(self.config, hidden_states, mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, geometry, attention_mask)
        return self.norm(hidden_states), attention_mask


class ButdPairLayer(ButdCrossLayer):
    """A layer over pairs, which don't attend to one another: memory grows with their number, not with its square."""

    def forward(
        self,
        hidden_states: torch.Tensor,  # (batch_size, num_pairs, hidden_size): the pairs
        geometry: torch.Tensor,  # (batch_size, num_pairs, hidden_size): of the boxes around both
        region_states: torch.Tensor,  # (batch_size, num_regions, hidden_size): the regions
        region_geometry: torch.Tensor,  # (batch_size, num_regions, hidden_size): of their boxes
        region_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key_values = self.cross_attn.key_values(region_states + region_geometry, region_states)
        attended, weights = self.cross_attn(
            self.cross_attn_norm(hidden_states) + geometry, key_values, region_mask, output_attentions
        )
        return self.feed(hidden_states + self.dropout(attended)), weights


class ButdSceneGraphDecoder(nn.Module):
    """Top-down attention for scene graphs, from labelled regions to relations.

    Labels, geometry and appearance of regions meet in context layers; a cheap score prunes their pairs; each pair that
    is left begins as its two regions and their geometry, and attends to the regions of the image.
    """

    def __init__(self, config: ButdConfig, region_size: int):
        super().__init__()
        self.config = config
        top_down = config.top_down_config
        hidden_size = top_down.hidden_size
        self.embed_labels = nn.Embedding(config.num_labels, hidden_size)
        self.box_embedding = ButdBoxEmbedding(top_down)
        if config.relation_appearance:
            self.region_norm = nn.LayerNorm(region_size, eps=top_down.layer_norm_eps)
            self.region_proj = nn.Linear(region_size, hidden_size)
        self.input_norm = nn.LayerNorm(hidden_size, eps=top_down.layer_norm_eps)
        self.context = ButdRegionContext(top_down)
        self.pair_scorer = ButdPairScorer(top_down)
        self.subject_proj = nn.Linear(hidden_size, hidden_size)
        self.object_proj = nn.Linear(hidden_size, hidden_size)
        self.measures_proj = nn.Linear(NUM_GEOMETRY, hidden_size)
        self.act_fn = nn.GELU()
        self.dropout = nn.Dropout(top_down.dropout)
        self.pair_proj = nn.Linear(hidden_size, hidden_size)
        self.layers = nn.ModuleList([ButdPairLayer(top_down) for _ in range(top_down.num_hidden_layers)])
        self.norm = nn.LayerNorm(hidden_size, eps=top_down.layer_norm_eps)
        self.predicate_proj = nn.Linear(hidden_size, config.num_predicates)
        if config.pair_rank_features:
            self.standings_proj = nn.Linear(NUM_RANKS, hidden_size)
        self.related_proj = nn.Linear(hidden_size, 1)
        self.init_own_weights()

    def init_own_weights(self):
        init.normal_(self.embed_labels.weight, std=1.0)  # beside geometry
        init.constant_(self.related_proj.bias, math.log(FEW_RELATED / (1 - FEW_RELATED)))
        # geometry is few numbers: with the small weights of wide layers it would count for nothing beside labels
        geometry = [self.measures_proj, self.pair_scorer.measures_proj]
        geometry += [self.box_embedding.measures_proj, self.box_embedding.out_proj]
        for projection in [*geometry, self.standings_proj] if self.config.pair_rank_features else geometry:
            bound = projection.in_features**-0.5
            init.uniform_(projection.weight, -bound, bound)
            init.uniform_(projection.bias, -bound, bound)

    def forward(
        self,
        regions: ButdRegions,  # the nodes of the graph; their features may be None
        labels: torch.Tensor,  # (batch_size, num_regions): their labels
        required: torch.Tensor | None = None,  # pairs to keep, see `ButdPairScorer.select`
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> ButdSceneGraphGenerationOutput:
        dtype = self.embed_labels.weight.dtype
        boxes, mask = regions.boxes.float(), regions.mask
        hidden_states = self.embed_labels(labels)  # (batch_size, num_regions, hidden_size)
        # CODEPATH: checkpoints that learnt relations without images use labels and geometry alone
        if self.config.relation_appearance:
            features = regions.features
            if features is None:
                features = hidden_states.new_zeros(*labels.shape, self.region_norm.normalized_shape[0])
            hidden_states = hidden_states + self.region_proj(self.region_norm(features.to(dtype)))
        geometry = self.box_embedding(boxes.to(dtype))
        hidden_states = self.input_norm(hidden_states)
        hidden_states, attention_mask = self.context(hidden_states, geometry, mask)

        pairs, pair_mask = self.pair_scorer.select(hidden_states, boxes, mask, self.config.pair_budget, required)
        selection_logits = self.pair_scorer(hidden_states, boxes, pairs)
        states, around = self.embed_pairs(pairs, labels, hidden_states + geometry, regions)
        all_states, attentions = (states,), []
        for layer in self.layers:
            states, weights = layer(states, around, hidden_states, geometry, attention_mask, output_attentions)
            all_states += (states,)
            attentions.append(weights)
        states = self.norm(states)
        predicate_logits = self.predicate_proj(states).float()  # (batch_size, num_pairs, num_predicates)
        # the second score corrects the first, which has a loss of its own
        pair_logits = selection_logits + self.related_proj(states)[..., 0].float()
        return ButdSceneGraphGenerationOutput(
            pairs=pairs,
            pair_mask=pair_mask,
            selection_logits=selection_logits,
            pair_logits=pair_logits.masked_fill(~pair_mask, -CERTAIN_LOGIT),
            predicate_logits=predicate_logits,
            last_hidden_state=states,
            hidden_states=all_states if output_hidden_states else None,
            # (batch_size, num_pairs, num_regions)
            region_attentions=torch.stack(attentions).mean(dim=(0, 2)) if output_attentions else None,
        )

    def embed_pairs(
        self, pairs: torch.Tensor, labels: torch.Tensor, placed: torch.Tensor, regions: ButdRegions
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs before the layers, from `placed` `(batch_size, num_regions, hidden_size)`, the regions with geometry,
        and the geometry of the boxes around both, each `(batch_size, num_pairs, hidden_size)`.
        """
        boxes = regions.boxes.float()
        subjects, _ = gather_pairs(self.subject_proj(placed), pairs)
        _, objects = gather_pairs(self.object_proj(placed), pairs)
        subject_boxes, object_boxes = gather_pairs(boxes, pairs)
        geometry = pair_geometry(subject_boxes, object_boxes)
        geometry = (geometry * geometry.new_tensor(GEOMETRY_SCALES)).to(subjects.dtype)
        hidden_states = subjects + objects + self.measures_proj(geometry)
        # CODEPATH: of several objects with one label, people relate the nearest; other checkpoints don't compare them
        if self.config.pair_rank_features:
            ranks = pair_ranks(boxes, labels, regions.mask, pairs).to(subjects.dtype)
            hidden_states = hidden_states + self.standings_proj(ranks)
        hidden_states = self.pair_proj(self.dropout(self.act_fn(hidden_states)))
        return hidden_states, self.box_embedding(union_boxes(subject_boxes, object_boxes).to(subjects.dtype))
