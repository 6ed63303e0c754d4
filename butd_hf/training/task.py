# SPDX-License-Identifier: Apache-2.0
"""What the trainer asks of a task: how rows become batches, and what a model's outputs are worth."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn


class Task(ABC):
    """One of the five tasks.

    Attributes:
        name: Its pipeline, as cards name it.
        processor: Prepares inputs, as it will at inference; saved with the model.
    """

    name: str
    processor: Any

    @abstractmethod
    def read(self, row: Any, rng: np.random.Generator | None, source: Any) -> dict[str, Any]:
        """A sample of a row.

        Args:
            row: Of a table or stream.
            rng: What is random in training; None in evaluation.
            source: The `SampleTable` or `SampleStream` that it is from, with its `store` of regions.

        Raises:
            OSError: It can't be read; the message names it.
        """

    @abstractmethod
    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the model takes, with labels."""

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """What the trainer takes: a batch with the places of its samples as `rows`."""
        rows = [sample["row"] for sample in samples if "row" in sample]
        return {**self.collate(samples), **({"rows": rows} if rows else {})}

    @abstractmethod
    def predict(self, model: nn.Module, outputs: Any, rows: Sequence[Any], **options: Any) -> list[Any]:
        """What the model says of each sample of a batch, given its outputs; plain objects."""

    @abstractmethod
    def score(self, predictions: Sequence[Any], rows: Sequence[Any]) -> dict[str, float]:
        """Metrics of all predictions, given the rows that they are about."""

    @abstractmethod
    def line(self, prediction: Any, row: Any) -> dict[str, Any]:
        """A prediction in words, with what people said, as JSON takes it."""


__all__ = ["Task"]
