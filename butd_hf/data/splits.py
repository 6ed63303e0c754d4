# SPDX-License-Identifier: Apache-2.0
"""Parts of a data set by name, and several data sets as one."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, IterableDataset, Value, concatenate_datasets, interleave_datasets

from .data_errors import DataError


SPLITS = ("train", "val", "test")
SHARDS = 64  # of a table among streams, so that several readers can share it


def split_of(name: str) -> str:
    """The split that a file or folder is named for, `train` if it is for none."""
    return next((split for split in SPLITS if split in name.lower()), "train")


def select_split(rows: list[dict[str, Any]], split: str | None, source: object, expected: str) -> list[dict[str, Any]]:
    """The rows of a split, all of them without one. Raises `DataError` if there are none."""
    selected = [row for row in rows if split is None or row["split"] == split]
    if not rows:
        raise DataError(f"{source}: nothing in it, expected {expected}.")
    if not selected:
        raise DataError(f"{source}: no split {split!r}, there are {sorted({row['split'] for row in rows})}.")
    return selected


def rows_of_split(table: Dataset, split: str | None, source: object, limit: int = 0) -> Dataset:
    """The first rows of a split, all without a limit. Raises `ValueError` if there are none."""
    splits = list(table["split"])
    rows = [row for row, name in enumerate(splits) if name == split]
    if not rows:
        raise ValueError(f"{source} has no split {split!r}, but {sorted(set(splits))}.")
    return table.select(rows[: limit or None])


def mix(
    sources: Sequence[Dataset | IterableDataset], weights: Sequence[float] | None = None, seed: int = 0
) -> Dataset | IterableDataset:
    """One data set of several: a table if all of them are, else a stream.

    Args:
        sources: With the same columns.
        weights: In which shares rows are drawn from them, positive, of any sum. The whole ends when each source has
            been read once; smaller ones start again until then. Without weights tables are joined, and streams take
            turns.
        seed: Of the draws.

    Raises:
        ValueError: Not as many weights as sources, or one isn't positive.
    """
    if weights is not None and (len(weights) != len(sources) or min(weights) <= 0):
        raise ValueError(f"weights must be {len(sources)} positive numbers, one for each source, got {list(weights)}.")
    if len(sources) == 1:
        return sources[0]
    streamed = [isinstance(source, IterableDataset) for source in sources]
    if weights is None and not any(streamed):
        return concatenate_datasets(list(sources))
    if any(streamed):
        sources = [
            source if is_stream else source.to_iterable_dataset(min(SHARDS, len(source)))
            for source, is_stream in zip(sources, streamed, strict=True)
        ]
    shares = None if weights is None else [weight / sum(weights) for weight in weights]
    return interleave_datasets(list(sources), shares, seed=seed, stopping_strategy="all_exhausted")


def numbered(table: Dataset, number: int) -> Dataset:
    """The table with `number/` before each `image_id`: data sets may use the same ids for different images."""
    ids = [f"{number}/{image_id}" for image_id in table["image_id"]]
    return table.remove_columns("image_id").add_column("image_id", ids, feature=Value("string"))


__all__ = ["mix", "numbered", "rows_of_split", "select_split", "split_of"]
