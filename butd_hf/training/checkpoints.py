# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are either whole or not there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator


COMPLETE_FILE = "complete.json"  # written last: a folder without it is not a checkpoint
STATE_PREFIX = "step-"


def save_state(accelerator: Accelerator, folder: Path, step: int) -> Path:
    """
    Saves everything that training continues from as `folder/step-<step>`, then removes older states.

    Called by every process. The state is written to a temporary folder, flushed and renamed, so that at any moment
    the newest complete state is whole.
    """
    target = folder / f"{STATE_PREFIX}{step:09d}"
    unfinished = target.with_suffix(".unfinished")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        # PyTorch's format: safetensors would drop one of two tied tensors, with a warning each time
        accelerator.save_state(str(unfinished), safe_serialization=False)
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)  # if the disk is full, half a state is in the way
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        finish(unfinished, {"step": step, "num_processes": accelerator.num_processes})
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
        flush_folder(folder)
        for other in folder.iterdir():
            if other != target:
                shutil.rmtree(other, ignore_errors=True)
    accelerator.wait_for_everyone()
    return target


def latest_state(folder: Path) -> Path | None:
    """The newest complete state in `folder`; half-written ones are passed over."""
    if not folder.is_dir():
        return None
    states = [state for state in folder.glob(f"{STATE_PREFIX}*") if not state.suffix and is_complete(state)]
    return max(states, key=lambda state: state.name, default=None)


def is_complete(folder: Path) -> bool:
    """Whether the folder was finished, and still has every file at its size."""
    try:
        files = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def replace_folder(target: Path, write: Callable[[Path], None], description: dict) -> None:
    """
    Writes a folder beside `target` and puts it in its place. Called by the main process only.

    Args:
        target: Folder to replace, or to make.
        write: Fills the folder whose path it gets.
        description: Written into the folder when it is complete.
    """
    unfinished = target.with_name(f"{target.name}.unfinished")
    previous = target.with_name(f"{target.name}.previous")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        finish(unfinished, description)
    except Exception:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        target.rename(previous)
    unfinished.rename(target)
    flush_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Undoes a replacement that was interrupted between its two renames, and clears away what it left."""
    previous = target.with_name(f"{target.name}.previous")
    if previous.exists() and not target.exists():
        previous.rename(target)
    shutil.rmtree(previous, ignore_errors=True)
    shutil.rmtree(target.with_name(f"{target.name}.unfinished"), ignore_errors=True)


def finish(folder: Path, description: dict) -> None:
    """
    Flushes every file of the folder to disk, and only then marks the folder as complete.

    Raises:
        FileNotFoundError: The folder is empty: somebody removed its files meanwhile.
    """
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with open(file, "rb") as opened:
                os.fsync(opened.fileno())
            files[file.relative_to(folder).as_posix()] = file.stat().st_size
    if not files:
        raise FileNotFoundError(f"Nothing was written to {folder}, or it was removed meanwhile.")
    with open(folder / COMPLETE_FILE, "w", encoding="utf-8") as opened:
        json.dump({**description, "files": files}, opened, indent=2)
        opened.flush()
        os.fsync(opened.fileno())
    flush_folder(folder)


def flush_folder(folder: Path) -> None:
    """Flushes the folder's list of names, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows does not open folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
