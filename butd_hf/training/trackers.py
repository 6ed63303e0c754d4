# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers by accelerate: TensorBoard, Weights & Biases and others that it knows."""

import math
import uuid
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType


PROJECT = "butd_hf"  # name under which trackers group runs
TRACKERS_FOLDER = "trackers"  # of the run folder, for trackers that write files


def require_trackers(names: list[str]) -> None:
    """
    Checks that accelerate knows the trackers and that their packages are installed: it would pass over them silently.

    Raises:
        ValueError: Names an unknown tracker.
        ImportError: Names the package to install.
    """
    known = [str(each) for each in LoggerType if each != LoggerType.ALL]
    available = {str(each) for each in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ValueError(f"report_to must be some of {known}, got {name!r}.")
        if name not in available:
            raise ImportError(f"report_to has {name!r}, whose package is not installed: pip install {name}")


def start_trackers(accelerator: Accelerator, folder: Path, settings: dict[str, Any], step: int) -> None:
    """
    Starts the accelerator's trackers, if it has any. Called by every process.

    A resumed run goes on in the same TensorBoard folder and in the same run of Weights & Biases.

    Args:
        accelerator: Made with `log_with`.
        folder: The run folder.
        settings: Nested settings of the run, which trackers show as one flat table.
        step: That the run starts at; what an interrupted run logged after it is dropped.
    """
    if not accelerator.log_with:
        return
    names = {str(each) for each in accelerator.log_with}
    own: dict[str, Any] = {}
    if "tensorboard" in names:
        own["tensorboard"] = {"purge_step": step + 1 if step else None}
    if "wandb" in names and accelerator.is_main_process:
        place = str(folder / TRACKERS_FOLDER)
        own["wandb"] = {"name": folder.resolve().name, "id": wandb_id(folder), "resume": "allow", "dir": place}
    accelerator.init_trackers(PROJECT, config=flat(settings), init_kwargs=own)


def wandb_id(folder: Path) -> str:
    """An id for the run, kept in its folder, so that it is the same after a resumption and nobody else's."""
    file = folder / TRACKERS_FOLDER / "wandb-id.txt"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
    return file.read_text(encoding="utf-8")


def track(accelerator: Accelerator, event: str, step: int, values: dict[str, float]) -> None:
    """Tells the trackers numbers as `event/name`; what is not finite is left out."""
    numbers = {f"{event}/{name}": value for name, value in values.items() if math.isfinite(value)}
    if accelerator.log_with and numbers:
        accelerator.log(numbers, step=step)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner`, with values of the kinds that trackers take."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found.update(flat(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return found


__all__ = ["require_trackers", "start_trackers", "track"]
