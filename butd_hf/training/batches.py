# SPDX-License-Identifier: Apache-2.0
"""The order in which training meets its examples."""

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Sampler

from .task import Task


GROUP_BATCHES = 16  # shuffled together, then sorted by size: more would save little and meet less variety


class EpochBatches(Sampler[list[int]]):
    """
    Batches of indices whose order depends only on the seed and the epoch, and that can start in the middle.

    With several processes, batch `i` goes to process `i % num_processes`. The epoch is then filled up with its own
    first examples, so that every process has as many full batches.

    Args:
        size: Number of examples.
        batch_size: Examples per batch; the last batch of a single process may be smaller.
        seed: Of the order.
        num_processes: Processes that share the batches.
        sizes: How large each example is. Examples of similar size, of those that are near in the shuffled order, then
            make a batch, which wastes less on padding; batches come in a shuffled order.
    """

    def __init__(
        self, size: int, batch_size: int, seed: int, num_processes: int = 1, sizes: Sequence[int] | None = None
    ):
        if size < 1:
            raise ValueError("There is nothing to train on: the data set is empty.")
        self.size = size
        self.batch_size = batch_size
        self.drop_last = False  # accelerate asks
        self.seed = seed
        self.num_processes = num_processes
        self.sizes = sizes
        self.epoch = 0
        self.start = 0

    @property
    def batches_per_process(self) -> int:
        """Batches of a whole epoch that each process gets."""
        return -(-self.size // (self.batch_size * self.num_processes))

    def begin(self, epoch: int, consumed: int = 0) -> None:
        """Moves to an epoch of which each process has consumed some batches already."""
        self.epoch = epoch
        self.start = consumed * self.num_processes

    def loader(self, task: Task, accelerator: Accelerator, num_workers: int) -> DataLoader:
        """What the training loop reads the task's examples with."""
        loader = DataLoader(
            task.train_dataset,
            batch_sampler=self,
            collate_fn=task.collate,
            num_workers=num_workers,
            # its own generator: making an iterator must not advance the one that dropout draws from
            generator=torch.Generator().manual_seed(self.seed),
        )
        return accelerator.prepare(loader)

    def __len__(self) -> int:
        return -(-self._padded_size() // self.batch_size) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        if self.sizes is not None:
            order = self._grouped(order, generator)
        padded_size = self._padded_size()
        while len(order) < padded_size:
            order += order[: padded_size - len(order)]
        for begin in range(self.start * self.batch_size, padded_size, self.batch_size):
            yield order[begin : begin + self.batch_size]

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """The same examples, each batch of similar sizes; the one that isn't full stays last."""
        sizes = self.sizes or ()
        group = GROUP_BATCHES * self.batch_size
        groups = [sorted(order[begin : begin + group], key=sizes.__getitem__) for begin in range(0, self.size, group)]
        order = [index for each in groups for index in each]
        full = self.size // self.batch_size
        batches = torch.randperm(full, generator=generator).tolist()
        places = [batch * self.batch_size + place for batch in batches for place in range(self.batch_size)]
        return [order[place] for place in places] + order[full * self.batch_size :]

    def _padded_size(self) -> int:
        if self.num_processes == 1:
            return self.size
        return self.batches_per_process * self.batch_size * self.num_processes
