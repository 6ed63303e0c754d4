# SPDX-License-Identifier: Apache-2.0
"""Progress bars of long runs: what is done, how fast, and how long it will take."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class ImagesPerSecond(ProgressColumn):
    """Speed in completed units per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "- images/s", style="progress.data.speed")


def images_progress(enabled: bool = True, console: Console | None = None) -> Progress:
    """A bar that counts images, with speed and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        ImagesPerSecond(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=not enabled,
    )


def steps_progress(enabled: bool = True, console: Console | None = None) -> Progress:
    """A bar that counts training steps; its task has the fields `loss`, `learning_rate` and `images_per_second`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("lr {task.fields[learning_rate]:.1e}"),
        TextColumn("{task.fields[images_per_second]:.1f} images/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console or Console(stderr=True),
        disable=not enabled,
    )
