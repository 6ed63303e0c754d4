# SPDX-License-Identifier: Apache-2.0
"""Captions by `generate`: every strategy, from pixels, ready regions or images encoded before."""

import copy
from unittest import mock

import pytest
import torch

from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration


BATCH_SIZE, VOCAB_SIZE = 2, 50
OPTIONS = {"max_new_tokens": 5, "eos_token_id": None}  # captions of known length


@pytest.fixture(scope="module", params=["transformer", "lstm", "gru-paper"])
def model(request) -> ButdForConditionalGeneration:
    """A tiny model whose words differ enough that captions are no single word over and over; left as it is."""
    decoder, _, variant = request.param.partition("-")
    torch.manual_seed(0)
    config = ButdConfig(
        bottom_up_config={"backbone": "test_efficientnet", "selector": "saliency", "num_regions": 8, "min_regions": 5},
        top_down_config={
            "decoder": decoder,
            "recurrent_variant": variant or "port",
            "attention_size": 24,
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 24,
            "initializer_range": 0.5,
        },
    )
    return ButdForConditionalGeneration(config).eval()


def pixels() -> torch.Tensor:
    return torch.randn(BATCH_SIZE, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def ready_regions(model: ButdForConditionalGeneration) -> dict[str, torch.Tensor]:
    regions = model.model.bottom_up(pixels()).regions
    return {"region_features": regions.features, "region_boxes": regions.boxes, "region_mask": regions.mask}


def continued_greedily(model: ButdForConditionalGeneration, begun: torch.Tensor, steps: int) -> torch.Tensor:
    """The likeliest next word, `steps` times, without `generate`."""
    for _ in range(steps):
        logits = model(pixel_values=pixels(), input_ids=begun).logits[:, -1]
        begun = torch.cat([begun, logits.argmax(dim=-1, keepdim=True)], dim=1)
    return begun


def test_greedy_is_the_likeliest_word_each_time(model):
    begun = torch.full((BATCH_SIZE, 1), model.config.bos_token_id)
    captions = model.generate(pixel_values=pixels(), **OPTIONS)
    assert torch.equal(captions, continued_greedily(model, begun, 5))
    assert len(captions.unique()) > 2  # so that the tests here can tell captions apart


@pytest.mark.parametrize(
    "strategy",
    [{}, {"num_beams": 4, "num_return_sequences": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.5}],
    ids=["greedy", "beams"],
)
def test_the_batch_and_the_cache_change_nothing(model, strategy):
    captions = model.generate(pixel_values=pixels(), **OPTIONS, **strategy)
    assert captions.shape == (BATCH_SIZE * strategy.get("num_return_sequences", 1), 6)
    uncached = model.generate(pixel_values=pixels(), use_cache=False, **OPTIONS, **strategy)
    assert torch.equal(uncached, captions)
    alone = [model.generate(pixel_values=pixels()[row, None], **OPTIONS, **strategy) for row in range(2)]
    assert torch.equal(torch.cat(alone), captions)
    regions = model.generate(**ready_regions(model), **OPTIONS, **strategy)
    assert torch.equal(regions, captions)


def test_sampling_is_seeded_and_varied(model):
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        arguments = {"do_sample": True, "top_k": 0, "num_return_sequences": 4, **OPTIONS}
        samples.append(model.generate(pixel_values=pixels(), **arguments))
    assert samples[0].shape == (4 * BATCH_SIZE, 6)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert len(samples[0].unique(dim=0)) > 1


@pytest.mark.parametrize("strategy", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_begun_caption_is_continued_whatever_pads_it(model, strategy):
    begun = torch.tensor([[0, 0, 1, 7], [1, 9, 8, 5]])
    captions = model.generate(
        pixel_values=pixels(), input_ids=begun, attention_mask=(begun > 0).long(), **OPTIONS, **strategy
    )
    assert torch.equal(captions[:, :4], begun)
    unpadded = model.generate(pixel_values=pixels()[:1], input_ids=begun[:1, 2:], **OPTIONS, **strategy)
    assert torch.equal(captions[0, 2:], unpadded[0])
    other = model.generate(pixel_values=pixels()[1:], input_ids=begun[1:], **OPTIONS, **strategy)
    assert torch.equal(captions[1], other[0])


@pytest.mark.parametrize("strategy", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_says_where_it_looked(model, strategy):
    generated = model.generate(
        pixel_values=pixels(),
        output_attentions=True,
        output_hidden_states=True,
        output_scores=True,
        return_dict_in_generate=True,
        **OPTIONS,
        **strategy,
    )
    rows = BATCH_SIZE * strategy.get("num_beams", 1)
    num_regions = ready_regions(model)["region_mask"].shape[1]
    assert len(generated.cross_attentions) == 5
    for step in generated.cross_attentions:
        layers, heads = (1, 1) if model.config.top_down_config.is_recurrent else (2, 4)
        assert [weights.shape for weights in step] == layers * [(rows, heads, 1, num_regions)]
        torch.testing.assert_close(step[0].sum(dim=-1), torch.ones(rows, heads, 1))
    unwatched = model.generate(pixel_values=pixels(), **OPTIONS, **strategy)
    assert torch.equal(generated.sequences, unwatched)


def test_an_image_is_encoded_once(model):
    decoder, selector = model.model.top_down, model.model.bottom_up.selector
    with (
        mock.patch.object(decoder, "encode", wraps=decoder.encode) as encode,
        mock.patch.object(selector, "forward", wraps=selector.forward) as select,
    ):
        model.generate(pixel_values=pixels(), num_beams=5, **OPTIONS)
    assert encode.call_count == select.call_count == 1
    assert encode.call_args.args[0].features.shape[0] == BATCH_SIZE


def test_images_encoded_before(model):
    encoded = model.model.encode(pixels())
    captions = model.generate(pixel_values=pixels(), num_beams=2, **OPTIONS)
    for _ in range(2):  # and captioning leaves them as they are
        assert torch.equal(model.generate(encoder_outputs=copy.copy(encoded), num_beams=2, **OPTIONS), captions)


def test_a_static_cache_changes_nothing(model):
    expected = model.generate(pixel_values=pixels(), num_beams=3, **OPTIONS)
    static = model.generate(pixel_values=pixels(), cache_implementation="static", num_beams=3, **OPTIONS)
    assert torch.equal(static, expected)


def test_prefixes_are_counted(model):
    with pytest.raises(ValueError, match="`input_ids` has 3 rows, expected one for each of 2 images"):
        model.generate(pixel_values=pixels(), input_ids=torch.ones(3, 2, dtype=torch.long))


def test_captions_end(model):
    end = int(model.generate(pixel_values=pixels(), **OPTIONS)[0, 3])
    captions = model.generate(pixel_values=pixels(), max_new_tokens=5, eos_token_id=end)
    first = captions[0].tolist()
    assert set(first[first.index(end) + 1 :]) <= {model.config.pad_token_id}
