# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and devices, as the commands name them."""

from typing import Any

import torch
import typer
from transformers import PreTrainedConfig


# the model of each task, and whether it has a tokenizer
MODELS = {
    "image-to-text": ("ButdForConditionalGeneration", True),
    "visual-question-answering": ("ButdForQuestionAnswering", True),
    "object-detection": ("ButdForObjectDetection", False),
    "image-segmentation": ("ButdForInstanceSegmentation", False),
    "scene-graph-generation": ("ButdForSceneGraphGeneration", False),
}


def choose_device(device: str) -> torch.device:
    """The device that the user means, `auto` being the fastest. Raises `typer.BadParameter` if it isn't there."""
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(best if device == "auto" else device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise typer.BadParameter(f"no such device here: {device!r} ({error})", param_hint="--device") from error
    return chosen


def load_checkpoint(name: str | None, device: str, task: str, *, any_model: bool = False) -> tuple[str, Any, Any]:
    """Loads a model in evaluation mode, on its device, and its processor.

    Args:
        name: Folder or Hub name; the package's default for the task if None.
        device: As `choose_device` takes it.
        task: The task that the model must have been trained for.
        any_model: Whether to load whatever model the checkpoint says, and its image processor.

    Returns:
        The name of the checkpoint, the model and the processor, which for tasks without text is the image processor.

    Raises:
        typer.BadParameter: If there is none, it is another kind of model, or there is no such device.
    """
    import butd_hf

    chosen = choose_device(device)
    expected, has_text = MODELS[task]
    try:
        name = butd_hf.default_checkpoint(task) if name is None else name
        config = PreTrainedConfig.get_config_dict(name)[0]
        kind, architecture = config.get("model_type"), (config.get("architectures") or ["ButdModel"])[0]
        if kind != "butd":
            raise ValueError(f"it is a {kind!r} model, expected 'butd'.")
        if not any_model and architecture != expected:
            raise ValueError(f"it holds a {architecture}, expected a {expected}.")
        processor_class = butd_hf.ButdProcessor if has_text and not any_model else butd_hf.ButdImageProcessor
        model = getattr(butd_hf, architecture).from_pretrained(name)
        processor = processor_class.from_pretrained(name)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise typer.BadParameter(f"cannot load {name or 'the default'}: {error}", param_hint="--model") from error
    if chosen.type == "cpu" and model.dtype == torch.float16:
        model.float()  # halves are slow on CPUs
    model.eval().to(chosen)
    # convolutions are faster with channels last, on CPUs above all
    model.base_model.bottom_up.to(memory_format=torch.channels_last)
    return name, model, processor
