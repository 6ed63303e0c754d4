# SPDX-License-Identifier: Apache-2.0
"""From any feature files to any other, and into and out of the region store, image by image."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ..data.region_index import IndexWriter
from ..data.region_rows import DuplicateImageError, RegionStoreError
from ..data.region_store import STORE_FILE, RegionStore
from ..data.region_writing import RegionStoreWriter
from .arrays import files_of, folder_of, read_npy, read_npz, read_sizes, write_npy, write_npz
from .records import FeatureFileError, FeatureRecord
from .tsv import COLUMNS, line_of, read_tsv


FORMATS = ("store", "tsv", "lxmert", "npz", "npy")
NPY_PARTS = ("att", "fc", "box")


def read_features(
    source: Path, *, columns: tuple[str, ...] | None = None, sizes: Path | None = None
) -> Iterator[FeatureRecord]:
    """The images of feature files or of a store, one in memory at a time; of a store, the view `identity`.

    Args:
        source: A TSV file, a store, a folder of `.npz` files, or the beginning of the names of ruotianluo's folders
            (or the first of these folders).
        columns: Names of the columns of a TSV file; recognised by their number if None.
        sizes: File that `read_sizes` reads, for formats without sizes; beside the folders if None.

    Raises:
        FeatureFileError: With file, and line and column where there are any.
    """
    npy_name = source.with_name(source.name.removesuffix("_att"))
    if source.is_file():
        yield from read_tsv(source, columns)
    elif (source / STORE_FILE).is_file():
        for image_id, view, regions in RegionStore.open(source).stream():
            if view == "identity":
                yield FeatureRecord(image_id, regions, f"{source}: image {image_id!r}")
    elif folder_of(npy_name, "att").is_dir():
        sizes = sizes or folder_of(npy_name, "sizes.jsonl")
        if not sizes.is_file():
            raise FeatureFileError(f"{source}: boxes are in pixels; give a file with the sizes of the images.")
        yield from read_npy(npy_name, read_sizes(sizes))
    elif source.is_dir() and next(files_of(source, (".npz",)), None) is not None:
        yield from read_npz(source)
    else:
        raise FeatureFileError(
            f"{source}: expected a TSV file, a region store, a folder of .npz files, or the beginning of the names of "
            "NAME_att, NAME_fc and NAME_box."
        )


def convert_features(
    sources: Sequence[Path],
    to: Path,
    *,
    output: str = "store",
    dtype: str = "float32",
    columns: tuple[str, ...] | None = None,
    sizes: Path | None = None,
    overwrite: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> int:
    """Converts feature files, or a store, to another kind. The output appears when it is complete.

    Args:
        sources: Files and folders, one after another; see `read_features`.
        to: Where to write; for `npy` the beginning of the folders' names.
        output: One of `FORMATS`.
        dtype: Of the features in a store.
        columns: See `read_features`.
        sizes: Likewise.
        overwrite: Whether an existing output is replaced.
        on_image: Called after each image.

    Returns:
        The number of images.

    Raises:
        FeatureFileError: A source is damaged, an image comes twice, or there is something at `to` already.
    """
    if output not in FORMATS:
        raise FeatureFileError(f"output must be one of {FORMATS}, got {output!r}.")
    count = 0
    writer = open_store(to, dtype, overwrite) if output == "store" else open_files(to, output, overwrite)
    with tempfile.TemporaryDirectory() as folder, writer as write:
        seen = IndexWriter(Path(folder) / "seen.sqlite")  # on disk: memory must not grow with the number of images
        for source in sources:
            for record in read_features(source, columns=columns, sizes=sizes):
                try:
                    seen.add(record.image_id, "identity")
                    write(record)
                except DuplicateImageError as error:
                    where = f"{record.place}: column 1 (image_id)" if source.is_file() else record.place
                    raise FeatureFileError(f"{where}: {error}") from error
                except RegionStoreError as error:
                    raise FeatureFileError(f"{record.place}: {error}") from error
                count += 1
                on_image()
        seen.close()
        if not count:
            raise FeatureFileError(f"There is no image in {', '.join(map(str, sources))}.")
    return count


@contextmanager
def open_store(to: Path, dtype: str, overwrite: bool) -> Iterator[Callable[[FeatureRecord], None]]:
    """A function that adds a record to a new store."""
    try:
        with RegionStoreWriter(to, dtype=dtype, source={"source": "feature files"}, overwrite=overwrite) as store:
            yield lambda record: store.add(record.image_id, record.regions)
    except RegionStoreError as error:
        raise FeatureFileError(str(error)) from error


@contextmanager
def open_files(to: Path, output: str, overwrite: bool) -> Iterator[Callable[[FeatureRecord], None]]:
    """A function that writes a record; all is renamed when the block ends well, otherwise nothing is left."""
    unfinished = to.with_name(f".{to.name}.unfinished")
    places, parts = [to], [unfinished]
    if output == "npy":
        places, parts = ([folder_of(name, end) for end in (*NPY_PARTS, "sizes.jsonl")] for name in (to, unfinished))
    for place in places:
        if place.exists() and not overwrite:
            raise FeatureFileError(f"{place} is there already; choose another place, or overwrite it.")
    for part in parts:
        remove(part)
    for folder in {"npz": parts, "npy": parts[:-1]}.get(output, [to.parent]):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        if output in ("npz", "npy"):
            yield partial(write_npz if output == "npz" else write_npy, unfinished)
        else:
            with open(unfinished, "wb") as lines:
                yield lambda record: lines.write(line_of(record, COLUMNS[output]))
        for part, place in zip(parts, places, strict=True):
            remove(place)
            os.replace(part, place)
    finally:
        for part in parts:
            remove(part)


def remove(path: Path) -> None:
    """Removes a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
