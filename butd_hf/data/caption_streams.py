# SPDX-License-Identifier: Apache-2.0
"""Images with captions that are read one after another: WebDataset shards, and whatever `datasets` can stream."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, IterableDataset, List, Value, load_dataset

from .captions import CAPTION_COLUMNS, CAPTIONS_FILE, metadata_files
from .data_errors import DataError


STREAM_PREFIX = "stream:"
SHARD_SUFFIX = ".tar"

# images stay undecoded until training reads them
STREAM_FEATURES = Features(
    {"image": Image(decode=False), "image_id": Value("string"), "captions": List(Value("string"))}
)
IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img")
TEXT_COLUMNS = (*CAPTION_COLUMNS, "txt", "json")  # the first that is there; json holds one of the others
ID_COLUMNS = ("image_id", "__key__", "filename")


def is_stream(source: str) -> bool:
    """Whether a source of captions is to be streamed: `stream:NAME`, a `.tar` pattern or a folder of such shards."""
    if source.startswith(STREAM_PREFIX) or source.endswith(SHARD_SUFFIX):
        return True
    folder = Path(source)
    # beside a captions file, an archive is what the images were unpacked from
    described = (folder / CAPTIONS_FILE).is_file() or bool(metadata_files(folder))
    return folder.is_dir() and not described and any(folder.glob(f"*{SHARD_SUFFIX}"))


def open_captions(source: str, split: str = "train") -> IterableDataset:
    """Opens a stream of images with captions; only its columns are read.

    Args:
        source: WebDataset shards, a folder of them or a file name ending in `.tar`, which may be a pattern (`*`) or
            a URL: files with the same name and different endings are a sample, an image beside `.txt`, or
            `.json` with `caption`, `captions` or `text`. Or `stream:NAME`, where NAME is anything that
            `datasets.load_dataset` takes: a data set of the Hub, or a folder of Parquet files or images;
            `stream:NAME:CONFIG` names a configuration.
        split: Of `stream:NAME`. Shards are all of one split.

    Returns:
        A stream with the columns `image` (`path` and `bytes`), `image_id` and `captions`. They may be None or empty
        where a sample is broken.

    Raises:
        DataError: There is no column of images or of captions.
        FileNotFoundError: There is nothing at `source`.
    """
    if source.startswith(STREAM_PREFIX):
        name, _, config = source.removeprefix(STREAM_PREFIX).partition(":")
        stream = load_dataset(name, config or None, split=split, streaming=True)
    else:
        files = f"{source.rstrip('/')}/*{SHARD_SUFFIX}" if Path(source).is_dir() else source
        stream = load_dataset("webdataset", data_files=files, split="train", streaming=True)
    columns = stream.column_names or list(next(iter(stream)))
    image, text, named = (
        next((name for name in names if name in columns), None) for names in (IMAGE_COLUMNS, TEXT_COLUMNS, ID_COLUMNS)
    )
    if image is None or text is None:
        raise DataError(
            f"{source}: found the columns {columns}, expected images in one of {IMAGE_COLUMNS} and captions in one "
            f"of {TEXT_COLUMNS}."
        )
    stream = stream.cast_column(image, Image(decode=False))
    return stream.map(
        row_of, fn_kwargs={"columns": (image, text, named)}, remove_columns=columns, features=STREAM_FEATURES
    )


def row_of(row: dict[str, Any], columns: tuple[str, str, str | None]) -> dict[str, Any]:
    """A sample in the columns of the stream; a broken one is an error only when it is used."""
    image_column, text, named = columns
    captions = row[text]
    if isinstance(captions, dict):
        captions = next((captions[name] for name in CAPTION_COLUMNS if captions.get(name)), None)
    captions = captions if isinstance(captions, list) else [captions]
    captions = [" ".join(each.split()) for each in captions if isinstance(each, str)]
    image = row[image_column]
    path = (image or {}).get("path")
    image_id = row[named] if named is not None else path
    if row.get("__url__") is not None:
        image_id = f"{row['__url__']}: {image_id}"
        image = {**image, "path": f"{row['__url__']}: {path}"} if image is not None else None
    return {"image": image, "image_id": str(image_id), "captions": [each for each in captions if each]}


def as_stream_table(table: Dataset) -> Dataset:
    """What `load_captions` returned, in the columns of a stream."""
    return table.select_columns(list(STREAM_FEATURES)).cast_column("image", STREAM_FEATURES["image"])


def first_captions(stream: IterableDataset, images: int) -> Iterable[str]:
    """The captions of the first images of a stream."""
    for row in stream.take(images).select_columns("captions"):
        yield from row["captions"]


__all__ = ["as_stream_table", "first_captions", "is_stream", "open_captions"]
