# SPDX-License-Identifier: Apache-2.0
import pytest
import timm
import torch
from torch import nn
from transformers import TimmBackbone, TimmBackboneConfig

from butd_hf.training.arguments import LoopArguments
from butd_hf.training.optimizers import (
    build_average,
    build_optimizer,
    build_scheduler,
    freeze_depthwise,
    freeze_stages,
)


STAGED = {
    "test_efficientnet": ("conv_stem.weight", "blocks.1", "blocks.2"),
    "test_resnet": ("conv1", "layer1", "layer2"),  # its first feature level is the stem
    "test_convnext": ("stem_0", "stages_1", "stages_2"),
}


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_first_stages_are_frozen_with_the_stem(name, wrapped):
    if wrapped:
        backbone = TimmBackbone(TimmBackboneConfig(backbone=name))
    else:
        backbone = timm.create_model(name, features_only=True)
    frozen = freeze_stages(backbone, 2)
    trained = [key for key, parameter in backbone.named_parameters() if parameter.requires_grad]
    trained = [key.removeprefix("_backbone.") for key in trained]
    stem, last_frozen, first_trained = STAGED[name]
    assert any(key.startswith(stem) for key in frozen)
    assert any(key.startswith(last_frozen) for key in frozen) and not any(
        key.startswith(last_frozen) for key in trained
    )
    assert any(key.startswith(first_trained) for key in trained)
    assert not any(key.startswith(first_trained) for key in frozen)


def test_none_all_and_too_many_stages():
    backbone = timm.create_model("test_resnet", features_only=True)
    assert freeze_stages(backbone, 0) == []
    assert all(key.startswith(("conv1.", "bn1.")) for key in freeze_stages(backbone, 1))
    with pytest.raises(ValueError, match="Cannot freeze 9 stages: the backbone has"):
        freeze_stages(backbone, 9)
    freeze_stages(backbone, None)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(ValueError, match="everything is frozen"):
        build_optimizer(backbone, LoopArguments(output_dir="x"))


def test_depthwise_kernels_alone_are_frozen():
    backbone = timm.create_model("test_efficientnet", features_only=True)
    names = freeze_depthwise(backbone)
    frozen = [name for name, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen == names and all("conv_dw" in name for name in names) and len(names) > 0
    assert freeze_depthwise(timm.create_model("test_resnet", features_only=True)) == []


def test_norms_biases_and_tied_embeddings_are_not_decayed():
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    model = nn.ModuleDict({"embedding": embedding, "head": head, "norm": nn.LayerNorm(4), "proj": nn.Linear(4, 4)})
    groups = {group["name"]: group for group in build_optimizer(model, LoopArguments(output_dir="x")).param_groups}
    assert [parameter.shape for parameter in groups["head_decayed"]["params"]] == [(4, 4)]
    assert len(groups["head_undecayed"]["params"]) == 4  # embedding, norm weight and bias, proj bias
    assert groups["head_undecayed"]["weight_decay"] == 0.0


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle", "linear", "constant"])
@pytest.mark.parametrize("total_steps", [1, 2, 20])
def test_the_rate_rises_to_its_peak_and_never_beyond(scheduler, total_steps):
    arguments = LoopArguments(output_dir="x", scheduler=scheduler, learning_rate=0.1, warmup=0.25)
    optimizer = build_optimizer(nn.Linear(2, 2), arguments)
    course = build_scheduler(optimizer, arguments, total_steps)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        course.step()
    assert all(0.0 <= rate <= 0.1 + 1e-12 for rate in rates)
    if total_steps == 20:
        assert rates[5] == pytest.approx(0.1)  # after a quarter of the steps
        assert rates[0] < 0.02
        assert rates[-1] == pytest.approx(0.1) if scheduler == "constant" else rates[-1] < 0.01


def test_the_average_follows_the_weights():
    model = nn.Linear(1, 1, bias=False)
    average = build_average(model, decay=0.5)
    values = []
    for value in (0.0, 1.0, 1.0, 1.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update_parameters(model)
        values.append(average.module.weight.item())
    assert values == sorted(values) and values[0] == 0.0 and 0.8 < values[-1] < 1.0
