# SPDX-License-Identifier: Apache-2.0
"""What is wrong with data: an error where nothing may be wrong; otherwise left out, counted and named in the log."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


logger = logging.getLogger(__name__)

LISTED_FILES = 10  # missing files that a message names before it only counts
LISTED_PLACES = 3  # the same of annotations


class DataError(ValueError):
    """Data that cannot be used: the message names the place, what came and what was expected."""


class BrokenSampleError(OSError, ValueError):
    """A sample that cannot be used. As with an unreadable file, an `OSError`, training may skip it."""


@dataclass
class ErrorCounter:
    """Counts what was wrong with annotations, and was left out or corrected.

    Attributes:
        strict: Whether the first of them raises `DataError` instead.
    """

    strict: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)  # the first few of each kind

    def count(self, what: str, place: str, outcome: str = "left out", harmless: bool = False) -> None:
        """Counts one, and what was done with it. Raises `DataError` if strict, unless it is harmless."""
        if self.strict and not harmless:
            raise DataError(f"{place}: {what}.")
        what = f"{what}, {outcome}"
        self.counts[what] += 1
        if self.counts[what] <= LISTED_PLACES:
            self.places.setdefault(what, []).append(place)

    def log(self) -> None:
        """Logs a warning for each kind, with the number and the first places."""
        for what, count in self.counts.items():
            more = f" and {count - LISTED_PLACES} more" if count > LISTED_PLACES else ""
            logger.warning("%d %s: %s%s", count, what, "; ".join(self.places[what]), more)


def require_files(paths: Iterable[str], place: object, required: bool = True) -> None:
    """Checks that image files exist, before training starts and not in its third epoch.

    Args:
        paths: Of the files.
        place: The file that names them, for the message.
        required: Whether each must exist. Otherwise a warning counts and names those that don't.

    Raises:
        DataError: Files are missing and required, or all of them are missing.
    """
    paths = list(dict.fromkeys(paths))
    missing = [path for path in paths if not Path(path).is_file()]
    if not missing:
        return
    rest = f"\n  and {len(missing) - LISTED_FILES} more" if len(missing) > LISTED_FILES else ""
    listed = "\n  ".join(missing[:LISTED_FILES])
    message = (
        f"{place}: {len(missing)} of {len(paths)} image files are missing; is the images folder right?"
        f"\n  {listed}{rest}"
    )
    if required or len(missing) == len(paths):
        raise DataError(message)
    logger.warning("%s", message)


__all__ = ["BrokenSampleError", "DataError", "ErrorCounter", "require_files"]
