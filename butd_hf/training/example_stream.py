# SPDX-License-Identifier: Apache-2.0
"""Examples read one after another, of which nobody knows how many there are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.utils.data
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from ..data.data_errors import BrokenSampleError
from .arguments import LoopArguments
from .example_table import BrokenSamples
from .task import Task


Example = TypeVar("Example")

# how often a reader has been through its share of the data, and rows of it that it has read since
Place = tuple[int, int]
BEGINNING: Place = (0, 0)


class ExampleStream(ABC, Generic[Example]):
    """
    Rows of a stream of `datasets`, made examples. When it ends it begins anew, in another order.

    What is read depends only on the seed and on how many readers share the stream: shards are shared out among them
    if their number allows, otherwise each takes every n-th row. An example depends only on that and its place.

    Args:
        rows: The stream, not shuffled, its pictures not decoded.
        shuffle_buffer: Rows kept in memory by each reader, of which the next is drawn; shards change their order,
            too. 0 leaves everything in the order in which it comes.
        seed: Of what is drawn.
        strict: Whether a sample that can't be read is an error. Otherwise the next one takes its place, with a
            warning that names it and counts.
    """

    def __init__(self, rows: IterableDataset, *, shuffle_buffer: int = 1000, seed: int = 0, strict: bool = True):
        self.rows = rows
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.broken = BrokenSamples(strict)

    @abstractmethod
    def read(self, row: dict[str, Any], rng: np.random.Generator) -> Example:
        """The example of a row. Raises `OSError` that names the sample if it can't be read."""

    def examples(self, reader: int, num_readers: int, start: Place = BEGINNING) -> Iterator[tuple[Place, Example]]:
        """
        The examples of one of the readers without end, each with its reader's place after it.

        What comes before `start` is read again, but not decoded: a buffer of shuffled rows can't be restored.

        Raises:
            BrokenSampleError: A sample can't be read, with `strict`; or none can.
            RuntimeError: The stream itself can't be read, such as a damaged archive.
        """
        rounds, done = start
        while True:
            empty = True
            for row_number, row in enumerate(self.round(rounds, reader, num_readers)):
                if row_number < done:
                    empty = False
                    continue
                try:
                    example = self.read(row, np.random.default_rng((self.seed, rounds, reader, row_number)))
                except OSError as error:
                    self.broken.pass_over(str(error), error)
                    continue
                empty = False
                yield (rounds, row_number + 1), example
            if empty:
                raise BrokenSampleError(f"Reader {reader + 1} of {num_readers} finds no sample that can be read.")
            rounds, done = rounds + 1, 0

    def round(self, number: int, reader: int, num_readers: int) -> Iterator[dict[str, Any]]:
        """All rows of a reader, in the order of this time through the data."""
        rows = self.rows
        if self.shuffle_buffer:
            generator = np.random.default_rng((self.seed, number))  # the same for all who share the stream
            rows = rows.shuffle(generator=generator, buffer_size=self.shuffle_buffer)
        row: dict[str, Any] = {}
        try:
            # batches of one: `datasets` shares out what it iterates over by row to loader processes in its own way
            for batch in split_dataset_by_node(rows, reader, num_readers).iter(batch_size=1):
                row = {name: values[0] for name, values in batch.items()}
                yield row
        except Exception as error:  # readers of all kinds of files raise what they like
            after = f" after {row['image_id']}" if "image_id" in row else ""
            raise RuntimeError(f"The stream broke off{after}: {type(error).__name__}: {error}") from error


class StreamBatches(torch.utils.data.IterableDataset):
    """
    Batches of a stream without end: which of the process's readers made it, the place after it, and the examples.

    Args:
        stream: The examples.
        batch_size: Of each batch.
        process: Which of the processes this is.
        num_processes: That share the stream.
        places: Where the readers of this process go on.
        turn: Whose batch is next.
    """

    def __init__(
        self,
        stream: ExampleStream,
        batch_size: int,
        process: int,
        num_processes: int,
        places: dict[int, Place],
        turn: int,
    ):
        self.stream = stream
        self.batch_size = batch_size
        self.process = process
        self.num_processes = num_processes
        self.places = places
        self.turn = turn

    def __iter__(self) -> Iterator[tuple[int, Place, list[Any]]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        own = (number + self.turn) % workers  # the loader begins with its worker 0
        examples = self.stream.examples(
            self.process * workers + own, self.num_processes * workers, self.places.get(own, BEGINNING)
        )
        while True:
            drawn = list(islice(examples, self.batch_size))
            yield own, drawn[-1][0], [example for _, example in drawn]


class StreamLoader:
    """
    What the training loop reads a stream with; an epoch is so many batches of it, and the next goes on from there.

    Every process has its readers, one per loader process. Checkpoints hold the place of each, so that a resumed run
    reads the same examples. It doesn't use torchdata's `StatefulDataLoader`, whose checkpoints lack the rows in the
    buffers: these go through their round again up to where they were, without decoding a picture.

    Args:
        task: Whose `train_dataset` is an `ExampleStream`.
        arguments: Of the loop; an epoch is `steps_per_epoch` of its steps.
        accelerator: Of the loop.

    Raises:
        ValueError: `steps_per_epoch` is not given.
    """

    def __init__(self, task: Task, arguments: LoopArguments, accelerator: Accelerator):
        if arguments.steps_per_epoch < 1:
            raise ValueError(
                f"steps_per_epoch must be at least 1 to train on a stream, got {arguments.steps_per_epoch}: nobody "
                f"knows its length, on which epochs and learning rates depend."
            )
        self.task = task
        self.arguments = arguments
        self.accelerator = accelerator
        self.batches_per_process = arguments.steps_per_epoch * arguments.gradient_accumulation_steps
        self.num_readers = max(1, arguments.num_workers)  # of each process
        self.places: dict[int, Place] = {}
        self.turn = 0
        self.left = self.batches_per_process
        self.batches: Iterator[tuple[int, Place, dict[str, Any]]] | None = None

    def begin(self, epoch: int, consumed: int = 0) -> None:
        """Moves to an epoch, of which each process has consumed some batches already."""
        self.left = self.batches_per_process - consumed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rest of the epoch."""
        if self.batches is None:
            self.batches = iter(self.open())  # once: a new one would read what came before again
        for _ in range(self.left):
            own, place, batch = next(self.batches)
            self.places[own], self.turn = place, (own + 1) % self.num_readers
            yield send_to_device(batch, self.accelerator.device)

    def open(self) -> DataLoader:
        """A loader whose readers go on where they were."""
        arguments, accelerator = self.arguments, self.accelerator
        batches = StreamBatches(
            self.task.train_dataset,
            arguments.batch_size,
            accelerator.process_index,
            accelerator.num_processes,
            dict(self.places),
            self.turn,
        )
        return DataLoader(
            batches,
            batch_size=None,
            collate_fn=partial(collate_rest, self.task.collate),
            num_workers=arguments.num_workers,
            # its own generator: making an iterator must not advance the one that dropout draws from
            generator=torch.Generator().manual_seed(arguments.seed),
        )

    def state_dict(self) -> dict[str, Any]:
        """The places of all readers. Called by every process, as accelerate does."""
        return {"num_readers": self.num_readers, "processes": gather_object([(self.places, self.turn)])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from saved places. Raises `ValueError` if that run shared the stream out otherwise."""
        if state["num_readers"] != self.num_readers:
            raise ValueError(
                f"Cannot resume with num_workers={self.arguments.num_workers}: the run had {state['num_readers']}."
            )
        self.places, self.turn = state["processes"][self.accelerator.process_index]


def collate_rest(collate: Callable, batch: tuple[int, Place, list[Any]]) -> tuple[int, Place, dict[str, Any]]:
    """A batch of `StreamBatches` with its examples as the model takes them."""
    own, place, examples = batch
    return own, place, collate(examples)


__all__ = ["ExampleStream", "StreamLoader"]
