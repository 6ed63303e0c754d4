# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

import butd_hf
from butd_hf.training.arguments import ModelArguments
from butd_hf.training.models import build_config, build_image_processor, build_model, freeze_stages, load_bottom_up


SMALL = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=32"]
CAPTIONER = butd_hf.ButdForConditionalGeneration


def config_of(*pairs, **options):
    return build_config(
        ModelArguments(backbone="test_efficientnet", config=list(pairs), **options),
        CAPTIONER,
        {},
        {"selector": "grid"},
    )


def test_fields_are_set_where_they_are():
    config = config_of(
        "hidden_size=16", "top_down_config.num_attention_heads=2", "selector=rpn", "label_smoothing=0.1"
    )
    assert (config.top_down_config.hidden_size, config.top_down_config.num_attention_heads) == (16, 2)
    assert config.label_smoothing == 0.1
    assert config.bottom_up_config.selector == "rpn" and len(config.bottom_up_config.out_indices) > 1


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("width=3", "got 'width=3'"),
        ("hidden_size", "name=value"),
        ("bottom_up_config.hidden_size=3", "got 'bottom_up_config"),
    ],
)
def test_fields_that_are_not_there(pair, message):
    with pytest.raises(ValueError, match=message):
        config_of(pair)


@pytest.mark.parametrize("tiny_detector", ["detection"], indirect=True)
@pytest.mark.parametrize("changes", [[], ["selector=grid"], ["num_regions=4", "min_regions=1"]])
def test_the_bottom_up_half_of_a_detector(tiny_detector, changes):
    options = ModelArguments(init_from=tiny_detector, config=[*SMALL, *changes], freeze="all")
    model = build_model(options, CAPTIONER, build_config(options, CAPTIONER, {}, {}))
    source = butd_hf.ButdForObjectDetection.from_pretrained(tiny_detector).base_model.bottom_up.state_dict()
    for name, value in model.base_model.bottom_up.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, source[name].to(value.dtype)), name
    assert not any(weight.requires_grad for weight in model.base_model.bottom_up.parameters())
    assert dict(build_image_processor(options).size) == {"height": 64, "width": 64}


@pytest.mark.parametrize("tiny_detector", ["detection"], indirect=True)
def test_weights_of_another_shape_are_refused(tiny_detector):
    options = ModelArguments(init_from=tiny_detector, config=["region_head_size=40", *SMALL])
    model = CAPTIONER(build_config(options, CAPTIONER, {}, {}))
    with pytest.raises(ValueError, match=r"doesn't fit the selector 'rpn': \d+ of \d+ tensors"):
        load_bottom_up(model, tiny_detector)


def test_first_stages_are_frozen():
    backbone = CAPTIONER(config_of(*SMALL)).base_model.bottom_up.backbone
    freeze_stages(backbone, 0)
    assert all(weight.requires_grad for weight in backbone.parameters())
    freeze_stages(backbone, 2)
    frozen = {name: not weight.requires_grad for name, weight in backbone.named_parameters()}
    assert all(value for name, value in frozen.items() if "conv_stem" in name or "blocks_0" in name)
    assert any(frozen.values()) and not all(frozen.values())
    with pytest.raises(ValueError, match="Cannot freeze 9 stages: the backbone has"):
        freeze_stages(backbone, 9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "some"}, "--freeze must be all, none or a number of stages, got 'some'"),
        ({"cache": "regions", "freeze": "2"}, "--cache needs --freeze all, got --freeze 2"),
        ({"init_from": "one", "bottom_up_from": "other"}, "--bottom_up_from begins a new model"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**options)
