# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and devices, as the commands name them."""

from typing import Any

import torch
import typer
from transformers import PreTrainedConfig


def choose_device(device: str) -> torch.device:
    """The device that the user means, `auto` being the fastest. Raises `typer.BadParameter` if it isn't there."""
    try:
        chosen = torch.device(best_device() if device == "auto" else device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise typer.BadParameter(f"no such device here: {device!r} ({error})", param_hint="--device") from error
    return chosen


def best_device() -> str:
    """The fastest kind of device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_checkpoint(
    name: str | None, device: str, task: str, model_class: Any = None, processor_class: Any = None
) -> tuple[str, Any, Any]:
    """
    Loads a model in evaluation mode, on its device, and its processor.

    Args:
        name: Folder or Hub name; the package's default for the task if None.
        device: As `choose_device` takes it.
        task: Whose default is meant.
        model_class: What the model must be; whatever the checkpoint says by default.
        processor_class: Of its processor; the image processor by default.

    Returns:
        The name of the checkpoint, the model and the processor.

    Raises:
        typer.BadParameter: If there is none, it is another kind of model, or there is no such device.
    """
    import butd_hf

    chosen = choose_device(device)
    try:
        name = str(butd_hf.default_checkpoint(task)) if name is None else name
        config = PreTrainedConfig.get_config_dict(name)[0]
        kind, architectures = config.get("model_type"), config.get("architectures") or ["ButdModel"]
        if kind != "butd":
            raise ValueError(f"it is a {kind!r} model, expected 'butd'.")
        if model_class is not None and model_class.__name__ not in architectures and task != "image-to-text":
            raise ValueError(f"it holds a {architectures[0]}, expected a {model_class.__name__}.")
        model_class = model_class or getattr(butd_hf, architectures[0])
        model = model_class.from_pretrained(name)
        processor = (processor_class or butd_hf.ButdImageProcessor).from_pretrained(name)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise typer.BadParameter(f"cannot load {name or 'the default'}: {error}", param_hint="--model") from error
    if chosen.type == "cpu" and model.dtype == torch.float16:
        model.float()  # halves are slow on CPUs
    model.eval().to(chosen)
    # convolutions are faster with channels last, on CPUs above all
    model.base_model.bottom_up.to(memory_format=torch.channels_last)
    return name, model, processor
