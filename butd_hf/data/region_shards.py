# SPDX-License-Identifier: Apache-2.0
"""Writing a region store: shards of equal numbers of images, each beside its place and then renamed."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .region_index import IndexWriter
from .region_rows import DTYPES, STORE_SCHEMA, RegionStoreError, StoredRegions, encode_row


STORE_FILE = "store.json"  # written last: a folder without it is not a store
INDEX_FILE = "index.sqlite"
STORE_VERSION = 2
IMAGES_PER_SHARD = 64  # what a kill can cost, and files of some ten megabytes
ROWS_PER_BATCH = 16  # in memory before they are written


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"regions-{number:05d}.arrow"


def unfinished_folder(path: Path) -> Path:
    """Where a store is while it is being written: beside its place."""
    return path.with_name(f"{path.name}.unfinished")


def flush_to_disk(file: Path) -> None:
    """Returns once the file's content is on disk, so that a rename never outruns it."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())


def write_whole(file: Path, value: Any) -> None:
    """Writes JSON so that the file is either whole or not there."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    flush_to_disk(part)
    os.replace(part, file)


class ShardWriter:
    """An Arrow stream of rows, which `datasets` opens; it appears under its name when it is complete."""

    def __init__(self, file: Path, dtype: np.dtype):
        self.file = file
        self.part = file.with_name(f".{file.name}.part")
        self.dtype = dtype
        self.sink = pa.OSFile(str(self.part), "wb")
        self.stream = pa.ipc.new_stream(self.sink, STORE_SCHEMA)
        self.num_rows = 0
        self.region_size = 0

    def write(self, rows: Sequence[tuple[str, str, StoredRegions]]) -> None:
        """Writes rows of image id, view and regions. Raises `RegionStoreError` for one that can't be stored."""
        if not rows:
            return
        encoded = [encode_row(image_id, view, regions, self.dtype) for image_id, view, regions in rows]
        for image_id, _, regions in rows:
            size = regions.features.shape[1]
            if self.region_size not in (0, size):
                raise RegionStoreError(f"Features of {image_id!r} have size {size}, those before {self.region_size}.")
            self.region_size = size
        columns = {name: [row[name] for row in encoded] for name in STORE_SCHEMA.names}
        self.stream.write_batch(pa.RecordBatch.from_pydict(columns, schema=STORE_SCHEMA))
        self.num_rows += len(rows)

    def close(self) -> None:
        """Completes the file and renames it."""
        self.stream.close()
        self.sink.close()
        flush_to_disk(self.part)
        os.replace(self.part, self.file)

    def abandon(self) -> None:
        """Gives up and leaves nothing behind."""
        self.stream.close()
        self.sink.close()
        self.part.unlink(missing_ok=True)


class RegionStoreWriter:
    """
    Writes a store image by image; a few rows are in memory at a time, however many there are.

    ```python
    with RegionStoreWriter("STORE", dtype="float16") as writer:
        writer.add("COCO_val2014_000000000042", regions)
    ```

    The store appears under its name when the block ends well; otherwise nothing is left of it.

    Args:
        path: Folder of the store.
        dtype: `float16` or `float32`, of the features.
        shard_size: Rows per file.
        source: What else `store.json` tells of where the regions come from.
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
        self.source = source
        self.folder = unfinished_folder(self.path)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.index = IndexWriter(self.folder / INDEX_FILE)
        self.rows: list[tuple[str, str, StoredRegions]] = []
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
            self.shard = ShardWriter(self.folder / shard_name(len(self.shards)), np.dtype(self.dtype))
            self.shard.region_size = self.region_size
        place = self.shard.num_rows + len(self.rows)
        self.index.add(image_id, view, len(self.shards), place)
        self.views[view] = None
        self.rows.append((image_id, view, regions))
        if place + 1 == self.shard_size:
            self._close_shard()
        elif len(self.rows) == ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        rows, self.rows = self.rows, []
        self.shard.write(rows)
        self.region_size = self.shard.region_size

    def _close_shard(self) -> None:
        self._flush()
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
                description = describe_store(
                    self.dtype, self.region_size, list(self.views) or ["identity"], self.shards, self.source
                )
                write_whole(self.folder / STORE_FILE, description)
                install(self.folder, self.path)
        finally:
            if self.folder.exists():  # it did not end well
                if self.shard is not None:
                    self.shard.abandon()
                self.index.abandon()
                shutil.rmtree(self.folder, ignore_errors=True)


def describe_store(
    dtype: str,
    region_size: int,
    views: Sequence[str],
    shards: Sequence[tuple[str, int]],
    source: dict[str, Any] | None,
    skipped: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """What `store.json` says: everything but the regions themselves."""
    return {
        "version": STORE_VERSION,
        "dtype": dtype,
        "region_size": region_size,
        "views": list(views),
        "num_rows": sum(rows for _, rows in shards),
        "shards": [[name, rows] for name, rows in shards],
        "skipped": list(skipped),
        "fingerprint": source or {},
    }


def install(folder: Path, path: Path) -> None:
    """Puts a finished store in its place."""
    flush_to_disk(folder / INDEX_FILE)
    if path.exists():
        shutil.rmtree(path)
    os.replace(folder, path)


def read_shard(file: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a shard, mapped from disk."""
    with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
        yield from stream


def write_index(folder: Path, shards: Sequence[tuple[str, int]]) -> None:
    """Writes the index of shards. Raises `DuplicateImageError` if an image comes twice."""
    index = IndexWriter(folder / INDEX_FILE)
    for number, (name, _) in enumerate(shards):
        place = 0
        for batch in read_shard(folder / name):
            for image_id, view in zip(
                batch.column("image_id").to_pylist(), batch.column("view").to_pylist(), strict=True
            ):
                index.add(image_id, view, number, place)
                place += 1
    index.close()
