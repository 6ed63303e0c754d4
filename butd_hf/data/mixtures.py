# SPDX-License-Identifier: Apache-2.0
"""Several data sets as one, in given shares."""

from collections.abc import Sequence

from datasets import Dataset, IterableDataset, Value, concatenate_datasets, interleave_datasets


SHARDS = 64  # of a table among streams: as many readers can share it without each reading the other's rows


def mix(
    sources: Sequence[Dataset | IterableDataset], weights: Sequence[float] | None = None, seed: int = 0
) -> Dataset | IterableDataset:
    """
    One data set of several: a table if all of them are, else a stream.

    Args:
        sources: With the same columns; of tables in a stream, paths of pictures are like a stream's.
        weights: In which shares rows are drawn from them, positive, of any sum. The whole ends when each source has
            been seen whole; smaller ones begin anew until then. Without weights tables are joined, and streams take
            turns.
        seed: Of what is drawn.

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
            source if isinstance(source, IterableDataset) else source.to_iterable_dataset(min(SHARDS, len(source)))
            for source in sources
        ]
    shares = None if weights is None else [weight / sum(weights) for weight in weights]
    return interleave_datasets(list(sources), shares, seed=seed, stopping_strategy="all_exhausted")


def numbered(table: Dataset, number: int) -> Dataset:
    """A table whose `image_id` tells it from those of other sources, which may count their images alike."""
    ids = [f"{number}/{image_id}" for image_id in table["image_id"]]
    return table.remove_columns("image_id").add_column("image_id", ids, feature=Value("string"))


__all__ = ["mix", "numbered"]
