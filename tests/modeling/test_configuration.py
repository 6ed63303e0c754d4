# SPDX-License-Identifier: Apache-2.0
"""Configurations: what they refuse, and that they survive a trip to disk."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from butd_hf.modeling.configuration_butd import ButdBottomUpConfig, ButdConfig, ButdTopDownConfig


# config class, field, a value it must refuse, what the message says is allowed
REFUSED = [
    (ButdBottomUpConfig, "selector", "magic", "'grid', 'saliency'"),
    (ButdBottomUpConfig, "backbone", None, "str"),
    (ButdBottomUpConfig, "out_indices", [], "non-empty"),
    (ButdBottomUpConfig, "num_channels", 0, "positive"),
    (ButdBottomUpConfig, "num_regions", 0, "positive"),
    (ButdBottomUpConfig, "num_regions", "many", "int"),
    (ButdBottomUpConfig, "min_regions", -1, "positive"),
    (ButdBottomUpConfig, "nms_threshold", 0.0, "(0, 1]"),
    (ButdBottomUpConfig, "nms_threshold", 1.5, "(0, 1]"),
    (ButdBottomUpConfig, "window_sizes", [], "(0, 1]"),
    (ButdBottomUpConfig, "window_sizes", [0.5, 2.0], "(0, 1]"),
    (ButdBottomUpConfig, "selector", "given", "region_size"),
    (ButdBottomUpConfig, "region_size", 2048, "backbone decides"),
    (ButdTopDownConfig, "decoder", "oracle", "'transformer'"),
    (ButdTopDownConfig, "recurrent_variant", "caffe", "'paper', 'port'"),
    (ButdTopDownConfig, "embedding_size", 0, "positive"),
    (ButdTopDownConfig, "embedding_size", 32, "left out"),
    (ButdTopDownConfig, "attention_size", 0, "positive"),
    (ButdTopDownConfig, "vocab_size", 0, "positive"),
    (ButdTopDownConfig, "hidden_size", -8, "positive"),
    (ButdTopDownConfig, "num_hidden_layers", 0, "positive"),
    (ButdTopDownConfig, "num_region_layers", -1, "zero or positive"),
    (ButdTopDownConfig, "num_attention_heads", 7, "divisor of hidden_size=256"),
    (ButdTopDownConfig, "max_position_embeddings", 0, "positive"),
    (ButdTopDownConfig, "dropout", 1.0, "[0, 1)"),
    (ButdTopDownConfig, "attention_dropout", -0.1, "[0, 1)"),
    (ButdTopDownConfig, "region_dropout", 1.0, "[0, 1)"),
    (ButdConfig, "label_smoothing", 1.0, "[0, 1)"),
]

CUSTOM = {
    "bottom_up_config": {
        "backbone": "test_resnet",
        "out_indices": (1, -1),
        "selector": "grid",
        "num_regions": 12,
        "min_regions": 3,
        "score_threshold": 0.1,
        "nms_threshold": 0.3,
        "window_sizes": (0.25, 1.0),
        "keep_whole_image": False,
        "freeze_batch_norm": False,
        "backbone_kwargs": {"drop_path_rate": 0.1},
    },
    "top_down_config": {
        "vocab_size": 77,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_region_layers": 0,
        "num_attention_heads": 3,
        "dropout": 0.25,
        "region_dropout": 0.5,
        "eos_token_id": [5, 6],
    },
    "label_smoothing": 0.1,
    "tie_word_embeddings": False,
}

UP_DOWN = {
    "bottom_up_config": {"selector": "given", "region_size": 2048},
    "top_down_config": {
        "decoder": "lstm",
        "recurrent_variant": "paper",
        "hidden_size": 1000,
        "embedding_size": 300,
        "attention_size": 256,
        "output_bias": True,
    },
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(("config_class", "field", "value", "allowed"), REFUSED)
def test_refusal_names_field_value_and_what_is_allowed(config_class, field, value, allowed):
    with pytest.raises(StrictDataclassError) as refusal:
        config_class(**{field: value})
    message = str(refusal.value)
    assert field in message
    assert str(value) in message or type(value).__name__ in message
    assert allowed in message


@pytest.mark.parametrize("part", ["bottom_up_config", "top_down_config"])
def test_parts_are_validated_inside_the_whole(part):
    wrong = {"bottom_up_config": {"selector": "magic"}, "top_down_config": {"dropout": 2.0}}[part]
    with pytest.raises(StrictDataclassError, match=next(iter(wrong))):
        ButdConfig(**{part: wrong})


def test_shared_word_embeddings_must_fit_the_output_layer():
    top_down = {"decoder": "lstm", "hidden_size": 32, "embedding_size": 16}
    with pytest.raises(StrictDataclassError, match=r"tie_word_embeddings must be False with embedding_size=16"):
        ButdConfig(top_down_config=top_down)
    assert ButdConfig(top_down_config=top_down, tie_word_embeddings=False).top_down_config.embedding_size == 16
    assert ButdConfig(top_down_config={**top_down, "embedding_size": 32}).tie_word_embeddings


@pytest.mark.parametrize("arguments", [{}, CUSTOM, UP_DOWN], ids=["defaults", "custom", "up-down"])
def test_round_trip_through_disk_is_exact(tmp_path, arguments):
    config = ButdConfig(**arguments)
    config.save_pretrained(tmp_path / "first")
    loaded = ButdConfig.from_pretrained(tmp_path / "first")
    assert loaded.to_dict() == config.to_dict()
    loaded.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/config.json").read_bytes() == (tmp_path / "first/config.json").read_bytes()


@pytest.mark.parametrize("part", ["bottom_up_config", "top_down_config"])
def test_every_custom_value_arrives(part):
    config = getattr(ButdConfig(**CUSTOM), part)
    for field, value in CUSTOM[part].items():
        assert getattr(config, field) == (list(value) if isinstance(value, tuple) else value)


def test_parts_may_be_configs_or_dicts():
    parts = ButdConfig(
        bottom_up_config=ButdBottomUpConfig(**CUSTOM["bottom_up_config"]),
        top_down_config=ButdTopDownConfig(**CUSTOM["top_down_config"]),
        label_smoothing=0.1,
        tie_word_embeddings=False,
    )
    assert parts.to_dict() == ButdConfig(**CUSTOM).to_dict()


def test_special_tokens_are_the_decoders():
    config = ButdConfig(top_down_config={"pad_token_id": 9, "bos_token_id": 8, "eos_token_id": 7})
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (9, 8, 7)
    assert config.decoder_start_token_id == 8
    assert config.get_text_config() is config.top_down_config
