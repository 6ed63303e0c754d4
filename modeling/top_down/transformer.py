# SPDX-License-Identifier: Apache-2.0
"""The transformer decoder: words attend to words before them, then to the regions."""

from collections.abc import Callable

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..configuration_butd import ButdTopDownConfig
from ..outputs import ButdMemory, ButdModelOutput
from ..regions import ButdBoxEmbedding, ButdRegions, texts_each, visible


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    is_causal: bool = False,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as its definition reads; the mask is boolean, True where attention may go, or added to the scores."""
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch_size, num_heads, length, key_length)
    if attention_mask is None and is_causal:  # masks made for fused kernels leave the plain causal one to them
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights  # (batch_size, length, heads, head_dim)


class ButdAttention(nn.Module):
    """Multi-head attention; keys and values come from the caller, who may have kept them."""

    def __init__(self, config: ButdTopDownConfig, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.is_causal = is_causal
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        batch_size, length, _ = hidden_states.shape
        return hidden_states.view(batch_size, length, -1, self.head_dim).transpose(1, 2)

    def key_values(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Projected keys and values, each `(batch_size, num_heads, key_length, head_dim)`."""
        return self.split_heads(self.k_proj(keys)), self.split_heads(self.v_proj(values))

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_values: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if output_attentions:  # fused kernels never form the weights
            attend = eager_attention_forward
        attended, weights = attend(
            self,
            self.split_heads(self.q_proj(hidden_states)),
            *key_values,
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            is_causal=self.is_causal and attention_mask is None and hidden_states.shape[1] > 1,
        )
        return self.o_proj(attended.reshape(hidden_states.shape)), weights  # (batch_size, length, hidden_size)


def attention_mask_of(
    config: ButdTopDownConfig, hidden_states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor | None:
    """The mask `(batch_size, num_regions)` of regions or words in the form that the attention implementation takes.

    Where none exists, all are attended to, not NaN. It is that of one query, the same for every other.
    """
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=hidden_states[:, :1],
        attention_mask=mask | ~mask.any(dim=1, keepdim=True),
        encoder_hidden_states=hidden_states,
    )


class ButdFeedForward(nn.Module):
    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.act_fn = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.dropout(self.act_fn(self.up_proj(hidden_states))))


class ButdLayer(GradientCheckpointingLayer):
    """What all layers end with: pre-norm, the feed-forward."""

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = ButdFeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def feed(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_states)))


class ButdRegionLayer(ButdLayer):
    """Self-attention among the regions of one image; box geometry tells where each is."""

    def __init__(self, config: ButdTopDownConfig):
        super().__init__(config)
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ButdAttention(config)

    def attend(
        self, hidden_states: torch.Tensor, geometry: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        normed = self.self_attn_norm(hidden_states)
        placed = normed + geometry
        attended, _ = self.self_attn(placed, self.self_attn.key_values(placed, normed), attention_mask)
        return hidden_states + self.dropout(attended)

    def forward(
        self, hidden_states: torch.Tensor, geometry: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return self.feed(self.attend(hidden_states, geometry, attention_mask))


class ButdCrossLayer(ButdLayer):
    """Attention to the regions, then the feed-forward."""

    def __init__(self, config: ButdTopDownConfig):
        super().__init__(config)
        self.cross_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attn = ButdAttention(config)


class ButdDecoderLayer(ButdCrossLayer):
    """A layer that attends to the words so far before it attends to the regions."""

    def __init__(self, config: ButdTopDownConfig, layer_idx: int):
        super().__init__(config)
        self.layer_idx = layer_idx
        self.self_attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ButdAttention(config, is_causal=True)

    def forward(
        self,
        hidden_states: torch.Tensor,
        region_keys: torch.Tensor,
        region_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        normed = self.self_attn_norm(hidden_states)
        key_values = self.self_attn.key_values(normed, normed)
        if cache is not None:
            key_values = cache.update(*key_values, self.layer_idx)
        attended, attention = self.self_attn(normed, key_values, attention_mask, output_attentions)
        hidden_states = hidden_states + self.dropout(attended)

        # several texts about one image queue up as one long text of it: no copies of its keys and values
        num_texts, length, hidden_size = hidden_states.shape
        num_images = region_keys.shape[0]
        normed = self.cross_attn_norm(hidden_states).view(num_images, -1, hidden_size)  # (num_images, all words, ...)
        attended, region_attention = self.cross_attn(
            normed, (region_keys, region_values), region_mask, output_attentions
        )
        hidden_states = hidden_states + self.dropout(attended.view(num_texts, length, hidden_size))
        if output_attentions and num_texts > num_images:
            num_heads, num_regions = region_attention.shape[1], region_attention.shape[-1]
            region_attention = region_attention.view(num_images, num_heads, -1, length, num_regions)
            region_attention = region_attention.transpose(1, 2).flatten(0, 1)  # (num_texts, heads, length, regions)
        return self.feed(hidden_states), attention, region_attention


class ButdRegionEncoder(nn.Module):
    """Regions in context: features and box geometry through layers of self-attention."""

    def __init__(self, config: ButdTopDownConfig, region_size: int):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.region_norm = nn.LayerNorm(region_size, eps=config.layer_norm_eps)  # backbones differ widely in scale
        self.region_proj = nn.Linear(region_size, config.hidden_size)
        self.box_embedding = ButdBoxEmbedding(config)
        self.region_layers = nn.ModuleList([ButdRegionLayer(config) for _ in range(config.num_region_layers)])
        self.memory_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def encode_regions(
        self, features: torch.Tensor, boxes: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Regions and the geometry of their boxes, each `(batch_size, num_regions, hidden_size)`, and their mask."""
        dtype = self.region_proj.weight.dtype
        hidden_states = self.dropout(self.region_proj(self.region_norm(features.to(dtype))))
        geometry = self.box_embedding(boxes.to(dtype))  # (batch_size, num_regions, hidden_size)
        attention_mask = attention_mask_of(self.config, hidden_states, mask)
        for layer in self.region_layers:
            hidden_states = layer(hidden_states, geometry, attention_mask)
        return self.memory_norm(hidden_states), geometry, attention_mask


class ButdTransformerDecoder(ButdRegionEncoder):
    """Top-down attention by a transformer decoder (Vaswani et al. 2017, pre-norm) over selected regions.

    `encode` is called once per image, `forward` once per step.
    """

    def __init__(self, config: ButdTopDownConfig, region_size: int):
        super().__init__(config, region_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([ButdDecoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def encode(self, regions: ButdRegions) -> ButdMemory:
        """Regions in context, as keys and values of each layer."""
        mask = visible(regions.mask, self.config.region_dropout if self.training else 0.0)
        hidden_states, geometry, attention_mask = self.encode_regions(regions.features, regions.boxes, mask)
        placed = hidden_states + geometry
        key_values = tuple(layer.cross_attn.key_values(placed, hidden_states) for layer in self.layers)
        return ButdMemory(hidden_states=hidden_states, attention_mask=attention_mask, key_values=key_values)

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
    ) -> ButdModelOutput:
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)  # (num_texts, length, hidden_size)
        length = inputs_embeds.shape[1]
        texts_each(inputs_embeds.shape[0], len(memory.hidden_states))
        if use_cache and cache is None:
            cache = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        # the regions' keys and values are in the memory, so only the text's half of the cache is used
        text_cache = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        past_length = text_cache.get_seq_length() if text_cache is not None else 0

        if position_ids is None:
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]
            else:
                position_ids = torch.arange(length, device=inputs_embeds.device)[None] + past_length
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            cache=text_cache,
            position_ids=position_ids if attention_mask is None else None,
        )
        hidden_states = self.dropout(inputs_embeds + self.embed_positions(position_ids))
        all_hidden_states, all_attentions, all_cross_attentions = (hidden_states,), (), ()
        for layer, (region_keys, region_values) in zip(self.layers, memory.key_values, strict=True):
            hidden_states, attention, cross_attention = layer(
                hidden_states,  # tensors by position, one by one: reentrant checkpoints see no others
                region_keys,
                region_values,
                attention_mask=causal_mask,
                region_mask=memory.attention_mask,
                cache=text_cache,
                output_attentions=output_attentions,
            )
            all_hidden_states += (hidden_states,)
            all_attentions += (attention,)
            all_cross_attentions += (cross_attention,)
        hidden_states = self.norm(hidden_states)
        return ButdModelOutput(
            last_hidden_state=hidden_states,
            cache=cache if use_cache else None,
            decoder_hidden_states=all_hidden_states if output_hidden_states else None,
            decoder_attentions=all_attentions if output_attentions else None,
            cross_attentions=all_cross_attentions if output_attentions else None,
        )
