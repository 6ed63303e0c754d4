# SPDX-License-Identifier: Apache-2.0
"""From any feature files to any other, and into and out of the region store, image by image."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.region_index import IndexWriter
from ..data.region_rows import DuplicateImageError, RegionStoreError
from ..data.region_store import STORE_FILE, RegionStore, RegionStoreWriter
from .arrays import NpyWriter, NpzWriter, files_of, folder_of, read_npy, read_npz, read_sizes
from .records import FeatureFileError, FeatureRecord
from .tsv import COLUMNS, TsvWriter, read_tsv


FORMATS = ("store", "tsv", "lxmert", "npz", "npy")


def kind_of(source: Path) -> str:
    """
    What a path leads to: `"store"`, `"npz"` and `"npy"` are folders, `"tsv"` a file.

    Raises:
        FeatureFileError: None of them.
    """
    if source.is_file():
        return "tsv"
    if (source / STORE_FILE).is_file():
        return "store"
    if folder_of(npy_name(source), "att").is_dir():
        return "npy"
    if source.is_dir() and next(files_of(source, (".npz",)), None) is not None:
        return "npz"
    raise FeatureFileError(
        f"{source}: expected a TSV file, a region store, a folder of .npz files, or the beginning of the names of "
        "NAME_att, NAME_fc and NAME_box."
    )


def npy_name(source: Path) -> Path:
    """What the names of ruotianluo's folders begin with, if the user named one of them instead."""
    return source.with_name(source.name.removesuffix("_att"))


def read_features(
    source: Path, *, columns: tuple[str, ...] | None = None, sizes: Path | None = None
) -> Iterator[FeatureRecord]:
    """
    The images of feature files or of a store, one in memory at a time; of a store, its pictures as they are.

    Args:
        source: See `kind_of`.
        columns: Names of the columns of a TSV file; told by their number if None.
        sizes: File that `read_sizes` reads, for formats without sizes; beside the folders if None.

    Raises:
        FeatureFileError: With file, and line and column where there are any.
    """
    kind = kind_of(source)
    if kind == "tsv":
        yield from read_tsv(source, columns)
    elif kind == "npz":
        yield from read_npz(source)
    elif kind == "npy":
        name = npy_name(source)
        beside = name.with_name(f"{name.name}_sizes.jsonl")
        if sizes is None and not beside.is_file():
            raise FeatureFileError(f"{source}: boxes are in pixels; give a file with the sizes of the pictures.")
        yield from read_npy(name, read_sizes(sizes or beside))
    else:
        for image_id, view, regions in RegionStore.open(source).stream():
            if view == "identity":
                yield FeatureRecord(image_id, regions, f"{source}: image {image_id!r}")


def each_once(records: Iterator[FeatureRecord]) -> Iterator[FeatureRecord]:
    """The records. Raises `FeatureFileError` at an image id that was there before, remembering them on disk."""
    with tempfile.TemporaryDirectory() as folder:
        seen = IndexWriter(Path(folder) / "seen.sqlite")
        try:
            for record in records:
                try:
                    seen.add(record.image_id, "identity")
                except DuplicateImageError as error:
                    where = f"{record.place}: column 1 (image_id)" if ":" in record.place else record.place
                    raise FeatureFileError(f"{where}: {error}") from error
                yield record
        finally:
            seen.abandon()


def convert_features(
    sources: Sequence[Path],
    to: Path,
    *,
    output: str = "store",
    dtype: str = "float32",
    columns: tuple[str, ...] | None = None,
    sizes: Path | None = None,
    overwrite: bool = False,
    on_image: Any = None,
) -> int:
    """
    Turns feature files, or a store, into another kind. What is written appears when it is complete.

    Args:
        sources: Files and folders, one after another; see `kind_of`.
        to: Where to write; for `npy` the beginning of the folders' names.
        output: One of `FORMATS`.
        dtype: Of the features in a store.
        columns: See `read_features`.
        sizes: Likewise.
        overwrite: Whether what is there is replaced.
        on_image: Called after each image.

    Returns:
        The number of images.

    Raises:
        FeatureFileError: A source is damaged, an image comes twice, or there is something at `to` already.
    """
    if output not in FORMATS:
        raise FeatureFileError(f"output must be one of {FORMATS}, got {output!r}.")

    def records() -> Iterator[FeatureRecord]:
        for source in sources:
            yield from read_features(source, columns=columns, sizes=sizes)

    count = 0
    with writer_of(to, output, dtype, overwrite) as write:
        for record in each_once(records()):
            try:
                write(record)
            except RegionStoreError as error:
                raise FeatureFileError(f"{record.place}: {error}") from error
            count += 1
            if on_image is not None:
                on_image()
        if not count:
            raise FeatureFileError(f"There is no image in {', '.join(map(str, sources))}.")
    return count


@contextmanager
def writer_of(to: Path, output: str, dtype: str, overwrite: bool) -> Iterator[Any]:
    """A function that writes a record; all of it is renamed when the block ends well, otherwise nothing is left."""
    if output == "store":
        try:
            with RegionStoreWriter(to, dtype=dtype, source={"source": "feature files"}, overwrite=overwrite) as store:
                yield lambda record: store.add(record.image_id, record.regions)
        except RegionStoreError as error:
            raise FeatureFileError(str(error)) from error
        return
    ending = {"npy": ("_att", "_fc", "_box", "_sizes.jsonl")}.get(output, ("",))
    places = [to.with_name(to.name + end) for end in ending]
    unfinished = to.with_name(f".{to.name}.unfinished")
    parts = [unfinished.with_name(unfinished.name + end) for end in ending]
    for place in places:
        if place.exists() and not overwrite:
            raise FeatureFileError(f"{place} is there already; choose another place, or overwrite it.")
    to.parent.mkdir(parents=True, exist_ok=True)
    for part in parts:
        remove(part)
    writers = {"npz": NpzWriter, "npy": NpyWriter}
    writer = writers[output](unfinished) if output in writers else TsvWriter(unfinished, COLUMNS[output])
    try:
        yield writer.write
        writer.close()
        for part, place in zip(parts, places, strict=True):
            remove(place)
            os.replace(part, place)
    finally:
        writer.close()
        for part in parts:
            remove(part)


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
