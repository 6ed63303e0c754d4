# SPDX-License-Identifier: Apache-2.0
"""Parts of a data set by name."""

from datasets import Dataset


def rows_of_split(table: Dataset, split: str | None, source: object, limit: int = 0) -> Dataset:
    """The first rows of a split, all without a limit. Raises `ValueError` if there are none."""
    splits = list(table["split"])
    rows = [row for row, name in enumerate(splits) if name == split]
    if not rows:
        raise ValueError(f"{source} has no split {split!r}, but {sorted(set(splits))}.")
    return table.select(rows[: limit or None])


__all__ = ["rows_of_split"]
