# SPDX-License-Identifier: Apache-2.0
"""What a task brings to the training loop."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn


class Task(ABC):
    """
    A model with its data and its measure of success; the loop does the rest.

    Attributes:
        model: The model to train. What must stay as it is has `requires_grad` off.
        train_dataset: A map-style data set. If it has `set_epoch(epoch)`, the loop calls that before each epoch; an
            example may depend on nothing but its index, the epoch and a seed, or runs can't be resumed exactly. Or an
            `ExampleStream`.
        counts_over_processes: Whether the model divides its losses by counts over all processes, as those do that
            know only on the way what they count.
    """

    model: nn.Module
    train_dataset: Any
    counts_over_processes: bool = False

    @property
    def backbone(self) -> nn.Module | None:
        """The pretrained part, which learns at its own rate and keeps its batch norm statistics; None without one."""
        return None

    def settings(self) -> dict[str, Any]:
        """What describes the task in the run's `arguments.json`."""
        return {}

    def card(self) -> dict[str, Any] | None:
        """
        What a model card says of the task: the arguments `task` and `evaluation` of `butd_hf.cards.write_card`, and
        `learned_from`, how many examples of what. None if there is no card for it.
        """
        return None

    def example_sizes(self) -> list[int] | None:
        """How large each example of the training set is, to put those of similar size into one batch; None: don't."""
        return None

    @abstractmethod
    def collate(self, examples: list[Any]) -> dict[str, torch.Tensor]:
        """A batch of the model's inputs, made in a loader process."""

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The scalar to minimise as `loss`, and any parts of it worth logging."""
        outputs = model(**batch)
        return {"loss": outputs.loss, **(getattr(outputs, "loss_dict", None) or {})}

    def loss_weight(self, batch: dict[str, torch.Tensor]) -> int:
        """
        What the loss is a mean over, such as the words of a batch; alike for every batch unless told otherwise.

        The batches of a step, of one process or of several, are weighed by it: they teach what one batch of all
        their examples teaches.
        """
        return 1

    def num_images(self, batch: dict[str, torch.Tensor]) -> int:
        """Images in a batch, of which each may have several texts."""
        return min(len(value) for value in batch.values() if torch.is_tensor(value))

    @abstractmethod
    def evaluate(self, model: nn.Module, accelerator: Accelerator, folder: Path, epoch: int) -> dict[str, float]:
        """
        Measures a model in evaluation mode.

        Every process calls it, does its share and returns the same numbers; only the main process writes, into
        `folder`.
        """

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes all that inference needs into `folder`. Called by the main process."""
        model.save_pretrained(folder)
