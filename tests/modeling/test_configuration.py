# SPDX-License-Identifier: Apache-2.0
"""Configurations: what they refuse, that they survive a trip to disk, and what earlier versions wrote."""

import pytest
from huggingface_hub.errors import StrictDataclassError

from butd_hf.modeling import configuration_butd
from butd_hf.modeling.configuration_butd import EARLIER_FIELDS, ButdBottomUpConfig, ButdConfig, ButdTopDownConfig


# config class, fields of which the last is refused, what the message says is allowed
REFUSED = [
    (ButdBottomUpConfig, {"backbone": None}, "str"),
    (ButdBottomUpConfig, {"out_indices": []}, "non-empty"),
    (ButdBottomUpConfig, {"num_channels": 0}, "positive"),
    (ButdBottomUpConfig, {"num_regions": "many"}, "int"),
    (ButdBottomUpConfig, {"min_regions": -1}, "positive"),
    (ButdBottomUpConfig, {"nms_threshold": 0.0}, "(0, 1]"),
    (ButdBottomUpConfig, {"nms_threshold": 1.5}, "(0, 1]"),
    (ButdBottomUpConfig, {"fpn_size": 12}, "multiple of 8"),
    (ButdBottomUpConfig, {"region_mask_size": 7}, "even"),
    (ButdBottomUpConfig, {"num_region_labels": -1}, "zero or positive"),
    (ButdBottomUpConfig, {"selector": "given", "region_size": None}, "positive with the selector 'given'"),
    (ButdBottomUpConfig, {"region_size": 2048}, "backbone decides"),
    (ButdTopDownConfig, {"decoder": "oracle"}, "'transformer'"),
    (ButdTopDownConfig, {"recurrent_variant": "caffe"}, "'paper', 'port'"),
    (ButdTopDownConfig, {"question_variant": "port"}, "'baseline0'"),
    (ButdTopDownConfig, {"decoder": "lstm", "embedding_size": 0}, "positive"),
    (ButdTopDownConfig, {"embedding_size": 32}, "left out"),
    (ButdTopDownConfig, {"hidden_size": -8}, "positive"),
    (ButdTopDownConfig, {"num_hops": 0}, "positive"),
    (ButdTopDownConfig, {"max_position_embeddings": 0}, "positive"),
    (ButdTopDownConfig, {"num_region_layers": -1}, "zero or positive"),
    (ButdTopDownConfig, {"question_ngrams": -1}, "zero or positive"),
    (ButdTopDownConfig, {"num_attention_heads": 7}, "divisor of hidden_size=256"),
    (
        ButdTopDownConfig,
        {"question_variant": "paper", "decoder": "transformer"},
        "'gru' with question_variant='paper'",
    ),
    (ButdTopDownConfig, {"question_variant": "paper", "decoder": "gru", "question_ngrams": 8}, "0 with question_var"),
    (ButdTopDownConfig, {"dropout": 1.0}, "[0, 1)"),
    (ButdTopDownConfig, {"answer_dropout": -0.1}, "[0, 1)"),
    (ButdConfig, {"label_smoothing": 1.0}, "[0, 1)"),
    (ButdConfig, {"one_to_many": -1}, "zero or positive"),
    (ButdConfig, {"pair_budget": 0}, "positive"),
    (ButdConfig, {"num_predicates": 2, "id2predicate": {0: "on"}}, "a name for each of num_predicates=2"),
    (ButdConfig, {"bottom_up_config": {"num_region_labels": 2}, "region_label_ids": [0, 2]}, "-1 to 1 for each"),
    (ButdConfig, {"bottom_up_config": {"num_region_labels": 2}, "region_label_ids": [0]}, "-1 to 1 for each"),
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
        "backbone_kwargs": {"drop_path_rate": 0.1},
    },
    "top_down_config": {
        "vocab_size": 77,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_region_layers": 0,
        "num_attention_heads": 3,
        "dropout": 0.25,
        "eos_token_id": [5, 6],
    },
    "label_smoothing": 0.1,
    "tie_word_embeddings": False,
}
UP_DOWN = {
    "bottom_up_config": {"selector": "given", "region_size": 2048},
    "top_down_config": {"decoder": "lstm", "recurrent_variant": "paper", "hidden_size": 1000, "embedding_size": 300},
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(("config_class", "fields", "allowed"), REFUSED)
def test_refusal_names_field_value_and_what_is_allowed(config_class, fields, allowed):
    with pytest.raises(StrictDataclassError) as refusal:
        config_class(**fields)
    message, (field, value) = str(refusal.value), list(fields.items())[-1]
    assert field in message and allowed in message
    assert str(value) in message or type(value).__name__ in message


def test_parts_are_validated_inside_the_whole():
    for part, field in (("bottom_up_config", "nms_threshold"), ("top_down_config", "dropout")):
        with pytest.raises(StrictDataclassError, match=field):
            ButdConfig(**{part: {field: 2.0}})


def test_shared_word_embeddings_must_fit_the_output_layer():
    top_down = {"decoder": "lstm", "hidden_size": 32, "embedding_size": 16}
    with pytest.raises(StrictDataclassError, match=r"tie_word_embeddings must be False with embedding_size=16"):
        ButdConfig(top_down_config=top_down)
    assert ButdConfig(top_down_config=top_down, tie_word_embeddings=False).top_down_config.embedding_size == 16
    assert ButdConfig(top_down_config={**top_down, "embedding_size": 32}).tie_word_embeddings


@pytest.mark.parametrize("arguments", [{}, CUSTOM, UP_DOWN], ids=["defaults", "custom", "up-down"])
def test_round_trip_through_disk_is_exact(tmp_path, arguments):
    config = ButdConfig(**arguments)
    for part in config.sub_configs:
        for field, value in arguments.get(part, {}).items():
            assert getattr(getattr(config, part), field) == (list(value) if isinstance(value, tuple) else value)
    config.save_pretrained(tmp_path / "first")
    loaded = ButdConfig.from_pretrained(tmp_path / "first")
    assert loaded.to_dict() == config.to_dict()
    loaded.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/config.json").read_bytes() == (tmp_path / "first/config.json").read_bytes()
    parts = {name: kind(**arguments.get(name, {})) for name, kind in config.sub_configs.items()}
    assert ButdConfig(**{**arguments, **parts}).to_dict() == config.to_dict()


def test_special_tokens_are_the_decoders():
    config = ButdConfig(top_down_config={"pad_token_id": 9, "bos_token_id": 8, "eos_token_id": 7})
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (9, 8, 7)
    assert config.decoder_start_token_id == 8
    assert config.get_text_config() is config.top_down_config


def test_predicates_are_named_and_counted():
    assert ButdConfig(num_predicates=2).id2predicate == {0: "PREDICATE_0", 1: "PREDICATE_1"}
    named = ButdConfig(id2predicate={"0": "on", "1": "under"})  # text in JSON
    assert named.num_predicates == 2 and named.id2predicate == {0: "on", 1: "under"}


@pytest.mark.parametrize(
    ("architecture", "own", "others"),
    [
        ("ButdForConditionalGeneration", {"label_smoothing"}, {"one_to_many", "pair_budget", "id2predicate"}),
        ("ButdForObjectDetection", {"one_to_many"}, {"label_smoothing", "pair_budget", "pair_rank_features"}),
        ("ButdForSceneGraphGeneration", {"pair_budget", "relation_appearance"}, {"label_smoothing", "one_to_many"}),
    ],
)
def test_files_state_the_fields_of_their_task(architecture, own, others):
    config = ButdConfig(architectures=[architecture], num_predicates=1)
    assert own <= set(config.to_dict()) and not others & set(config.to_dict())
    assert ButdConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_configs_of_earlier_versions_load(monkeypatch):
    warnings = []
    monkeypatch.setattr(configuration_butd.logger, "warning_once", warnings.append)
    earlier = ButdConfig(num_predicates=1).to_dict()
    for name in ("pair_rank_features",):
        del earlier[name]
    earlier |= {"pair_rivals": True, "frequency_prior": True, "class_cost": 2.0, "mask_size": 28}
    del earlier["top_down_config"]["num_hops"]
    earlier["top_down_config"] |= {"num_glimpses": 3, "question_variant": "glimpses", "word_dropout": 0.1}
    earlier["bottom_up_config"] |= {"window_sizes": [0.2, 1.0], "freeze_batch_norm": True}
    config = ButdConfig.from_dict(earlier)
    assert config.pair_rank_features is True
    assert (config.top_down_config.num_hops, config.top_down_config.question_variant) == (3, "hops")
    left_out = ["class_cost", "freeze_batch_norm", "frequency_prior", "mask_size", "window_sizes", "word_dropout"]
    assert warnings == [f"Settings of an earlier version of butd_hf are left out: {', '.join(left_out)}."]
    assert not {"pair_rivals", *EARLIER_FIELDS} & set(config.to_dict())
    parts = config.to_dict()["top_down_config"], config.to_dict()["bottom_up_config"]
    assert not any({"num_glimpses", *EARLIER_FIELDS} & set(part) for part in parts)


def test_every_field_of_earlier_versions_is_left_out_in_every_part():
    settings = dict.fromkeys(EARLIER_FIELDS, 1)
    config = ButdConfig(bottom_up_config=settings, top_down_config=settings, **settings)
    assert config.to_dict() == ButdConfig().to_dict()
