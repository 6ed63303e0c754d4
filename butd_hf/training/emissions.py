# SPDX-License-Identifier: Apache-2.0
"""How much carbon dioxide a run causes, by the estimate of codecarbon, if that is installed."""

import json
import logging
import time
from collections.abc import Callable

from .run_folder import RunFolder, write_json


logger = logging.getLogger(__name__)

UNIT = "kilograms_of_co2_equivalents"
SECONDS_APART = 30.0  # that a killed run may lose of its estimate


class Emissions:
    """
    Adds up what a run causes over all of its sittings, in `emissions.json` of its folder. Only the main process does.

    Nothing happens where codecarbon is missing, and if it fails the training goes on. It asks nobody on the network:
    where the electricity comes from is said by the environment, `CODECARBON_COUNTRY_ISO_CODE=FRA` for France; what
    isn't said is the mean of the world.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.tracker = None
        self.before = 0.0  # kilograms of earlier sittings
        self.written = time.monotonic()

    def start(self) -> None:
        """Starts a sitting."""
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            return
        try:
            if self.folder.emissions.is_file():
                self.before = json.loads(self.folder.emissions.read_text(encoding="utf-8"))[UNIT]
            self.tracker = OfflineEmissionsTracker(save_to_file=False, log_level="error", allow_multiple_runs=True)
            self.tracker.start()
        except Exception as error:  # an estimate is not worth a training
            self.give_up(error)

    def write(self, seconds_apart: float = 0.0) -> None:
        """Writes down what was caused until now, if the last time is so long ago."""
        if self.tracker is not None and time.monotonic() - self.written >= seconds_apart:
            self.note(self.tracker.flush)

    def end(self) -> None:
        """Ends the sitting."""
        if self.tracker is not None:
            self.note(self.tracker.stop)
            self.tracker = None

    def note(self, measure: Callable[[], float | None]) -> None:
        """Writes down what the tracker has measured, in kilograms since the start."""
        try:
            write_json(self.folder.emissions, {UNIT: self.before + (measure() or 0.0)})
            self.written = time.monotonic()
        except Exception as error:
            self.give_up(error)

    def give_up(self, error: Exception) -> None:
        logger.warning("codecarbon can't estimate what this run causes (%s); it goes on without", error)
        self.tracker = None


__all__ = ["SECONDS_APART", "Emissions"]
