# SPDX-License-Identifier: Apache-2.0
"""Published bottom-up detectors as this package's: names, sizes and order of their tensors."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..cards import FOLDER_OF_TEMPLATES
from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_butd import ButdRegionModel
from .checkpoint_kind import ConversionOptions, ConvertedCheckpoint
from .sources import ConversionError, SourceCheckpoint, check_tensors


PREDICTOR = "roi_heads.box_predictor"
COUNTER = ".num_batches_tracked"  # of batch norms that aren't frozen: says nothing of what they compute
BACKBONES = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
CHANNELS = (64, 128, 256, 512)
STAGES = ("backbone.res2", "backbone.res3", "backbone.res4", "roi_heads.res5")

# ours -> theirs, for what both kinds call the same; `layer1` and so on follow from STAGES
MODULES = {
    "bottom_up.backbone.conv1": "backbone.stem.conv1",
    "bottom_up.backbone.bn1": "backbone.stem.conv1.norm",
    "bottom_up.selector.proposals.conv": "proposal_generator.rpn_head.conv",
    "bottom_up.selector.proposals.objectness": "proposal_generator.rpn_head.objectness_logits",
    "bottom_up.selector.proposals.deltas": "proposal_generator.rpn_head.anchor_deltas",
    "bottom_up.selector.proposals": "proposal_generator.anchor_generator",
    "bottom_up.selector.head.classifier": f"{PREDICTOR}.cls_score",
    "bottom_up.selector.head.deltas": f"{PREDICTOR}.bbox_pred",
}


def published_name(name: str, heads: Mapping[str, str]) -> str:
    """What the published files call a tensor of `ButdRegionModel`.

    Args:
        name: Its name in the model's state dict.
        heads: What they call `class_embedding`, `attribute_proj` and `attribute_classifier`.
    """
    module, _, kind = name.rpartition(".")
    if kind == "cell_anchors":
        return f"{MODULES[module]}.cell_anchors.0"
    if module in MODULES:
        return f"{MODULES[module]}.{kind}"
    if module.startswith("bottom_up.selector.head."):
        return f"{PREDICTOR}.{heads[module.rpartition('.')[2]]}.{kind}"
    stage, block, part = re.fullmatch(r"bottom_up\.backbone\.layer(\d)\.(\d+)\.(.+)", module).groups()
    part = {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}.get(part, part)
    part = re.sub(r"bn(\d)", r"conv\1.norm", part)
    return f"{STAGES[int(stage) - 1]}.{block}.{part}.{kind}"


def bottom_up_config(tensors: Mapping[str, torch.Tensor], heads: Mapping[str, str]) -> dict[str, Any]:
    """Sizes of the detector as its tensors tell them, those that were published where tensors are missing."""

    def size(name: str, published: int) -> int:
        return tensors[name].shape[0] if name in tensors and tensors[name].dim() > 0 else published

    layers = tuple(
        len({name[len(stage) + 1 :].split(".")[0] for name in tensors if name.startswith(f"{stage}.")})
        for stage in STAGES
    )
    layers = layers if all(layers) else (3, 4, 23, 3)
    channels = tuple(size(f"{stage}.0.conv1.weight", width) for stage, width in zip(STAGES, CHANNELS, strict=True))
    backbone = BACKBONES.get(layers, "resnet101")
    other = layers not in BACKBONES or channels != CHANNELS
    has_attributes = any(name.startswith(f"{PREDICTOR}.{head}.") for head in heads.values() for name in tensors)
    return {
        "backbone": backbone,
        "backbone_kwargs": {"layers": list(layers), "channels": list(channels)} if other else None,
        "selector": "faster_rcnn_c4",
        "rpn_size": size("proposal_generator.rpn_head.conv.weight", 512),
        "num_region_labels": size(f"{PREDICTOR}.cls_score.weight", 1601) - 1,
        "num_region_attributes": (
            size(f"{PREDICTOR}.{heads['attribute_classifier']}.weight", 401) - 1 if has_attributes else 0
        ),
    }


def convert_detector(
    source: SourceCheckpoint,
    options: ConversionOptions,
    *,
    kind: str,
    heads: Mapping[str, str],
    settings: Mapping[str, Any],
    shapes: Callable[[str, tuple[int, ...]], tuple[int, ...]],
    reorder: Callable[[str, torch.Tensor], torch.Tensor],
) -> ConvertedCheckpoint:
    """Makes a `ButdRegionModel` of a published detector.

    Args:
        source: The checkpoint.
        options: `vocabulary` may be a text file with the name of a class a line. Those of the attributes are then read
            from the file beside it that has `attributes` instead of `objects` in its name, if there is one.
        kind: What the checkpoint was recognised as, for messages.
        heads: See `published_name`.
        settings: Of `ButdBottomUpConfig`: the variant, and how it selects.
        shapes: Shape in the file of a tensor, from our name and shape.
        reorder: The tensor in our order, from our name and the tensor of the file.

    Raises:
        ConversionError: Tensors are missing, unknown or misshapen, or the vocabulary has another length.
    """
    sizes = bottom_up_config(source.tensors, heads)
    for field, file in vocabulary_files(options.vocabulary).items():
        sizes[field] = read_names(file, sizes[NUMBERS[field]])
    config = ButdConfig(bottom_up_config={**sizes, **settings})
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in ButdRegionModel(config).state_dict().items()}
    names = {name: published_name(name, heads) for name in expected}
    published = {names[name]: shapes(name, shape) for name, shape in expected.items()}
    counters = {name: () for name in source.tensors if name.removesuffix(COUNTER) + ".running_mean" in published}
    check_tensors(source, {**published, **counters}, kind)

    model = ButdRegionModel(config)
    model.load_state_dict({name: reorder(name, source.tensors[names[name]]).float() for name in expected})
    processor = ButdImageProcessor.from_recipe(settings["variant"])
    return ConvertedCheckpoint(model=model, processor=processor, card=card(source, kind))


NUMBERS = {"id2label": "num_region_labels", "id2attribute": "num_region_attributes"}


def vocabulary_files(objects: Path | None) -> dict[str, Path]:
    """Files with the names of classes and attributes, by the field of the config that takes them."""
    if objects is None:
        return {}
    attributes = objects.with_name(objects.name.replace("objects", "attributes"))
    has_attributes = attributes != objects and attributes.is_file()
    return {"id2label": objects, **({"id2attribute": attributes} if has_attributes else {})}


def read_names(file: Path, expected: int) -> dict[int, str]:
    """The lines of a file, by their number from 0."""
    names = file.read_text(encoding="utf-8").splitlines()
    if len(names) != expected:
        raise ConversionError(f"{file} has {len(names)} lines, the checkpoint tells {expected} apart.")
    return {index: name.strip() for index, name in enumerate(names)}


def card(source: SourceCheckpoint, kind: str) -> dict[str, Any]:
    """What the card says of a detector that others trained."""
    return {
        "data": f"Converted from `{source.file.name}`, {kind}. The file doesn't tell what it was trained on; those "
        "that were published learned from Visual Genome.",
        "licence": "That of the weights which were converted: whoever published them decides.",
        "limits": ["The weights were trained elsewhere and converted; nothing was measured again."],
        "template": FOLDER_OF_TEMPLATES / "regions.md.jinja",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["butd_hf", "object-detection", "bottom-up-attention"],
    }
