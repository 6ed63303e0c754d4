# SPDX-License-Identifier: Apache-2.0
"""Captions: words, labels and losses in training, and every strategy of `generate`."""

import copy
from unittest import mock

import pytest
import torch

import butd_hf


LENGTH = 6
WINDOWS = {"selector": "saliency", "num_regions": 8, "min_regions": 5}
OPTIONS = {"max_new_tokens": 5, "eos_token_id": None}  # captions of known length
BEAMS = {"num_beams": 4, "num_return_sequences": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.5}


@pytest.fixture(scope="session")
def build(tiny):
    def build(bottom_up: dict = WINDOWS, top_down: dict | None = None, **fields):
        return tiny(
            "ButdForConditionalGeneration", bottom_up, {"initializer_range": 0.5, **(top_down or {})}, **fields
        )

    return build


@pytest.fixture(scope="module")
def model(build):
    """Shared by tests that leave it as it is."""
    return build()


@pytest.fixture(scope="module", params=["transformer", "lstm", "gru-paper"])
def writer(request, build):
    """A model whose words differ enough that captions are no single word over and over; left as it is."""
    decoder, _, variant = request.param.partition("-")
    return build(top_down={"decoder": decoder, "recurrent_variant": variant or "port"})


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def tokens(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, 50, (2, length), generator=torch.Generator().manual_seed(2))


def ready_regions(model) -> dict[str, torch.Tensor]:
    regions = model.model.bottom_up(pixels()).regions
    return {f"region_{name}": regions[name].detach() for name in ("features", "boxes", "mask")}


def test_attentions_and_hidden_states_have_shapes_and_gradients(model):
    outputs = model(pixel_values=pixels(), input_ids=tokens(), output_attentions=True, output_hidden_states=True)
    num_regions = outputs.regions.mask.shape[1]
    assert [states.shape for states in outputs.decoder_hidden_states] == 3 * [(2, LENGTH, 32)]
    assert [weights.shape for weights in outputs.decoder_attentions] == 2 * [(2, 4, LENGTH, LENGTH)]
    assert [weights.shape for weights in outputs.cross_attentions] == 2 * [(2, 4, LENGTH, num_regions)]
    assert outputs.encoder_last_hidden_state.shape == (2, num_regions, 32)
    mean = torch.stack(outputs.cross_attentions).mean(dim=(0, 2))
    torch.testing.assert_close(outputs.region_attentions, mean)
    watched = [outputs.decoder_hidden_states[0], outputs.decoder_attentions[0], outputs.cross_attentions[0]]
    assert all(gradient.any() for gradient in torch.autograd.grad(outputs.logits[-1, -1].max(), watched))
    unasked = model(pixel_values=pixels(), input_ids=tokens())
    assert unasked.cross_attentions is unasked.region_attentions is unasked.decoder_hidden_states is None


@torch.no_grad()
def test_text_begins_by_default_and_may_be_embedded(model):
    every = model(pixel_values=pixels(), input_ids=tokens()).logits
    begun = model(pixel_values=pixels(), input_ids=torch.full((2, 1), model.config.bos_token_id))
    assert torch.equal(model(pixel_values=pixels()).logits, begun.logits)
    assert torch.equal(model(pixel_values=pixels(), input_ids=tokens(), logits_to_keep=2).logits, every[:, -2:])
    embedded = model(pixel_values=pixels(), inputs_embeds=model.get_input_embeddings()(tokens())).logits
    assert torch.equal(embedded, every)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@torch.no_grad()
def test_loss_is_the_mean_cross_entropy(build, smoothing):
    model, labels = build(label_smoothing=smoothing), tokens()
    labels[0, -2:] = -100
    outputs = model(pixel_values=pixels(), labels=labels)
    log_probabilities = outputs.logits.log_softmax(dim=-1)[labels >= 0]  # (num_labels, vocab_size)
    of_labels = log_probabilities.gather(1, labels[labels >= 0][:, None])[:, 0]
    expected = -((1 - smoothing) * of_labels + smoothing * log_probabilities.mean(dim=-1)).mean()
    torch.testing.assert_close(outputs.loss, expected)
    # the same with words given, and in parts whose number of words a trainer tells
    shifted = torch.cat([torch.full((2, 1), model.config.bos_token_id), labels[:, :-1]], dim=1)
    shifted[shifted == -100] = model.config.pad_token_id
    assert torch.equal(model(pixel_values=pixels(), input_ids=shifted, labels=labels).loss, outputs.loss)
    parts = [
        model(pixel_values=image[None], labels=label[None], num_items_in_batch=(labels != -100).sum()).loss
        for image, label in zip(pixels(), labels, strict=True)
    ]
    torch.testing.assert_close(sum(parts), expected, atol=1e-5, rtol=1e-5)


def test_labels_that_arent_shifted_are_refused(build, tiny_checkpoint):
    """The recipe of other models, `labels = input_ids.clone()`, would teach a model to copy."""
    processor = butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint)
    inputs = processor(text=["a brown dog", "two cats sit"], images=[pixels()[0].sigmoid()] * 2, return_tensors="pt")
    model = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
    for padding in (0, -100):
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, padding)
        with pytest.raises(ValueError, match=r"`labels` repeat `input_ids`.*encode_captions"):
            model(**inputs, labels=labels)
    begun = torch.cat([torch.full((2, 1), model.config.bos_token_id), tokens(length=3)], dim=1)
    for given in ({}, {"input_ids": tokens(length=4)}):
        with pytest.raises(ValueError, match=r"`labels` begin with the begin token 1 .*encode_captions"):
            model(pixel_values=pixels(), labels=begun, **given)
    encoded = processor.encode_captions(["a brown dog", "two cats sit"])
    assert model(pixel_values=pixels(), **encoded).loss.isfinite()
    # a begin token that ends texts, too, may stand first: a text of nothing
    model = build(top_down={"bos_token_id": 0, "eos_token_id": 0})
    assert model(pixel_values=pixels(), labels=torch.tensor([[0, -100, -100], [4, 5, 0]])).loss.isfinite()


def test_a_tiny_model_learns_its_captions(build):
    model = build(top_down={"dropout": 0.0, "initializer_range": 0.02}).train()
    regions = ready_regions(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = model(**regions, labels=tokens()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    captions = model.eval().generate(**regions, max_new_tokens=LENGTH, eos_token_id=None)
    assert torch.equal(captions[:, 1:], tokens())


@pytest.mark.slow
@torch.no_grad()
def test_compiles_as_one_graph(build):
    model = build({"selector": "grid"})
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(pixel_values=pixels(), input_ids=tokens())
    outputs = compiled(pixel_values=pixels(), input_ids=tokens())
    torch.testing.assert_close(outputs.logits, expected.logits)
    assert torch.equal(outputs.regions.boxes, expected.regions.boxes)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_output_layer_and_base_model_after_a_trip_to_disk(build, tmp_path, tied):
    model = build(tie_word_embeddings=tied)
    assert 0.4 < model.get_input_embeddings().weight[1:].std() < 0.6  # as `initializer_range` says
    model.save_pretrained(tmp_path)
    loaded = butd_hf.ButdForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    base = butd_hf.ButdModel.from_pretrained(tmp_path)
    states = base(pixel_values=pixels(), input_ids=tokens()).last_hidden_state
    expected = model(pixel_values=pixels(), input_ids=tokens()).logits
    torch.testing.assert_close(loaded.lm_head(states), expected, atol=1e-4, rtol=1e-5)


def test_greedy_is_the_likeliest_word_each_time(writer):
    expected = torch.full((2, 1), writer.config.bos_token_id)
    for _ in range(5):
        logits = writer(pixel_values=pixels(), input_ids=expected).logits[:, -1]
        expected = torch.cat([expected, logits.argmax(dim=-1, keepdim=True)], dim=1)
    captions = writer.generate(pixel_values=pixels(), **OPTIONS)
    assert torch.equal(captions, expected)
    assert len(captions.unique()) > 2  # so that the tests here can tell captions apart
    end = int(captions[0, 3])
    first = writer.generate(pixel_values=pixels(), max_new_tokens=5, eos_token_id=end)[0].tolist()
    assert set(first[first.index(end) + 1 :]) <= {writer.config.pad_token_id}
    with pytest.raises(ValueError, match="`input_ids` has 3 rows, expected one for each of 2 images"):
        writer.generate(pixel_values=pixels(), input_ids=torch.ones(3, 2, dtype=torch.long))


@pytest.mark.parametrize("strategy", [{}, BEAMS], ids=["greedy", "beams"])
def test_batch_cache_and_ways_of_giving_images_change_nothing(writer, strategy):
    options = {**OPTIONS, **strategy}
    captions = writer.generate(pixel_values=pixels(), **options)
    assert captions.shape == (2 * strategy.get("num_return_sequences", 1), 6)
    alone = [writer.generate(pixel_values=image[None], **options) for image in pixels()]
    assert torch.equal(torch.cat(alone), captions)
    assert torch.equal(writer.generate(pixel_values=pixels(), use_cache=False, **options), captions)
    assert torch.equal(writer.generate(pixel_values=pixels(), cache_implementation="static", **options), captions)
    assert torch.equal(writer.generate(**ready_regions(writer), **options), captions)
    encoded = writer.model.encode(pixels())
    for _ in range(2):  # and captioning leaves them as they are
        assert torch.equal(writer.generate(encoder_outputs=copy.copy(encoded), **options), captions)


def test_sampling_is_seeded_and_varied(writer):
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        arguments = {"do_sample": True, "top_k": 0, "num_return_sequences": 4, **OPTIONS}
        samples.append(writer.generate(pixel_values=pixels(), **arguments))
    assert samples[0].shape == (8, 6) and len(samples[0].unique(dim=0)) > 1
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("strategy", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_begun_caption_is_continued_whatever_pads_it(writer, strategy):
    options, begun = {**OPTIONS, **strategy}, torch.tensor([[0, 0, 1, 7], [1, 9, 8, 5]])
    mask = (begun > 0).long()
    captions = writer.generate(pixel_values=pixels(), input_ids=begun, attention_mask=mask, **options)
    assert torch.equal(captions[:, :4], begun)
    unpadded = writer.generate(pixel_values=pixels()[:1], input_ids=begun[:1, 2:], **options)
    assert torch.equal(captions[0, 2:], unpadded[0])
    other = writer.generate(pixel_values=pixels()[1:], input_ids=begun[1:], **options)
    assert torch.equal(captions[1], other[0])


@pytest.mark.parametrize("strategy", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
def test_an_image_is_encoded_once_and_says_where_words_looked(writer, strategy):
    watch = ("output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate")
    options = {"pixel_values": pixels(), **OPTIONS, **strategy}
    decoder, selector = writer.model.top_down, writer.model.bottom_up.selector
    with (
        mock.patch.object(decoder, "encode", wraps=decoder.encode) as encode,
        mock.patch.object(selector, "forward", wraps=selector.forward) as select,
    ):
        generated = writer.generate(**options, **dict.fromkeys(watch, True))
    assert encode.call_count == select.call_count == 1 and len(encode.call_args.args[0].features) == 2
    rows, num_regions = 2 * strategy.get("num_beams", 1), ready_regions(writer)["region_mask"].shape[1]
    layers, heads = (1, 1) if writer.config.top_down_config.is_recurrent else (2, 4)
    assert len(generated.cross_attentions) == 5
    for step in generated.cross_attentions:
        assert [weights.shape for weights in step] == layers * [(rows, heads, 1, num_regions)]
        torch.testing.assert_close(step[0].sum(dim=-1), torch.ones(rows, heads, 1))
    assert torch.equal(generated.sequences, writer.generate(**options))
