# SPDX-License-Identifier: Apache-2.0
"""The rows to learn from and those to score, and regions of their images that are computed once."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import TrainingArguments

from ..data.caption_streams import as_stream_table, is_stream, open_captions
from ..data.data_errors import require_files
from ..data.extraction import extract_regions
from ..data.region_store import RegionStore
from ..data.splits import mix, numbered, rows_of_split
from ..data.transforms import views_of
from .arguments import EVALUATION_SPLITS, DataArguments, ModelArguments


def load_splits(
    options: DataArguments, load: Callable[[str], Dataset], seed: int, keep: Callable[[Any], bool] | None = None
) -> tuple[Dataset | IterableDataset, Dataset]:
    """The rows to learn from, a stream if any of `--data` is one, and those to score.

    Args:
        options: What the command line says.
        load: A table of a source, with the columns `image`, `image_id` and `split`.
        seed: Of mixing.
        keep: Whether a row can be used; all by default.

    Raises:
        ValueError: A split has no rows, or images to score are missing.
    """
    streamed = any(map(is_stream, options.data))
    if options.eval_data is None and is_stream(options.data[0]):
        raise ValueError(f"--eval_data must name what to score: {options.data[0]} is a stream to learn from.")
    tables = {
        source: load(source) for source in (*options.data, options.eval_data or "") if source and not is_stream(source)
    }
    sources: list[Any] = []
    for number, source in enumerate(options.data):
        if is_stream(source):
            stream = open_captions(source, options.train_split)
            sources.append(stream.take(options.limit) if options.limit else stream)
            continue
        rows = rows_of_split(
            tables[source] if keep is None else tables[source].filter(keep), options.train_split, source
        )
        rows = rows.select(range(min(options.limit or len(rows), len(rows))))
        if len(options.data) > 1:
            rows = numbered(rows, number)
        sources.append(as_stream_table(rows) if streamed else rows)
    source = options.eval_data or options.data[0]
    table = tables[source]
    known = set(table["split"])
    split = options.eval_split or next((name for name in EVALUATION_SPLITS if name in known), None)
    eval_rows = rows_of_split(table, split, source, options.limit)
    require_files(filter(None, eval_rows["image"]), source)
    return mix(sources, options.data_weights, seed), eval_rows


def texts_of(rows: Dataset | IterableDataset, column: str, first: int) -> Iterable[str]:
    """The texts in a column of lists, of a stream those of the first rows."""
    rows = rows.take(first) if isinstance(rows, IterableDataset) else rows
    for batch in rows.select_columns(column).iter(batch_size=100):
        for texts in batch[column]:
            yield from texts


def open_regions(
    options: ModelArguments,
    data: DataArguments,
    training: TrainingArguments,
    model: nn.Module,
    processor: Any,
    train_rows: Dataset | IterableDataset,
    eval_rows: Dataset,
) -> tuple[RegionStore | None, RegionStore | None]:
    """The regions of `--cache`, of images to learn from and to score: computed unless they are there already, from the
    same images by the same bottom-up half. None without `--cache`.

    Raises:
        ValueError: The images are a stream, or are changed in ways that can't be stored.
    """
    if options.cache is None:
        return None, None
    if isinstance(train_rows, IterableDataset):
        raise ValueError("--cache goes through all images before training: leave it out with a stream.")
    if "jitter" in data.augment:
        raise ValueError("--cache holds fixed views of each image: flip and crop are possible, jitter is not.")
    tables = {"train": (train_rows, views_of(data.augment)), "eval": (eval_rows, ("identity",))}
    # the trainer's own, made later, must be of the same precision
    accelerator = Accelerator(mixed_precision="bf16" if training.bf16 else "fp16" if training.fp16 else "no")
    train_store, eval_store = (
        extract_regions(
            model,
            processor,
            # each once, however often a mixture has it
            sorted(dict(zip(rows["image_id"], rows["image"], strict=True)).items()),
            Path(options.cache) / name,
            views=views,
            batch_size=training.per_device_eval_batch_size,
            num_workers=training.dataloader_num_workers,
            accelerator=accelerator,
            strict=data.strict or name == "eval",
        )
        for name, (rows, views) in tables.items()
    )
    return train_store, eval_store


__all__ = ["load_splits", "open_regions", "texts_of"]
