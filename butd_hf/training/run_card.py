# SPDX-License-Identifier: Apache-2.0
"""The model card that a run writes beside its best weights."""

from pathlib import Path
from typing import Any

from ..cards import write_card
from ..metrics.names import is_overall
from .run_folder import RunFolder
from .task import Task


LICENCE = "Not stated yet: name the licence of these weights, and what those of the data and of the backbone ask for."


def write_run_card(folder: Path, run: RunFolder, task: Task, metrics: dict[str, float], epoch: int) -> None:
    """
    Writes `README.md` beside saved weights, from what the run knows; what only people know, it says is missing.

    Args:
        folder: The weights, with their config.
        run: Whose settings and versions are told.
        task: Says what it is by its `card`; nothing is written for one that says nothing.
        metrics: Of the evaluation that chose the weights. Measures of single classes and losses are left out.
        epoch: That the evaluation followed.
    """
    about = task.card()
    if about is None or not (folder / "model.safetensors").is_file():
        return
    settings = task.settings()
    named = settings.get("data", "the data")
    source = ", ".join(Path(str(each)).name for each in (named if isinstance(named, list) else [named]))
    told = {name: value for name, value in metrics.items() if is_overall(name) and value == value}
    evaluation: dict[str, Any] = {**about.pop("evaluation"), "split": settings.get("eval_split"), "epoch": epoch}
    write_card(
        folder,
        name=run.path.resolve().name,
        data=f"`{source}`: {about.pop('learned_from')}. Say here what that is, who made it, and who is in it.",
        dataset=source,
        licence=LICENCE,
        runs=[run.path],
        evaluation={**evaluation, "metrics": told},
        **about,
    )


__all__ = ["write_run_card"]
