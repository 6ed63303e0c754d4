# SPDX-License-Identifier: Apache-2.0
"""What is wrong with data: an error if nothing may be, else left out, counted and named."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


logger = logging.getLogger(__name__)

LISTED_FILES = 10  # missing files that a message names before it only counts
LISTED_PLACES = 3  # the same of annotations


class BrokenSampleError(OSError, ValueError):
    """A sample that nobody can learn from. Like an unreadable file, which is an `OSError`, training may pass it by."""


@dataclass
class Flaws:
    """
    What was wrong with annotations, and was left out or mended.

    Attributes:
        error: What is raised, with the place, where nothing may be wrong.
        strict: Whether nothing may be.
    """

    error: type[ValueError]
    strict: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)

    def note(self, flaw: str, place: str, outcome: str = "left out", harmless: bool = False) -> None:
        """Counts a flaw, and what was done about it. Raises `error` if strict, unless it is harmless."""
        if self.strict and not harmless:
            raise self.error(f"{place}: {flaw}.")
        flaw = f"{flaw}, {outcome}"
        self.counts[flaw] = self.counts.get(flaw, 0) + 1
        places = self.places.setdefault(flaw, [])
        if len(places) < LISTED_PLACES:
            places.append(place)

    def report(self) -> None:
        """A line in the log for each kind of flaw."""
        for flaw, count in self.counts.items():
            more = f" and {count - LISTED_PLACES} more" if count > LISTED_PLACES else ""
            logger.warning("%d %s: %s%s", count, flaw, "; ".join(self.places[flaw]), more)


def require_files(paths: Iterable[str], place: object, error: type[ValueError], required: bool = True) -> None:
    """
    Looks for image files now: better than in the third epoch.

    Args:
        paths: Of the files.
        place: Who names them.
        error: What is raised if files are missing, with their names: if all of them are, or if they are required.
        required: Whether each must be there. Otherwise a warning counts and names those that aren't.
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
        raise error(message)
    logger.warning("%s", message)


__all__ = ["BrokenSampleError", "Flaws", "require_files"]
