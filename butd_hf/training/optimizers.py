# SPDX-License-Identifier: Apache-2.0
"""What is trained and how fast: parameter groups, frozen stages, courses of the learning rate, weight averages."""

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel
from transformers import get_scheduler

from .arguments import LoopArguments


def build_optimizer(model: nn.Module, arguments: LoopArguments, backbone: nn.Module | None = None) -> Optimizer:
    """
    AdamW over the trainable parameters.

    Norms, biases and embeddings are not decayed: decay would pull scales to zero and wear out rare words. The
    backbone, which is trained already, has its own learning rate.

    Raises:
        ValueError: Nothing is trainable.
    """
    rate = arguments.learning_rate
    backbone_rate = arguments.backbone_learning_rate if arguments.backbone_learning_rate is not None else rate / 10
    of_backbone = {id(parameter) for parameter in backbone.parameters()} if backbone is not None else set()
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}

    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim >= 2 and id(parameter) not in embeddings
            groups.setdefault((id(parameter) in of_backbone, decayed), []).append(parameter)
    if not groups:
        raise ValueError("No parameter is trainable: everything is frozen.")
    parameter_groups = [
        {
            "name": f"{'backbone' if in_backbone else 'head'}_{'decayed' if decayed else 'undecayed'}",
            "params": parameters,
            "lr": backbone_rate if in_backbone else rate,
            "weight_decay": arguments.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return AdamW(parameter_groups, lr=rate, betas=(0.9, arguments.adam_beta2), fused=True)


def build_scheduler(optimizer: Optimizer, arguments: LoopArguments, total_steps: int) -> LRScheduler:
    """The course of the learning rate over `total_steps` optimizer steps."""
    warmup_steps = arguments.warmup_steps(total_steps)
    if arguments.scheduler == "one_cycle":
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps + 1,  # it raises when stepped after the last step
            pct_start=(max(warmup_steps, 1) + 1) / (total_steps + 1),  # it counts the step before the first
            cycle_momentum=False,
        )
    name = "constant_with_warmup" if arguments.scheduler == "constant" else arguments.scheduler
    return get_scheduler(name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights, which forgets its random beginnings fast."""

    @torch.no_grad()
    def average(averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: Any) -> None:
        updates = float(num_averaged)
        torch._foreach_lerp_(averaged, current, 1.0 - min(decay, (1.0 + updates) / (10.0 + updates)))

    averaged = AveragedModel(model, multi_avg_fn=average)
    return averaged.requires_grad_(False).eval()


def freeze_stages(backbone: nn.Module, stages: int | None) -> list[str]:
    """
    Freezes the first stages of a timm backbone, with all that comes before them.

    Args:
        backbone: A timm feature extractor, or transformers' `TimmBackbone` around one.
        stages: How many of the feature levels that timm lists for the backbone; the stem may be one of them, as in
            ResNets, or belong to the first, as in EfficientNets. None freezes everything.

    Returns:
        The names of the frozen parameters.

    Raises:
        ValueError: The backbone has fewer stages.
    """
    backbone = getattr(backbone, "_backbone", backbone)
    if stages is None:
        frozen = dict(backbone.named_parameters())
    elif stages == 0:
        frozen = {}
    else:
        levels = [info["module"] for info in backbone.feature_info.info]
        if stages > len(levels):
            raise ValueError(f"Cannot freeze {stages} stages: the backbone has {len(levels)} ({', '.join(levels)}).")
        frozen = parameters_up_to(backbone, levels[stages - 1])
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    return list(frozen)


def freeze_depthwise(backbone: nn.Module) -> list[str]:
    """
    Freezes the kernels of depthwise convolutions, 6 % of the weights of EfficientNet-Lite, and returns their names.

    On CPUs PyTorch computes their gradients far slower than those of other convolutions.
    """
    names = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.weight.requires_grad_(False)
            names.append(f"{name}.weight")
    return names


def parameters_up_to(model: nn.Module, last_module: str) -> dict[str, nn.Parameter]:
    """The parameters of a module and of all that are registered before it, which is the order that data meets them."""
    names = dict(model.named_modules())
    # timm's feature extractors flatten `stages.0` to `stages_0`
    last_module = last_module if last_module in names else last_module.replace(".", "_")
    found: dict[str, nn.Parameter] = {}
    reached = False
    for name, module in model.named_modules():
        inside = name == last_module or name.startswith(f"{last_module}.")
        if reached and not inside:
            break
        reached = reached or inside
        prefix = f"{name}." if name else ""
        found.update({prefix + key: parameter for key, parameter in module.named_parameters(recurse=False)})
    return found


def set_training_mode(model: nn.Module, backbone: nn.Module | None = None) -> None:
    """
    Training mode, except for what is frozen and for the backbone's batch norms.

    Small batches of one task would spoil the statistics that pretraining gathered over a million images.
    """
    model.train()
    for module in backbone.modules() if backbone is not None else ():
        parameters = list(module.parameters())
        frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        if frozen or isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
