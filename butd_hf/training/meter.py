# SPDX-License-Identifier: Apache-2.0
"""Means and speeds since the last line in the log."""

import time


class Meter:
    """Collects what happened in training steps until it is cleared."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Starts anew, from now."""
        self.started = time.monotonic()
        self.sums: dict[str, float] = {}
        self.batches = 0
        self.images = 0
        self.steps = 0

    def update(self, losses: dict[str, float], num_images: int) -> None:
        """Counts a batch."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.batches += 1
        self.images += num_images

    def means(self) -> dict[str, float]:
        """The mean of each loss over the batches."""
        return {name: total / max(self.batches, 1) for name, total in self.sums.items()}

    @property
    def seconds(self) -> float:
        """Time since the start; never zero, so that it can be divided by."""
        return max(time.monotonic() - self.started, 1e-9)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def seconds_per_step(self) -> float:
        return self.seconds / max(self.steps, 1)
