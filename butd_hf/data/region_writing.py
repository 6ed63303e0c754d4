# SPDX-License-Identifier: Apache-2.0
"""Writing a region store: shards of equal numbers of images, each written beside its place and then renamed."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .region_index import IndexWriter
from .region_rows import DTYPES, STORE_SCHEMA, RegionStoreError, StoredRegions, encode_row
from .region_store import INDEX_FILE, STORE_FILE, STORE_VERSION, read_shard


IMAGES_PER_SHARD = 64  # what a kill can cost, and files of some ten megabytes
ROWS_PER_BATCH = 16  # in memory before they are written


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"regions-{number:05d}.arrow"


def unfinished_folder(path: Path) -> Path:
    """Where a store is while it is being written: beside its place."""
    return path.with_name(f"{path.name}.unfinished")


def sync_and_rename(part: Path, file: Path) -> None:
    """Renames a file once its content is on disk, so that a rename never comes first."""
    with open(part, "rb") as opened:
        os.fsync(opened.fileno())
    os.replace(part, file)


def write_json(file: Path, value: Any) -> None:
    """Writes JSON so that the file is either whole or not there."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_and_rename(part, file)


class ShardWriter:
    """An Arrow stream of rows, which `datasets` opens; it appears under its name when it is complete."""

    def __init__(self, file: Path, dtype: np.dtype, region_size: int = 0):
        self.file = file
        self.part = file.with_name(f".{file.name}.part")
        self.dtype = dtype
        self.region_size = region_size
        self.sink = pa.OSFile(str(self.part), "wb")
        self.stream = pa.ipc.new_stream(self.sink, STORE_SCHEMA)
        self.rows: list[dict[str, Any]] = []
        self.num_rows = 0

    def add(self, image_id: str, view: str, regions: StoredRegions) -> None:
        """Adds a row. Raises `RegionStoreError` if it can't be stored."""
        self.rows.append(encode_row(image_id, view, regions, self.dtype))
        size = regions.features.shape[1]
        if self.region_size not in (0, size):
            raise RegionStoreError(f"Features of {image_id!r} have size {size}, those before {self.region_size}.")
        self.region_size = size
        self.num_rows += 1
        if len(self.rows) == ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            self.stream.write_batch(pa.RecordBatch.from_pylist(self.rows, schema=STORE_SCHEMA))
        self.rows = []

    def close(self) -> None:
        """Completes the file and renames it."""
        self._flush()
        self.stream.close()
        self.sink.close()
        sync_and_rename(self.part, self.file)

    def discard(self) -> None:
        """Removes the unfinished file."""
        self.stream.close()
        self.sink.close()
        self.part.unlink(missing_ok=True)


class RegionStoreWriter:
    """
    Writes a store image by image; a few rows are in memory at a time.

    ```python
    with RegionStoreWriter("STORE", dtype="float16") as writer:
        writer.add("COCO_val2014_000000000042", regions)
    ```

    The store appears under its name when the block ends well; otherwise nothing is left of it.

    Args:
        path: Folder of the store.
        dtype: `float16` or `float32`, of the features.
        shard_size: Rows per file.
        source: What `store.json` says of where the regions come from.
        overwrite: Whether a store that is there is replaced.

    Raises:
        RegionStoreError: There is a store already, or an unknown dtype.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "float32",
        shard_size: int = IMAGES_PER_SHARD,
        source: dict[str, Any] | None = None,
        overwrite: bool = False,
    ):
        self.path = Path(path)
        if dtype not in DTYPES or shard_size < 1:
            raise RegionStoreError(f"Expected a dtype in {DTYPES} and a positive size, got {dtype!r}, {shard_size}.")
        if self.path.exists() and not overwrite:
            raise RegionStoreError(f"{self.path} is there already; choose another place, or overwrite it.")
        self.dtype = dtype
        self.shard_size = shard_size
        self.source = source or {}
        self.folder = unfinished_folder(self.path)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.index = IndexWriter(self.folder / INDEX_FILE)
        self.shard: ShardWriter | None = None
        self.shards: list[tuple[str, int]] = []
        self.views: dict[str, None] = {}  # in the order in which they come
        self.region_size = 0

    def add(self, image_id: str, regions: StoredRegions, view: str = "identity") -> None:
        """
        Adds the regions of one view of an image.

        Raises:
            DuplicateImageError: There are regions of this image and view already.
            RegionStoreError: Features or boxes that are not finite, or of another size than those before.
        """
        if self.shard is None:
            file = self.folder / shard_name(len(self.shards))
            self.shard = ShardWriter(file, np.dtype(self.dtype), self.region_size)
        self.index.add(image_id, view, len(self.shards), self.shard.num_rows)
        self.views[view] = None
        self.shard.add(image_id, view, regions)
        self.region_size = self.shard.region_size
        if self.shard.num_rows == self.shard_size:
            self._close_shard()

    def _close_shard(self) -> None:
        self.shard.close()
        self.shards.append((self.shard.file.name, self.shard.num_rows))
        self.shard = None

    def __enter__(self) -> "RegionStoreWriter":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            if kind is None:
                if self.shard is not None:
                    self._close_shard()
                self.index.close()
                views = list(self.views) or ["identity"]
                describe_store(self.folder, self.dtype, self.region_size, views, self.shards, self.source)
                move_store(self.folder, self.path)
        finally:
            if self.folder.exists():  # it did not end well
                if self.shard is not None:
                    self.shard.discard()
                self.index.close()
                shutil.rmtree(self.folder, ignore_errors=True)


def describe_store(
    folder: Path,
    dtype: str,
    region_size: int,
    views: Sequence[str],
    shards: Sequence[tuple[str, int]],
    fingerprint: dict[str, Any],
    skipped: Sequence[dict[str, str]] = (),
) -> None:
    """Writes `store.json`: everything but the regions themselves."""
    description = {
        "version": STORE_VERSION,
        "dtype": dtype,
        "region_size": region_size,
        "views": list(views),
        "num_rows": sum(rows for _, rows in shards),
        "shards": [[name, rows] for name, rows in shards],
        "skipped": list(skipped),
        "fingerprint": fingerprint,
    }
    write_json(folder / STORE_FILE, description)


def move_store(folder: Path, path: Path) -> None:
    """Renames a finished store to its place."""
    if path.exists():
        shutil.rmtree(path)
    sync_and_rename(folder / INDEX_FILE, folder / INDEX_FILE)
    os.replace(folder, path)


def write_index(folder: Path, shards: Sequence[tuple[str, int]]) -> None:
    """Writes the index of shards. Raises `DuplicateImageError` if an image comes twice."""
    index = IndexWriter(folder / INDEX_FILE)
    for number, (name, _) in enumerate(shards):
        table = read_shard(folder / name).select(["image_id", "view"])
        for place, row in enumerate(table.to_pylist()):
            index.add(row["image_id"], row["view"], number, place)
    index.close()
