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


IMAGES_PER_SHARD = 64  # some ten megabytes: in memory until they are written, and what a kill can cost


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


def write_shard(file: Path, rows: list[dict[str, Any]]) -> None:
    """Writes encoded rows as an Arrow stream, which `datasets` opens; the file is either whole or not there."""
    part = file.with_name(f".{file.name}.part")
    with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, STORE_SCHEMA) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema=STORE_SCHEMA))
    sync_and_rename(part, file)


class RegionStoreWriter:
    """Writes a store image by image; the rows of one shard are in memory at a time.

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
        self.rows: list[dict[str, Any]] = []  # of the shard that is not written yet
        self.shards: list[tuple[str, int]] = []
        self.views: dict[str, None] = {}  # in the order in which they come
        self.region_size = 0

    def add(self, image_id: str, regions: StoredRegions, view: str = "identity") -> None:
        """Adds the regions of one view of an image.

        Raises:
            DuplicateImageError: There are regions of this image and view already.
            RegionStoreError: Features or boxes that are not finite, or of another size than those before.
        """
        size = regions.features.shape[-1]
        if self.region_size not in (0, size):
            raise RegionStoreError(f"Features of {image_id!r} have size {size}, those before {self.region_size}.")
        self.index.add(image_id, view, len(self.shards), len(self.rows))
        self.rows.append(encode_row(image_id, view, regions, np.dtype(self.dtype)))
        self.region_size = size
        self.views[view] = None
        if len(self.rows) == self.shard_size:
            self._write_shard()

    def _write_shard(self) -> None:
        name = shard_name(len(self.shards))
        write_shard(self.folder / name, self.rows)
        self.shards.append((name, len(self.rows)))
        self.rows = []

    def __enter__(self) -> "RegionStoreWriter":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            if kind is None and self.rows:
                self._write_shard()
            self.index.close()
            if kind is None:
                views = list(self.views) or ["identity"]
                describe_store(self.folder, self.dtype, self.region_size, views, self.shards, self.source)
                move_store(self.folder, self.path)
        finally:  # after `move_store` there is nothing to remove
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
