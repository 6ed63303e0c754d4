# SPDX-License-Identifier: Apache-2.0
"""Trained checkpoints small enough to come with the package: a pipeline without a `model` uses them, offline."""

from pathlib import Path


DEFAULT_TASKS = (
    "image-to-text",
    "visual-question-answering",
    "scene-graph-generation",
    "object-detection",
    "image-segmentation",
)


def checkpoint_folder(task: str) -> Path:
    """Where the embedded checkpoint of a task belongs, whether it is there or not."""
    return Path(__file__).parent / task


def default_checkpoint(task: str) -> str:
    """The folder of the checkpoint that comes with this package for a task.

    Its weights are stored as float16 to keep the package small, while its config says `"dtype": "float32"`:
    `pipeline(...)` and `from_pretrained(...)`, whose default is `dtype="auto"`, compute in float32. Pass another
    `dtype` for less memory on an accelerator.

    Args:
        task: Name of a pipeline task: `"image-to-text"`, `"object-detection"`, `"image-segmentation"`,
            `"visual-question-answering"` or `"scene-graph-generation"`.

    Raises:
        ValueError: If the package has no default for this task.
        FileNotFoundError: If it should have, but the folder is missing.
    """
    if task not in DEFAULT_TASKS:
        raise ValueError(
            f"there is no default checkpoint for {task!r}, only for {', '.join(map(repr, sorted(DEFAULT_TASKS)))}."
        )
    folder = checkpoint_folder(task)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"the checkpoint for {task!r} is missing from {folder}. Reinstall butd_hf from a wheel, which carries it, "
            "or pass a model of your own: pipeline(task, model=...)."
        )
    return str(folder)
