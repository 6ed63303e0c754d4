# SPDX-License-Identifier: Apache-2.0
"""Captions in training: words, labels and losses, and what a model without a head shares with one."""

import pytest
import torch

import butd_hf
from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.modeling_butd import ButdModel
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration


BATCH_SIZE, VOCAB_SIZE, LENGTH = 2, 50, 6


def build(selector: str = "saliency", **changes) -> ButdForConditionalGeneration:
    torch.manual_seed(0)
    config = ButdConfig(
        bottom_up_config={"backbone": "test_efficientnet", "selector": selector, "num_regions": 8, "min_regions": 5},
        top_down_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 24,
            "initializer_range": 0.5,
            **changes.pop("top_down_config", {}),
        },
        **changes,
    )
    return ButdForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def model() -> ButdForConditionalGeneration:
    """Shared by tests that leave it as it is."""
    return build()


def pixels(num_images: int = BATCH_SIZE) -> torch.Tensor:
    return torch.randn(num_images, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def tokens(num_texts: int = BATCH_SIZE, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, (num_texts, length), generator=torch.Generator().manual_seed(2))


def test_attentions_and_hidden_states_have_shapes_and_gradients(model):
    outputs = model(pixel_values=pixels(), input_ids=tokens(), output_attentions=True, output_hidden_states=True)
    num_regions = outputs.regions.mask.shape[1]
    assert [states.shape for states in outputs.decoder_hidden_states] == 3 * [(BATCH_SIZE, LENGTH, 32)]
    assert [weights.shape for weights in outputs.decoder_attentions] == 2 * [(BATCH_SIZE, 4, LENGTH, LENGTH)]
    assert [weights.shape for weights in outputs.cross_attentions] == 2 * [(BATCH_SIZE, 4, LENGTH, num_regions)]
    assert outputs.encoder_last_hidden_state.shape == (BATCH_SIZE, num_regions, 32)
    mean = torch.stack(outputs.cross_attentions).mean(dim=(0, 2))
    torch.testing.assert_close(outputs.region_attentions, mean)
    watched = [outputs.decoder_hidden_states[0], outputs.decoder_attentions[0], outputs.cross_attentions[0]]
    assert all(gradient.any() for gradient in torch.autograd.grad(outputs.logits[-1, -1].max(), watched))
    unasked = model(pixel_values=pixels(), input_ids=tokens())
    assert unasked.cross_attentions is unasked.region_attentions is unasked.decoder_hidden_states is None


@torch.no_grad()
def test_text_begins_by_default_and_may_be_embedded(model):
    every = model(pixel_values=pixels(), input_ids=tokens()).logits
    begun = model(pixel_values=pixels(), input_ids=torch.full((BATCH_SIZE, 1), model.config.bos_token_id))
    assert torch.equal(model(pixel_values=pixels()).logits, begun.logits)
    assert torch.equal(model(pixel_values=pixels(), input_ids=tokens(), logits_to_keep=2).logits, every[:, -2:])
    embedded = model(pixel_values=pixels(), inputs_embeds=model.get_input_embeddings()(tokens())).logits
    assert torch.equal(embedded, every)


@torch.no_grad()
def test_hidden_regions_are_for_training():
    model = build(top_down_config={"region_dropout": 0.9, "dropout": 0.0})
    steady = [model(pixel_values=pixels(), input_ids=tokens()).logits for _ in range(2)]
    model.train()
    dropped = [model(pixel_values=pixels(), input_ids=tokens()).logits for _ in range(2)]
    assert torch.equal(*steady) and not torch.equal(*dropped)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@torch.no_grad()
def test_loss_is_the_mean_cross_entropy(smoothing):
    model, labels = build(label_smoothing=smoothing), tokens()
    labels[0, -2:] = -100
    outputs = model(pixel_values=pixels(), labels=labels)
    log_probabilities = outputs.logits.log_softmax(dim=-1)[labels >= 0]  # (num_labels, vocab_size)
    of_labels = log_probabilities.gather(1, labels[labels >= 0][:, None])[:, 0]
    expected = -((1 - smoothing) * of_labels + smoothing * log_probabilities.mean(dim=-1)).mean()
    torch.testing.assert_close(outputs.loss, expected)
    # the same with words given, and in parts whose number of words a trainer tells
    shifted = torch.cat([torch.full((BATCH_SIZE, 1), model.config.bos_token_id), labels[:, :-1]], dim=1)
    shifted[shifted == -100] = model.config.pad_token_id
    assert torch.equal(model(pixel_values=pixels(), input_ids=shifted, labels=labels).loss, outputs.loss)
    count = (labels != -100).sum()
    parts = [
        model(pixel_values=pixels()[row, None], labels=labels[row, None], num_items_in_batch=count).loss
        for row in range(BATCH_SIZE)
    ]
    torch.testing.assert_close(sum(parts), expected, atol=1e-5, rtol=1e-5)


def test_labels_that_arent_shifted_are_refused(model, tiny_checkpoint):
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


def test_labels_may_begin_with_a_begin_token_that_ends_too():
    model = build(top_down_config={"bos_token_id": 0, "eos_token_id": 0})
    labels = torch.tensor([[0, -100, -100], [4, 5, 0]])  # nothing, and two words
    assert model(pixel_values=pixels(), labels=labels).loss.isfinite()


def test_a_tiny_model_learns_its_captions():
    model = build(top_down_config={"dropout": 0.0, "initializer_range": 0.02}).train()
    regions = model.model.bottom_up(pixels()).regions
    regions = {f"region_{name}": regions[name].detach() for name in ("features", "boxes", "mask")}
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
def test_compiles_as_one_graph():
    model = build(selector="grid")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = model(pixel_values=pixels(), input_ids=tokens())
    outputs = compiled(pixel_values=pixels(), input_ids=tokens())
    torch.testing.assert_close(outputs.logits, expected.logits)
    assert torch.equal(outputs.regions.boxes, expected.regions.boxes)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_output_layer_and_base_model_after_a_trip_to_disk(tmp_path, tied):
    model = build(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded = ButdForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    states = ButdModel.from_pretrained(tmp_path)(pixel_values=pixels(), input_ids=tokens()).last_hidden_state
    expected = model(pixel_values=pixels(), input_ids=tokens()).logits
    torch.testing.assert_close(loaded.lm_head(states), expected, atol=1e-4, rtol=1e-5)


def test_words_are_initialised_as_the_config_says():
    assert 0.4 < build(top_down_config={"initializer_range": 0.5}).get_input_embeddings().weight[1:].std() < 0.6
