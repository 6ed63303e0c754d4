# SPDX-License-Identifier: Apache-2.0
"""Regions computed once and read many times: one store for training, for feature files and for other programs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from .data_errors import BrokenSampleError
from .region_index import RegionIndex
from .region_rows import RegionStoreError, StoredRegions, decode_row


STORE_FILE = "store.json"  # written last: a folder without it is not a store
INDEX_FILE = "index.sqlite"
STORE_VERSION = 2
OPEN_SHARDS = 256  # tables kept at a time: their descriptions are in memory, their rows are not


class RegionStore:
    """Random access to stored regions by image and view, and all of them in turn.

    A store is a folder: shards (Arrow streams, which `datasets` reads, streamed or not), an index of them, and
    `store.json`. Memory does not grow with the number of images.

    ```python
    store = RegionStore.open("regions/train")
    regions = store["1000268201_693b08cb0e.jpg"]  # or store["1000268201_693b08cb0e.jpg", "flip"]
    for image_id, view, regions in store.stream():
        ...
    ```

    Attributes:
        views: Names of the views that images were stored in.
        dtype: Of the features.
        region_size: Of each feature.
        skipped: `{"image_id", "reason"}` of every image that could not be read when the store was made.
        fingerprint: What the regions depend on.
    """

    def __init__(self, path: Path, description: dict[str, Any]):
        self.path = path
        self.fingerprint: dict[str, Any] = description["fingerprint"]
        self.views: tuple[str, ...] = tuple(description["views"])
        self.dtype = np.dtype(description["dtype"])
        self.region_size: int = description["region_size"]
        self.skipped: list[dict[str, str]] = description["skipped"]
        self.shards = [path / name for name, _ in description["shards"]]
        self.num_rows: int = description["num_rows"]
        self.index = RegionIndex(path / INDEX_FILE)
        self.tables: dict[int, pa.Table] = {}

    @classmethod
    def open(cls, path: str | Path) -> "RegionStore":
        """Opens a finished store; the features stay on disk. Raises `RegionStoreError` if there is none."""
        path = Path(path)
        if not (path / STORE_FILE).is_file():
            raise RegionStoreError(f"No finished region store at {path}: {STORE_FILE} is not there.")
        description = json.loads((path / STORE_FILE).read_text(encoding="utf-8"))
        if description.get("version") != STORE_VERSION:
            raise RegionStoreError(
                f"{path} is a region store of version {description.get('version')}, expected {STORE_VERSION}."
            )
        return cls(path, description)

    def __len__(self) -> int:
        """Rows: images times views."""
        return self.num_rows

    def __contains__(self, key: str | tuple[str, str]) -> bool:
        return self.index.place_of(*image_and_view(key)) is not None

    def __getitem__(self, key: str | tuple[str, str]) -> StoredRegions:
        """The regions of `image_id` as it is, or of `(image_id, view)`. Arrays are read-only views of the file.

        Raises:
            BrokenSampleError: The image could not be read when the store was made.
            KeyError: It was not among the images.
        """
        image_id, view = image_and_view(key)
        found = self.index.place_of(image_id, view)
        if found is None:
            for each in self.skipped:
                if each["image_id"] == image_id:
                    raise BrokenSampleError(f"No regions of image {image_id!r}: {each['reason']}")
            raise KeyError(f"No regions of image {image_id!r} in view {view!r} in {self.path} (views: {self.views}).")
        shard, place = found
        if shard not in self.tables:
            if len(self.tables) >= OPEN_SHARDS:
                self.tables.clear()
            self.tables[shard] = read_shard(self.shards[shard])
        if place >= self.tables[shard].num_rows:
            raise RegionStoreError(f"{self.shards[shard]} is shorter than {INDEX_FILE} says: the store is damaged.")
        return decode_row(row_of_table(self.tables[shard], place), self.dtype, self.region_size)

    def stream(self) -> Iterator[tuple[str, str, StoredRegions]]:
        """Image id, view and regions of every row, one shard after another."""
        for shard in self.shards:
            table = read_shard(shard)
            for place in range(table.num_rows):
                row = row_of_table(table, place)
                yield row["image_id"], row["view"], decode_row(row, self.dtype, self.region_size)

    def dataset(self) -> Dataset:
        """The rows as a table of `datasets`, mapped from disk; `decode_row` decodes one."""
        return concatenate_datasets([Dataset.from_file(str(shard)) for shard in self.shards])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tables": {}}  # another process maps the files itself


def image_and_view(key: str | tuple[str, str]) -> tuple[str, str]:
    """The two parts of a key of a store."""
    return (key, "identity") if isinstance(key, str) else key


def read_shard(file: Path) -> pa.Table:
    """The rows of a shard, mapped from disk. The file is closed again: few may be open in a process."""
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        return stream.read_all()


def row_of_table(table: pa.Table, place: int) -> dict[str, Any]:
    """A row by column, its binary values as buffers without a copy."""
    values = {name: table.column(name)[place] for name in table.column_names}
    return {
        name: value.as_buffer() if value.is_valid and pa.types.is_binary(value.type) else value.as_py()
        for name, value in values.items()
    }


__all__ = ["INDEX_FILE", "STORE_FILE", "STORE_VERSION", "RegionStore", "read_shard"]
