# SPDX-License-Identifier: Apache-2.0
"""Examples by their place in a table, the broken ones passed over or an error."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch.utils.data

from ..data.data_errors import BrokenSampleError


logger = logging.getLogger(__name__)

Example = TypeVar("Example")


class BrokenSamples:
    """
    Counts samples that can't be read, or stops at the first.

    Args:
        strict: Whether to stop.
    """

    def __init__(self, strict: bool):
        self.strict = strict
        self.keys: set[Any] = set()

    def pass_over(self, key: Any, error: OSError) -> None:
        """Warns of a broken sample, once in each process. Raises `BrokenSampleError` if strict."""
        if self.strict:
            raise BrokenSampleError(
                f"{error}. Remove it from the data; samples to learn from are passed over without --strict."
            ) from error
        if key not in self.keys:
            self.keys.add(key)
            logger.warning("%s; another takes its place, it is the %d. so far", error, len(self.keys))


class ExampleTable(torch.utils.data.Dataset, ABC, Generic[Example]):
    """
    A map-style data set. An example depends only on its index, the epoch and the seed.

    Args:
        seed: Of what is drawn.
        strict: Whether a sample that can't be read is an error. Otherwise the next one takes its place, with a
            warning that names it and counts.
    """

    def __init__(self, *, seed: int = 0, strict: bool = True):
        self.seed = seed
        self.epoch = 0
        self.broken = BrokenSamples(strict)

    def set_epoch(self, epoch: int) -> None:
        """Changes what is drawn."""
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def read(self, index: int) -> Example:
        """The example. Raises `OSError` that names the sample if it can't be read."""

    def __getitem__(self, index: int) -> Example:
        """The example, or if it is broken and need not be whole the next one that is not."""
        return self.first_whole(index, self.read)

    def first_whole(self, index: int, read: Callable[[int], Any]) -> Any:
        """What `read` makes of the sample at a place, or of the next one after it that can be read."""
        for place in range(index, index + len(self)):
            try:
                return read(place % len(self))
            except OSError as error:
                self.broken.pass_over(place % len(self), error)
                last = error
        raise BrokenSampleError(f"None of the {len(self)} samples can be read, of the last: {last}")


__all__ = ["BrokenSamples", "ExampleTable"]
