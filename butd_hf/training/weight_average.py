# SPDX-License-Identifier: Apache-2.0
"""A moving average of the weights, which is evaluated and saved instead of them, and survives a resume."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback


AVERAGE_FILE = "weights_in_training.pt"  # in a checkpoint whose model is the average


class WeightAverage(TrainerCallback):
    """An exponential moving average of the weights, which forgets its random beginnings fast.

    Args:
        decay: In (0, 1). Of the first steps, n by n, it is at most (1 + n) / (10 + n).
    """

    def __init__(self, decay: float):
        if not 0.0 < decay < 1.0:
            raise ValueError(f"ema_decay must be in (0, 1), or 0 for no average, got {decay}.")
        self.decay = decay
        self.average: AveragedModel | None = None

    def begin(self, model: nn.Module) -> None:
        """Makes an average of the model as it is."""
        self.average = AveragedModel(model, multi_avg_fn=self.update).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, averaged: list[torch.Tensor], current: list[torch.Tensor], num_averaged: Any) -> None:
        updates = float(num_averaged)
        torch._foreach_lerp_(averaged, current, 1.0 - min(self.decay, (1.0 + updates) / (10.0 + updates)))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if self.average is None:  # not resumed
            self.begin(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.average.update_parameters(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        if self.average is not None:  # the best model wasn't loaded, which is an average already
            exchange(model, self.average.module)
            self.average = None

    @contextlib.contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within it, the model has the averaged weights."""
        average = self.average
        if average is not None:
            exchange(model, average.module)
        try:
            yield
        finally:
            if average is not None:
                exchange(model, average.module)

    def save(self, model: nn.Module, folder: str | Path) -> None:
        """Writes the weights in training beside the averaged ones of a checkpoint."""
        state = {"weights": model.state_dict(), "n_averaged": self.average.n_averaged}
        torch.save(state, Path(folder) / AVERAGE_FILE)

    def load(self, model: nn.Module, folder: str | Path) -> None:
        """Goes on from a checkpoint, whose averaged weights the model has."""
        file = Path(folder) / AVERAGE_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"No {AVERAGE_FILE} in {folder}: it was saved without --ema_decay, resume without it."
            )
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.begin(model)
        self.average.n_averaged.copy_(state["n_averaged"])
        model.load_state_dict(state["weights"])


def exchange(model: nn.Module, other: nn.Module) -> None:
    """Exchanges the weights of two models of one kind."""
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        parameter.data, twin.data = twin.data, parameter.data


__all__ = ["WeightAverage"]
