# SPDX-License-Identifier: Apache-2.0
"""Feature files with an image each.

MILVLG's bottom-up-attention.pytorch and OpenVQA: `ID.npz` with `x`, `bbox`, `num_bbox`, `image_h` and `image_w`.
ruotianluo's captioning code: folders `NAME_att` (`ID.npz` with `feat`, or `ID.npy`), `NAME_fc` (`ID.npy`, the mean)
and `NAME_box` (`ID.npy`, pixels); sizes of images are elsewhere.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..data.data_errors import DataError
from ..data.json_files import read_json, read_json_lines
from .records import FeatureFileError, FeatureRecord, boxes_in_pixels, file_name, regions_of_pixels


UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
SIZE_KEYS = ("id", "image_id", "cocoid", "imgid")


def files_of(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files of a folder in the system's order: sorting them would need all their names."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffixes) and not entry.name.startswith("."):
                yield Path(entry.path)


def read_array(file: Path, name: str | None = None) -> np.ndarray:
    """An array of a file, by its name in an archive. Pickles are not read. Raises `FeatureFileError`."""
    try:
        with open(file, "rb") as opened:
            content = np.load(opened, allow_pickle=False)
            return np.asarray(content if name is None else content[name])
    except UNREADABLE as error:
        what = "" if name is None else f" {name}:"
        raise FeatureFileError(f"{file}:{what} cannot be read ({type(error).__name__}: {error}).") from error


def read_matrix(file: Path, name: str | None = None, columns: int | None = None) -> np.ndarray:
    """An array of numbers with two dimensions, float32. Raises `FeatureFileError` if it is none."""
    array = read_array(file, name)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or columns not in (None, array.shape[1]):
        expected = f"(num_regions, {columns or 'region_size'})"
        raise FeatureFileError(
            f"{file}: {name or 'the array'} has shape {array.shape} and type {array.dtype}, expected {expected}."
        )
    return array.astype(np.float32)


def read_number(file: Path, name: str) -> int:
    """A number of an archive."""
    value = read_array(file, name)
    if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise FeatureFileError(f"{file}: {name}: expected a number, got shape {value.shape} of {value.dtype}.")
    return int(value.item())


def read_npz(folder: Path) -> Iterator[FeatureRecord]:
    """The images of a folder in MILVLG's layout, one in memory at a time.

    OpenVQA's files have `x` transposed, `(region_size, num_regions)`, which the number of boxes shows.

    Raises:
        FeatureFileError: With file and array.
    """
    names = {"features": "x", "boxes": "bbox"}
    for file in files_of(folder, (".npz",)):
        boxes, features = read_matrix(file, "bbox", columns=4), read_matrix(file, "x")
        if features.shape[0] != len(boxes) and features.shape[1] == len(boxes):
            features = np.ascontiguousarray(features.T)
        count, height, width = (read_number(file, name) for name in ("num_bbox", "image_h", "image_w"))
        if len(features) != len(boxes) or count > len(boxes):
            raise FeatureFileError(
                f"{file}: x has shape {features.shape}, bbox {boxes.shape} and num_bbox is {count}; they don't fit."
            )

        def error(column: str, problem: str, file: Path = file) -> FeatureFileError:
            return FeatureFileError(f"{file}: {names.get(column, column)}: {problem}.")

        regions = regions_of_pixels(features[:count], boxes[:count], width, height, error)
        yield FeatureRecord(file.name.removesuffix(".npz"), regions, str(file))


def read_npy(name: Path, sizes: Mapping[str, tuple[int, int]]) -> Iterator[FeatureRecord]:
    """The images of ruotianluo's folders, one in memory at a time.

    Args:
        name: The beginning of the folders' names: `data/cocobu` of `data/cocobu_att` and so on.
        sizes: Width and height of each image, which the folders don't have.

    Raises:
        FeatureFileError: With file, and array where it has names.
    """
    for file in files_of(folder_of(name, "att"), (".npz", ".npy")):
        image_id = file.name.rpartition(".")[0]
        box_file = folder_of(name, "box") / f"{image_id}.npy"
        features = read_matrix(file, "feat" if file.suffix == ".npz" else None)
        boxes = read_matrix(box_file, columns=4)
        if len(boxes) != len(features):
            raise FeatureFileError(f"{file}: {len(features)} features, but {len(boxes)} boxes in {box_file}.")
        if image_id not in sizes:
            raise FeatureFileError(f"{file}: the size of the image is not known: its boxes are in pixels.")

        def error(column: str, problem: str, files: tuple[Path, Path] = (file, box_file)) -> FeatureFileError:
            return FeatureFileError(f"{files[column != 'features']}: {column}: {problem}.")

        yield FeatureRecord(image_id, regions_of_pixels(features, boxes, *sizes[image_id], error), str(file))


def folder_of(name: Path, part: str) -> Path:
    """One of ruotianluo's folders."""
    return name.with_name(f"{name.name}_{part}")


def write_npz(folder: Path, record: FeatureRecord) -> None:
    """Writes an image's file in MILVLG's layout. Raises `FeatureFileError` for a wrong id or an unknown size."""
    regions = record.regions
    np.savez_compressed(
        folder / f"{file_name(record)}.npz",
        x=np.asarray(regions.features, dtype=np.float32),
        bbox=boxes_in_pixels(record),
        num_bbox=len(regions.boxes),
        image_h=regions.height,
        image_w=regions.width,
    )


def write_npy(name: Path, record: FeatureRecord) -> None:
    """Writes an image's files in ruotianluo's folders, and a line of `NAME_sizes.jsonl`, beside them.

    Raises:
        FeatureFileError: The image id can't be a file's name, or the size is unknown.
    """
    regions, stem = record.regions, file_name(record)
    features = np.asarray(regions.features, dtype=np.float32)
    np.save(folder_of(name, "box") / f"{stem}.npy", boxes_in_pixels(record))
    np.savez_compressed(folder_of(name, "att") / f"{stem}.npz", feat=features)
    mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1], np.float32)
    np.save(folder_of(name, "fc") / f"{stem}.npy", mean)
    line = {"image_id": record.image_id, "width": regions.width, "height": regions.height}
    with open(folder_of(name, "sizes.jsonl"), "a", encoding="utf-8") as sizes:
        sizes.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_sizes(file: Path) -> dict[str, tuple[int, int]]:
    """Width and height of images by image id.

    Args:
        file: JSON Lines of `image_id`, `width` and `height`, or JSON with a list `images` of such objects, as COCO's
            and ruotianluo's files have; ids may be called `id` or `cocoid`, too.

    Raises:
        FeatureFileError: The file is neither, with its line.
    """
    try:
        if file.suffix == ".jsonl":
            images = [image for _, image in read_json_lines(file)]
        else:
            images = read_json(file, "a list `images`")["images"]
    except (OSError, DataError, KeyError, TypeError) as error:
        raise FeatureFileError(f"{file}: no sizes of images ({type(error).__name__}: {error}).") from error
    sizes = {}
    for number, image in enumerate(images, start=1):
        try:
            image_id = next(image[key] for key in SIZE_KEYS if key in image)
            sizes[str(image_id)] = (int(image["width"]), int(image["height"]))
        except (StopIteration, KeyError, TypeError, ValueError) as error:
            raise FeatureFileError(f"{file}: image {number}: expected image_id, width and height.") from error
    return sizes
