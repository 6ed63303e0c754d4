# SPDX-License-Identifier: Apache-2.0
"""What a run says: to the console, to its metrics file and to trackers; and what it causes."""

from typing import Any

from accelerate import Accelerator
from rich.console import Console

from .arguments import LoopArguments
from .curves import draw_curves
from .emissions import SECONDS_APART, Emissions
from .run_folder import RunFolder
from .trackers import start_trackers, track


class Journal:
    """
    Writes down how a run goes. Every process calls it; the main one writes.

    Args:
        folder: Of the run.
        accelerator: Whose trackers are told, too.
    """

    def __init__(self, folder: RunFolder, accelerator: Accelerator):
        self.folder = folder
        self.accelerator = accelerator
        self.emissions = Emissions(folder)
        self.console = Console(stderr=True)

    def start(self, arguments: LoopArguments, task_settings: dict[str, Any], step: int) -> None:
        """Starts the trackers at a step."""
        settings = {"loop": vars(arguments), "task": task_settings}
        start_trackers(self.accelerator, self.folder.path, settings, step)
        if self.accelerator.is_main_process:
            self.emissions.start()

    def log(self, event: str, *, epoch: float, step: int, **values: Any) -> None:
        """A line in the metrics file; trackers get its numbers."""
        if self.accelerator.is_main_process:
            self.folder.log(event, epoch=epoch, step=step, **values)
            self.emissions.write(SECONDS_APART if event == "training" else 0.0)  # the card after it tells them
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        track(self.accelerator, event, step, numbers)

    def draw(self, metric_for_best: str) -> None:
        """Draws the curves anew."""
        if self.accelerator.is_main_process:
            draw_curves(self.folder.metrics_file, self.folder.curves, metric_for_best)

    def say(self, line: str) -> None:
        """A line on the console of the main process."""
        if self.accelerator.is_main_process:
            self.console.print(line, highlight=False, soft_wrap=True)

    def warn(self, line: str) -> None:
        """A line on the console of this process, whichever it is: the main one may be the one that died."""
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def end(self) -> None:
        """Closes the trackers and the account of what was caused."""
        self.emissions.end()
        if self.accelerator.log_with:
            self.accelerator.end_training()


__all__ = ["Journal"]
