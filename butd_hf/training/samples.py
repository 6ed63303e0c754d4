# SPDX-License-Identifier: Apache-2.0
"""Samples to train on or to score: rows of a table or stream; broken ones are skipped and counted, or an error."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.utils.data
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from ..data.data_errors import BrokenSampleError
from ..data.region_store import RegionStore


logger = logging.getLogger(__name__)

# a row of a table, random numbers (None where nothing is drawn, in evaluation) and where other samples are -> a sample
Read = Callable[[Any, "np.random.Generator | None", "SampleTable | SampleStream"], dict[str, Any]]
GROUPED_BATCHES = 50  # batches whose samples are sorted by length together


class BrokenSamples:
    """Counts samples that can't be read, in all loader processes together, or stops at the first.

    Args:
        strict: Whether to stop.
    """

    def __init__(self, strict: bool):
        self.strict = strict
        self.counter = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.names: set[Any] = set()

    def __len__(self) -> int:
        return int(self.counter)

    def skip(self, name: Any, error: OSError) -> None:
        """Counts a broken sample, once in each process, with a warning. Raises `BrokenSampleError` if strict."""
        if self.strict:
            raise BrokenSampleError(
                f"{error}. Remove it from the data; without --strict, training skips broken samples."
            ) from error
        if name not in self.names:
            self.names.add(name)
            self.counter += 1
            logger.warning("%s; another sample takes its place (%d broken so far)", error, len(self))


class SampleTable(torch.utils.data.Dataset):
    """Samples by their place in a table. What is random about one depends only on its place, the epoch and the seed.

    Args:
        rows: A table of `datasets`, or any sequence.
        read: Makes a sample of a row. Raises `OSError` that names the row if it can't be read.
        training: Whether samples are random, and broken ones are replaced by the next one.
        store: Regions to read instead of images.
        lengths: Of each sample, to group samples of like lengths in batches.
        seed: Of what is drawn.
        strict: Whether a broken sample is an error in training as well, as it always is in evaluation.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        read: Read,
        *,
        training: bool = False,
        store: RegionStore | None = None,
        lengths: Sequence[int] | None = None,
        seed: int = 0,
        strict: bool = False,
    ):
        self.rows = rows
        self.read = read
        self.training = training
        self.store = store
        self.lengths = lengths
        self.seed = seed
        self.epoch = 0
        self.broken = BrokenSamples(strict or not training)

    def set_epoch(self, epoch: int) -> None:
        """Changes what is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample with its place as `row`; in training, the next one that can be read."""
        rng = np.random.default_rng((self.seed, self.epoch, index)) if self.training else None
        return self.first_whole(index, lambda place: {**self.read(self.rows[place], rng, self), "row": place})

    def first_whole(self, index: int, read: Callable[[int], Any]) -> Any:
        """What `read` makes of a place, or of the next one after it that can be read."""
        for place in range(index, index + len(self)):
            try:
                return read(place % len(self))
            except OSError as error:
                self.broken.skip(place % len(self), error)
                last = error
        raise BrokenSampleError(f"None of the {len(self)} samples can be read, of the last: {last}")


class SampleOrder(torch.utils.data.Sampler):
    """A random order of a table, which depends only on its seed and epoch: a resumed run goes on in the same one.

    Args:
        table: The samples. With `lengths`, samples of like lengths follow one another.
        batch_size: Samples per step.
    """

    def __init__(self, table: SampleTable, batch_size: int):
        self.table = table
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.table.seed, self.table.epoch))
        order = rng.permutation(len(self.table))
        if self.table.lengths is None:
            yield from order.tolist()
            return
        lengths, size = np.asarray(self.table.lengths), self.batch_size * GROUPED_BATCHES
        parts = np.split(order, range(size, len(order), size))
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
        *batches, last = np.split(order, range(self.batch_size, len(order), self.batch_size))
        for number in rng.permutation(len(batches)):
            yield from batches[number].tolist()
        yield from last.tolist()  # it may be a small one, which would shift the others


class SampleStream(torch.utils.data.IterableDataset):
    """Samples of a stream of `datasets` without end: when it ends, it begins anew in another order.

    Shards are shared out among all loader processes of all processes if their number allows, else each takes every
    n-th row. What is read depends only on the seed and on how many share the stream.

    Args:
        rows: The stream, not shuffled, its images not decoded.
        read: Makes a sample of a row, as in `SampleTable`.
        shuffle_buffer: Rows in memory of which the next is drawn; 0 keeps the order.
        process: Which of the processes this is.
        num_processes: That share the stream.
        seed: Of what is drawn.
        strict: Whether a broken sample is an error. Otherwise the next one takes its place.
    """

    store = None

    def __init__(
        self,
        rows: IterableDataset,
        read: Read,
        *,
        shuffle_buffer: int = 1000,
        process: int = 0,
        num_processes: int = 1,
        seed: int = 0,
        strict: bool = False,
    ):
        self.rows = rows
        self.read = read
        self.shuffle_buffer = shuffle_buffer
        self.process = process
        self.num_processes = num_processes
        self.seed = seed
        self.broken = BrokenSamples(strict)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        reader, readers = self.process * workers + number, self.num_processes * workers
        for epoch in count():
            found = False
            for place, row in enumerate(self.pass_over(epoch, reader, readers)):
                rng = np.random.default_rng((self.seed, epoch, reader, place))
                try:
                    sample = self.read(row, rng, self)
                except OSError as error:
                    self.broken.skip(str(error), error)
                    continue
                found = True
                yield sample
            if not found:
                raise BrokenSampleError(f"Reader {reader + 1} of {readers} finds no sample that can be read.")

    def pass_over(self, epoch: int, reader: int, readers: int) -> Iterator[dict[str, Any]]:
        """All rows of one reader, in the order of this pass. Raises `RuntimeError` if the stream breaks off."""
        rows, last = self.rows, ""
        if self.shuffle_buffer:
            rows = rows.shuffle(generator=np.random.default_rng((self.seed, epoch)), buffer_size=self.shuffle_buffer)
        try:
            # batches of one: rows by themselves are shared out among loader processes once more, by `datasets`
            for batch in split_dataset_by_node(rows, reader, readers).iter(batch_size=1):
                row = {name: values[0] for name, values in batch.items()}
                last = f" after {row.get('image_id')}"
                yield row
        except Exception as error:  # readers of all kinds of files raise what they like
            raise RuntimeError(f"The stream broke off{last}: {type(error).__name__}: {error}") from error


__all__ = ["SampleOrder", "SampleStream", "SampleTable"]
