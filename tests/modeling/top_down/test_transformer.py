# SPDX-License-Identifier: Apache-2.0
"""The transformer decoder, on regions of its own making."""

import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from butd_hf.modeling.configuration_butd import ButdTopDownConfig
from butd_hf.modeling.outputs import ButdMemory
from butd_hf.modeling.regions import ButdRegions
from butd_hf.modeling.top_down.transformer import ButdTransformerDecoder


REGION_SIZE, NUM_REGIONS, VOCAB_SIZE, LENGTH = 12, 5, 40, 6


def build(attention: str = "sdpa", **changes) -> ButdTransformerDecoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    config = ButdTopDownConfig(**{**sizes, "num_hidden_layers": 2, "max_position_embeddings": 16, **changes})
    config._attn_implementation = attention
    return ButdTransformerDecoder(config, region_size=REGION_SIZE).eval()


def some_regions(num_images: int = 2, counts: tuple[int, ...] = (5, 3)) -> ButdRegions:
    """Regions of images that have `counts` of them; what stands where there is none must not matter."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(NUM_REGIONS)[None] < torch.tensor(counts)[:, None]
    return ButdRegions(
        features=torch.randn(num_images, NUM_REGIONS, REGION_SIZE, generator=generator),
        boxes=torch.rand(num_images, NUM_REGIONS, 2, 2, generator=generator).sort(dim=2).values.flatten(2),
        saliency=torch.rand(num_images, NUM_REGIONS, generator=generator),
        mask=mask,
    )


def some_tokens(num_texts: int = 2, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, (num_texts, length), generator=torch.Generator().manual_seed(2))


def left_padding(num_texts: int = 2, length: int = LENGTH) -> torch.Tensor:
    """An attention mask that pads the last text by two tokens on its left."""
    mask = torch.ones(num_texts, length, dtype=torch.long)
    mask[-1, :2] = 0
    return mask


def rows_of(memory: ButdMemory, rows: slice) -> ButdMemory:
    key_values = tuple((keys[rows], values[rows]) for keys, values in memory.key_values)
    mask = memory.attention_mask
    return ButdMemory(
        hidden_states=memory.hidden_states[rows],
        attention_mask=None if mask is None else mask[rows],
        key_values=key_values,
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_attention_weights_are_shares_of_what_exists(attention):
    decoder = build(attention)
    plain = decoder(some_tokens(), decoder.encode(some_regions()), attention_mask=left_padding())
    watched = decoder(
        some_tokens(),
        decoder.encode(some_regions()),
        attention_mask=left_padding(),
        output_attentions=True,
        output_hidden_states=True,
    )
    real = left_padding().bool()
    torch.testing.assert_close(watched.last_hidden_state[real], plain.last_hidden_state[real], atol=1e-5, rtol=1e-5)
    assert [len(watched[name]) for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states")] == [
        2,
        2,
        3,
    ]
    for over_words, over_regions in zip(watched.decoder_attentions, watched.cross_attentions, strict=True):
        assert over_words.shape == (2, 4, LENGTH, LENGTH)
        assert over_regions.shape == (2, 4, LENGTH, NUM_REGIONS)
        torch.testing.assert_close(over_words.sum(dim=-1), torch.ones(2, 4, LENGTH))
        torch.testing.assert_close(over_regions.sum(dim=-1), torch.ones(2, 4, LENGTH))
        assert not over_words[0].triu(diagonal=1).any()  # none looks ahead
        assert not over_words[1, :, 2:, :2].any()  # nor at padding
        assert not over_regions[1, :, :, 3:].any()  # nor at regions that don't exist


@torch.no_grad()
def test_attention_weights_belong_to_their_text(num_texts=6):  # three of each image
    decoder = build()
    memory = decoder.encode(some_regions())
    together = decoder(some_tokens(num_texts), memory, output_attentions=True)
    texts_per_image = num_texts // 2
    for text in range(num_texts):
        image = text // texts_per_image
        alone = decoder(
            some_tokens(num_texts)[text, None], rows_of(memory, slice(image, image + 1)), output_attentions=True
        )
        torch.testing.assert_close(together.last_hidden_state[text], alone.last_hidden_state[0], atol=1e-5, rtol=1e-5)
        for name in ("decoder_attentions", "cross_attentions"):
            for of_all, of_one in zip(together[name], alone[name], strict=True):
                torch.testing.assert_close(of_all[text], of_one[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("mask", [None, left_padding()], ids=["whole", "left padded"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_cache_changes_nothing(attention, mask, step):
    decoder = build(attention)
    tokens, memory = some_tokens(), decoder.encode(some_regions())
    whole = decoder(tokens, memory, attention_mask=mask).last_hidden_state
    cache, pieces = None, []
    for start in range(0, LENGTH, step):
        decoded = decoder(
            tokens[:, start : start + step],
            memory,
            attention_mask=None if mask is None else mask[:, : start + step],
            cache=cache,
            use_cache=True,
        )
        cache = decoded.cache
        pieces.append(decoded.last_hidden_state)
    real = left_padding().bool() if mask is not None else torch.ones(2, LENGTH, dtype=torch.bool)
    torch.testing.assert_close(torch.cat(pieces, dim=1)[real], whole[real], atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == LENGTH


@torch.no_grad()
def test_both_kinds_of_cache_do():
    decoder = build()
    tokens, memory = some_tokens(), decoder.encode(some_regions())
    whole = decoder(tokens, memory).last_hidden_state[:, -1]
    for cache in (DynamicCache(), EncoderDecoderCache(DynamicCache(), DynamicCache())):
        decoder(tokens[:, :-1], memory, cache=cache, use_cache=True)
        last = decoder(tokens[:, -1:], memory, cache=cache, use_cache=True).last_hidden_state[:, 0]
        torch.testing.assert_close(last, whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_order_of_regions_does_not_matter():
    decoder = build()
    regions = some_regions(counts=(5, 5))  # without a mask: no word is kept from any of them
    turned = ButdRegions(**{name: regions[name].flip(1) for name in regions})
    states = [decoder(some_tokens(), decoder.encode(given)).last_hidden_state for given in (regions, turned)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_regions_are_weighed_by_place_and_mixed_by_appearance():
    """Self-attention written out: geometry is in queries and keys, not in values."""
    layer = build().region_layers[0]
    states, geometry = torch.randn(1, NUM_REGIONS, 32), torch.randn(1, NUM_REGIONS, 32)
    attention, normed = layer.self_attn, layer.self_attn_norm(states)
    queries, keys = attention.q_proj(normed + geometry), attention.k_proj(normed + geometry)
    queries, keys, values = (x.unflatten(2, (4, 8)).transpose(1, 2) for x in (queries, keys, attention.v_proj(normed)))
    weights = (queries @ keys.transpose(2, 3) / 8**0.5).softmax(dim=-1)
    expected = states + attention.o_proj((weights @ values).transpose(1, 2).flatten(2))
    expected = expected + layer.feed_forward(layer.feed_forward_norm(expected))
    torch.testing.assert_close(layer(states, geometry, None), expected, atol=1e-5, rtol=1e-5)
