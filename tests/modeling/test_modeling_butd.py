# SPDX-License-Identifier: Apache-2.0
"""The models, from pixels or ready regions to losses and captions."""

from unittest import mock

import pytest
import torch

from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.modeling_butd import ButdForConditionalGeneration, ButdModel


BATCH_SIZE, VOCAB_SIZE, LENGTH = 2, 50, 6
MODELS = [ButdModel, ButdForConditionalGeneration]
RIGHT = "features of the right shape"  # which the model knows


def build(model_class: type = ButdForConditionalGeneration, selector: str = "saliency", **changes):
    """A tiny model whose words differ enough that captions are no single word over and over."""
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
    return model_class(config).eval()


@pytest.fixture(scope="module")
def model() -> ButdForConditionalGeneration:
    """Shared by tests that leave it as it is."""
    return build()


def pixels(num_images: int = BATCH_SIZE) -> torch.Tensor:
    return torch.randn(num_images, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def tokens(num_texts: int = BATCH_SIZE, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCAB_SIZE, (num_texts, length), generator=torch.Generator().manual_seed(2))


def ready_regions(model: ButdForConditionalGeneration) -> dict[str, torch.Tensor]:
    regions = model.model.bottom_up(pixels())
    return {"region_features": regions.features, "region_boxes": regions.boxes, "region_mask": regions.mask}


class TestOutputs:
    @pytest.mark.parametrize("model_class", MODELS)
    @torch.no_grad()
    def test_tuple_equals_dataclass(self, model_class):
        model = build(model_class)
        arguments = {
            "pixel_values": pixels(),
            "input_ids": tokens(),
            "output_attentions": True,
            "output_hidden_states": True,
        }
        as_class = model(**arguments)
        as_tuple = model(**arguments, return_dict=False)
        assert isinstance(as_tuple, tuple)

        def assert_same(one, other):
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, other)
            elif isinstance(one, tuple | list):
                for pair in zip(one, other, strict=True):
                    assert_same(*pair)
            else:
                assert_same(one.to_tuple(), other.to_tuple())

        assert_same(as_class.to_tuple(), as_tuple)
        model.config.return_dict = False
        assert_same(as_tuple, model(**arguments))

    @pytest.mark.parametrize("asked_by", ["argument", "config"])
    @pytest.mark.parametrize("model_class", MODELS)
    def test_attentions_and_hidden_states(self, model_class, asked_by):
        model = build(model_class)
        flags = {"output_attentions": True, "output_hidden_states": True}
        if asked_by == "config":
            model.set_attn_implementation("eager")
            for name, value in flags.items():
                setattr(model.config, name, value)
            flags = {}
        outputs = model(pixel_values=pixels(), input_ids=tokens(), **flags)
        num_regions = outputs.regions.mask.shape[1]
        assert [states.shape for states in outputs.decoder_hidden_states] == 3 * [(BATCH_SIZE, LENGTH, 32)]
        assert [weights.shape for weights in outputs.decoder_attentions] == 2 * [(BATCH_SIZE, 4, LENGTH, LENGTH)]
        assert [weights.shape for weights in outputs.cross_attentions] == 2 * [(BATCH_SIZE, 4, LENGTH, num_regions)]
        assert outputs.encoder_last_hidden_state.shape == (BATCH_SIZE, num_regions, 32)
        assert outputs.region_attentions.shape == (BATCH_SIZE, LENGTH, num_regions)
        torch.testing.assert_close(outputs.region_attentions.sum(dim=-1), torch.ones(BATCH_SIZE, LENGTH))

        watched = [outputs.decoder_hidden_states[0], outputs.decoder_attentions[0], outputs.cross_attentions[0]]
        gradients = torch.autograd.grad(outputs[0].flatten()[-1], watched)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)

        unasked = model(pixel_values=pixels(), input_ids=tokens(), output_attentions=False, output_hidden_states=False)
        assert unasked.cross_attentions is None
        assert unasked.region_attentions is None
        assert unasked.decoder_hidden_states is None

    @pytest.mark.parametrize("model_class", MODELS)
    @torch.no_grad()
    def test_attention_implementation_reaches_the_decoder(self, model_class, tmp_path):
        model = build(model_class)
        expected = model(pixel_values=pixels(), input_ids=tokens())[0]
        assert model.config.top_down_config._attn_implementation == "sdpa"
        model.save_pretrained(tmp_path)
        loaded = model_class.from_pretrained(tmp_path, attn_implementation="eager")
        per_part = model_class.from_pretrained(tmp_path, attn_implementation={"top_down_config": "eager"})
        model.set_attn_implementation("eager")
        for eager in (model, loaded, per_part):
            assert eager.config.top_down_config._attn_implementation == "eager"
            decoder = eager.top_down if model_class is ButdModel else eager.model.top_down
            assert decoder.layers[0].self_attn.config._attn_implementation == "eager"
            with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=AssertionError):
                outputs = eager(pixel_values=pixels(), input_ids=tokens())
            torch.testing.assert_close(outputs[0], expected, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_text_begins_by_default(self, model):
        outputs = model(pixel_values=pixels())
        begun = model(pixel_values=pixels(), input_ids=torch.full((BATCH_SIZE, 1), model.config.bos_token_id))
        assert torch.equal(outputs.logits, begun.logits)

    @torch.no_grad()
    def test_only_some_logits(self, model):
        every = model(pixel_values=pixels(), input_ids=tokens()).logits
        last = model(pixel_values=pixels(), input_ids=tokens(), logits_to_keep=2).logits
        assert torch.equal(last, every[:, -2:])

    @torch.no_grad()
    def test_embeddings_instead_of_tokens(self, model):
        embeddings = model.get_input_embeddings()(tokens())
        given = model(pixel_values=pixels(), inputs_embeds=embeddings).logits
        assert torch.equal(given, model(pixel_values=pixels(), input_ids=tokens()).logits)


class TestRegions:
    @torch.no_grad()
    def test_ready_regions_equal_pixels(self, model):
        from_pixels = model(pixel_values=pixels(), input_ids=tokens()).logits
        from_regions = model(**ready_regions(model), input_ids=tokens()).logits
        torch.testing.assert_close(from_regions, from_pixels, atol=1e-6, rtol=1e-6)

    @torch.no_grad()
    def test_given_boxes_are_where_it_looks(self, model):
        boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]]).expand(BATCH_SIZE, 2, 4)
        outputs = model(pixel_values=pixels(), region_boxes=boxes, input_ids=tokens(), output_attentions=True)
        assert torch.equal(outputs.regions.boxes, boxes)
        assert outputs.region_attentions.shape == (BATCH_SIZE, LENGTH, 2)

    @torch.no_grad()
    def test_several_texts_about_an_image(self, model):
        together = model(pixel_values=pixels(), input_ids=tokens(3 * BATCH_SIZE)).logits
        repeated = model(pixel_values=pixels().repeat_interleave(3, dim=0), input_ids=tokens(3 * BATCH_SIZE)).logits
        torch.testing.assert_close(together, repeated, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            ({}, "got neither"),
            ({"region_features": torch.zeros(2, 5, 3)}, r"`region_features` has shape \(2, 5, 3\), expected"),
            ({"region_features": RIGHT}, "`region_boxes` has shape None, expected"),
            ({"region_features": RIGHT, "region_boxes": torch.zeros(2, 4, 4)}, r"has shape \(2, 4, 4\), expected"),
            ({"pixel_values": pixels(), "input_ids": tokens(3)}, "3 rows"),
        ],
        ids=["nothing", "features", "no boxes", "boxes", "texts"],
    )
    def test_wrong_shapes_are_explained(self, model, arguments, complaint):
        right = torch.zeros(2, 5, model.model.bottom_up.region_size)
        arguments = {name: right if value is RIGHT else value for name, value in arguments.items()}
        with pytest.raises(ValueError, match=complaint):
            model(**arguments)

    def test_dropping_regions_is_for_training(self):
        model = build(top_down_config={"region_dropout": 0.9, "dropout": 0.0})
        with torch.no_grad():
            steady = [model(pixel_values=pixels(), input_ids=tokens()).logits for _ in range(2)]
            model.train()
            model.model.bottom_up.eval()
            dropped = [model(pixel_values=pixels(), input_ids=tokens()).logits for _ in range(2)]
        assert torch.equal(*steady)
        assert not torch.equal(*dropped)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @torch.no_grad()
    def test_is_the_mean_cross_entropy(self, smoothing):
        model = build(label_smoothing=smoothing)
        labels = tokens()
        labels[0, -2:] = -100
        outputs = model(pixel_values=pixels(), labels=labels)
        log_probabilities = outputs.logits.log_softmax(dim=-1)[labels >= 0]  # (num_labels, vocab_size)
        of_labels = log_probabilities.gather(1, labels[labels >= 0][:, None])[:, 0]
        expected = -((1 - smoothing) * of_labels + smoothing * log_probabilities.mean(dim=-1)).mean()
        torch.testing.assert_close(outputs.loss, expected)

    @torch.no_grad()
    def test_inputs_are_the_labels_shifted(self, model):
        labels = tokens()
        labels[0, -2:] = -100
        shifted = torch.cat([torch.full((BATCH_SIZE, 1), model.config.bos_token_id), labels[:, :-1]], dim=1)
        shifted[shifted == -100] = model.config.pad_token_id
        given = model(pixel_values=pixels(), input_ids=shifted, labels=labels)
        left_out = model(pixel_values=pixels(), labels=labels)
        assert torch.equal(given.loss, left_out.loss)

    @torch.no_grad()
    def test_accumulated_over_batches_equals_one_batch(self, model):
        labels = tokens()
        labels[0, -3:] = -100
        whole = model(pixel_values=pixels(), labels=labels).loss
        count = (labels != -100).sum()
        parts = [
            model(pixel_values=pixels()[row, None], labels=labels[row, None], num_items_in_batch=count).loss
            for row in range(BATCH_SIZE)
        ]
        torch.testing.assert_close(sum(parts), whole, atol=1e-5, rtol=1e-5)


class TestTraining:
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_gradient_checkpointing_changes_no_gradient(self, reentrant):
        model = build(top_down_config={"dropout": 0.0})
        model.train()
        model.model.bottom_up.eval()
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.zero_grad()
            model(pixel_values=pixels(), labels=tokens()).loss.backward()
            gradients.append({name: weight.grad for name, weight in model.named_parameters()})
        assert all(gradient is not None for gradient in gradients[0].values())
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)

    def test_a_tiny_model_learns_its_captions(self):
        model = build(top_down_config={"dropout": 0.0, "initializer_range": 0.02})
        model.train()
        regions = ready_regions(model)
        regions = {name: value.detach() for name, value in regions.items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(100):
            loss = model(**regions, labels=tokens()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss < 0.1
        model.eval()
        captions = model.generate(**regions, max_new_tokens=LENGTH, eos_token_id=None)
        assert torch.equal(captions[:, 1:], tokens())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    @torch.no_grad()
    def test_half_precision_runs(self, dtype):
        model = build().to(dtype)
        outputs = model(pixel_values=pixels().to(dtype), labels=tokens(), output_attentions=True)
        assert outputs.logits.dtype == dtype
        assert torch.isfinite(outputs.loss)
        captions = model.generate(pixel_values=pixels().to(dtype), max_new_tokens=4, num_beams=2)
        assert captions.shape[0] == BATCH_SIZE

    @pytest.mark.parametrize("selector", ["grid", "saliency"])
    @torch.no_grad()
    def test_compiles_as_one_graph(self, selector):
        model = build(selector=selector)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        expected = model(pixel_values=pixels(), input_ids=tokens())
        outputs = compiled(pixel_values=pixels(), input_ids=tokens())
        torch.testing.assert_close(outputs.logits, expected.logits)
        assert torch.equal(outputs.regions.boxes, expected.regions.boxes)


class TestSaving:
    @pytest.mark.parametrize("tied", [True, False])
    @torch.no_grad()
    def test_saved_twice_is_saved_alike(self, tmp_path, tied):
        model = build(tie_word_embeddings=tied)
        model.save_pretrained(tmp_path / "first")
        loaded = ButdForConditionalGeneration.from_pretrained(tmp_path / "first")
        loaded.save_pretrained(tmp_path / "second")
        for name in ("model.safetensors", "config.json"):
            assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
        expected = model(pixel_values=pixels(), input_ids=tokens()).logits
        again = loaded(pixel_values=pixels(), input_ids=tokens()).logits
        torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-5)  # torch's kernels differ by alignment
        assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied

    @torch.no_grad()
    def test_the_model_without_head_loads_from_one_with(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        base = ButdModel.from_pretrained(tmp_path)
        states = base(pixel_values=pixels(), input_ids=tokens()).last_hidden_state
        torch.testing.assert_close(model.lm_head(states), model(pixel_values=pixels(), input_ids=tokens()).logits)

    def test_words_are_initialised_as_the_config_says(self):
        words = build(top_down_config={"initializer_range": 0.5}).get_input_embeddings().weight
        assert 0.4 < words[1:].std() < 0.6
