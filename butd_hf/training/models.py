# SPDX-License-Identifier: Apache-2.0
"""The model and processor that a training starts with: of a checkpoint or new, frozen where asked."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from ..conversion.backbone_weights import load_backbone_weights
from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from .arguments import ModelArguments


PARTS = ("bottom_up_config", "top_down_config")


def is_checkpoint_of(checkpoint: str | None, model_class: type) -> bool:
    """Whether a checkpoint holds a model of the class, and not just a bottom-up half to start from."""
    if checkpoint is None:
        return False
    return model_class.__name__ in (PreTrainedConfig.get_config_dict(checkpoint)[0].get("architectures") or [])


def build_config(
    options: ModelArguments, model_class: type, data: dict[str, Any], bottom_up: dict[str, Any]
) -> ButdConfig:
    """The config of the checkpoint to start from, or a new one.

    Args:
        options: What the command line says.
        model_class: Of the model.
        data: What the data say of a new model: fields of `ButdConfig`, of its parts as dicts.
        bottom_up: Fields of a new bottom-up half beside its backbone.

    Raises:
        ValueError: `--config` names a field that isn't there, or is of both halves.
    """
    if is_checkpoint_of(options.init_from, model_class):
        settings = ButdConfig.from_pretrained(options.init_from).to_dict()
    else:
        source = options.init_from or options.bottom_up_from
        if source is not None:
            bottom_up = ButdConfig.from_pretrained(source).bottom_up_config.to_dict()
        elif bottom_up.get("selector") != "given":
            bottom_up = {"backbone": options.backbone, **bottom_up}
        changed = dict(pair.split("=", 1) for pair in options.config if "=" in pair)
        if changed.get("selector", bottom_up["selector"]) != bottom_up["selector"]:
            bottom_up.pop("out_indices", None)  # selectors differ in which feature maps they use
            bottom_up["selector"] = changed["selector"]
        parts = {part: {**data.get(part, {})} for part in PARTS}
        parts["bottom_up_config"] = {**bottom_up, **parts["bottom_up_config"]}
        settings = ButdConfig(**parts).to_dict()
        settings.update({name: value for name, value in data.items() if name not in PARTS})
    set_fields(settings, options.config)
    return ButdConfig.from_dict(settings)


def set_fields(settings: dict[str, Any], pairs: Sequence[str]) -> None:
    """Sets fields of a config and its parts, given as `name=value` or `part.name=value`, values as in JSON."""
    for pair in pairs:
        name, equals, value = pair.partition("=")
        part, _, own = name.rpartition(".")
        places = (
            [part] if part else [place for place in ("", *PARTS) if own in (settings[place] if place else settings)]
        )
        if not equals or not places or (part and (part not in PARTS or own not in settings[part])):
            raise ValueError(
                f"--config must be fields as name=value, got {pair!r}; a part's field as {PARTS[0]}.name."
            )
        if len(places) > 1:
            raise ValueError(f"--config {name} is a field of {' and '.join(filter(None, places))}: say which.")
        try:
            parsed = json.loads(value)
        except json.JSONDecodeError:
            parsed = value  # a word
        (settings[places[0]] if places[0] else settings)[own] = parsed


def build_image_processor(options: ModelArguments, **defaults: Any) -> ButdImageProcessor:
    """The image processor of the checkpoint to start from, or one for the backbone, with the sizes asked for."""
    source = options.init_from or options.bottom_up_from
    if source is not None:
        processor = ButdImageProcessor.from_pretrained(source)
    else:
        processor = ButdImageProcessor.from_backbone(options.backbone, **defaults)
    return resized(processor, options)


def resized(processor: ButdImageProcessor, options: ModelArguments) -> ButdImageProcessor:
    """The image processor with the sizes asked for."""
    if options.longest_edge is not None:
        shortest = options.image_size or min(256, options.longest_edge)
        size = {"shortest_edge": shortest, "longest_edge": options.longest_edge}
    elif options.image_size is not None:
        size = {"height": options.image_size, "width": options.image_size}
    else:
        return processor
    return type(processor)(**{**processor.to_dict(), "size": size})


def build_model(options: ModelArguments, model_class: type, config: ButdConfig, whole: bool = True) -> PreTrainedModel:
    """The model, with the weights it starts from, and frozen where asked.

    Args:
        options: What the command line says.
        model_class: Of the model.
        config: Of the model.
        whole: Whether only a checkpoint of this class gives all its weights; else any does what it has of them, as
            a detector for a segmenter, with other classes.
    """
    if is_checkpoint_of(options.init_from, model_class) or (options.init_from is not None and not whole):
        model = model_class.from_pretrained(options.init_from, config=config, ignore_mismatched_sizes=not whole)
    else:
        model = model_class(config)
        source = options.init_from or options.bottom_up_from
        if source is not None:
            load_bottom_up(model, source)
    if options.attn_implementation is not None:
        model.set_attn_implementation(options.attn_implementation)
    bottom_up = model.base_model.bottom_up
    backbone = getattr(bottom_up, "backbone", None)
    if options.backbone_weights is not None:
        print(load_backbone_weights(backbone, options.backbone_weights, config.bottom_up_config.backbone))
    if options.freeze == "all":
        bottom_up.requires_grad_(False)
    elif options.freeze != "none":
        freeze_stages(backbone, int(options.freeze))
    if backbone is not None:  # convolutions are faster with channels last, on CPUs above all
        backbone.to(memory_format=torch.channels_last)
    return model


def load_bottom_up(model: nn.Module, checkpoint: str) -> None:
    """Loads the bottom-up half of any checkpoint of this package, in place.

    Args:
        model: Any task model of this package.
        checkpoint: Folder or Hub name of the checkpoint.

    Raises:
        ValueError: It lacks weights that the model's bottom-up half has, or they have other shapes.
    """
    weights = load_file(cached_file(checkpoint, "model.safetensors"))
    prefix = "bottom_up."
    found = {name[name.index(prefix) + len(prefix) :]: value for name, value in weights.items() if prefix in name}
    bottom_up = model.base_model.bottom_up
    expected = bottom_up.state_dict()
    missing = [
        name
        for name, value in expected.items()
        if not name.endswith("num_batches_tracked")  # frozen batch norms have none
        and (name not in found or found[name].shape != value.shape)
    ]
    if missing:
        raise ValueError(
            f"{checkpoint} doesn't fit the selector {bottom_up.config.selector!r}: {len(missing)} of {len(expected)} "
            f"tensors are missing or of another shape, the first is {missing[0]!r}."
        )
    # a selector may need less than the checkpoint has: the grid of a detector takes its backbone alone
    bottom_up.load_state_dict({name: value for name, value in found.items() if name in expected}, strict=False)


def freeze_stages(backbone: nn.Module, stages: int) -> None:
    """Freezes the first stages of a timm backbone, with all that comes before them.

    Args:
        backbone: A timm feature extractor, or transformers' `TimmBackbone` around one.
        stages: How many of the feature levels that timm lists for the backbone; the stem may be one of them, as in
            ResNets, or belong to the first, as in EfficientNets.

    Raises:
        ValueError: The backbone has fewer stages.
    """
    backbone = getattr(backbone, "_backbone", backbone)
    levels = [info["module"] for info in backbone.feature_info.info]
    if stages > len(levels):
        raise ValueError(f"Cannot freeze {stages} stages: the backbone has {len(levels)} ({', '.join(levels)}).")
    if stages == 0:
        return
    names = dict(backbone.named_modules())
    last = levels[stages - 1]
    last = last if last in names else last.replace(".", "_")  # timm's feature extractors flatten `stages.0`
    reached = False
    for name, module in names.items():  # in the order that data passes them
        inside = name == last or name.startswith(f"{last}.")
        if reached and not inside:
            break
        reached = reached or inside
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


__all__ = [
    "build_config",
    "build_image_processor",
    "build_model",
    "freeze_stages",
    "is_checkpoint_of",
    "load_bottom_up",
    "resized",
]
