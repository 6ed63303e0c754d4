# SPDX-License-Identifier: Apache-2.0
"""
Feature files with an image each.

MILVLG's bottom-up-attention.pytorch and OpenVQA: `ID.npz` with `x`, `bbox`, `num_bbox`, `image_h` and `image_w`.
ruotianluo's captioning code: folders `NAME_att` (`ID.npz` with `feat`, or `ID.npy`), `NAME_fc` (`ID.npy`, the mean)
and `NAME_box` (`ID.npy`, pixels); sizes of pictures are elsewhere.
"""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .records import FeatureFileError, FeatureRecord, boxes_in_pixels, file_name, matrix, regions_of_pixels


UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)
SIZE_KEYS = ("id", "image_id", "cocoid", "imgid")


def files_of(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Files of a folder as they lie there: sorting them would need all their names."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffixes) and not entry.name.startswith("."):
                yield Path(entry.path)


def error_in(place: str, column: str, problem: str) -> FeatureFileError:
    """An error in one of a file's arrays."""
    return FeatureFileError(f"{place}: {column}: {problem}.")


def read_array(file: Path, name: str | None = None) -> Any:
    """An array of a file, by its name in an archive. Pickles are not read. Raises `FeatureFileError`."""
    try:
        with open(file, "rb") as opened:
            content = np.load(opened, allow_pickle=False)
            return content if name is None else content[name]
    except UNREADABLE as error:
        what = "" if name is None else f" {name}:"
        raise FeatureFileError(f"{file}:{what} cannot be read ({type(error).__name__}: {error}).") from error


def read_npz(folder: Path) -> Iterator[FeatureRecord]:
    """
    The images of a folder in MILVLG's layout, one in memory at a time.

    OpenVQA's files have `x` turned, `(region_size, num_regions)`; which it is, the number of boxes tells.

    Raises:
        FeatureFileError: With file and array.
    """
    for file in files_of(folder, (".npz",)):
        place = str(file)
        boxes = matrix(read_array(file, "bbox"), "bbox", place, columns=4)
        features = matrix(read_array(file, "x"), "x", place)
        if features.shape[0] != len(boxes) and features.shape[1] == len(boxes):
            features = np.ascontiguousarray(features.T)
        count = whole_number(file, "num_bbox")
        if len(features) != len(boxes) or count > len(boxes):
            raise FeatureFileError(
                f"{place}: x has shape {features.shape}, bbox {boxes.shape} and num_bbox is {count}; they don't fit."
            )
        height, width = (whole_number(file, name) for name in ("image_h", "image_w"))
        names = {"features": "x", "boxes": "bbox"}
        fail = lambda column, problem, place=place, names=names: error_in(  # noqa: E731, with the file's own names
            place, names.get(column, column), problem
        )
        regions = regions_of_pixels(features[:count], boxes[:count], width, height, fail)
        yield FeatureRecord(file.name.removesuffix(".npz"), regions, place)


def whole_number(file: Path, name: str) -> int:
    """A number of an archive."""
    value = read_array(file, name)
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise FeatureFileError(f"{file}: {name}: expected a number, got shape {value.shape} of {value.dtype}.")
    return int(value.reshape(()))


class NpzWriter:
    """Writes a folder in MILVLG's layout."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder = folder

    def write(self, record: FeatureRecord) -> None:
        """Writes an image's file. Raises `FeatureFileError` for an id that can't be a file's, or an unknown size."""
        regions = record.regions
        np.savez_compressed(
            self.folder / f"{file_name(record)}.npz",
            x=np.asarray(regions.features, dtype=np.float32),
            bbox=boxes_in_pixels(record),
            num_bbox=len(regions.boxes),
            image_h=regions.height,
            image_w=regions.width,
        )

    def close(self) -> None:
        """All is written already."""


def read_npy(name: Path, sizes: Mapping[str, tuple[int, int]]) -> Iterator[FeatureRecord]:
    """
    The images of ruotianluo's folders, one in memory at a time.

    Args:
        name: What the folders' names begin with: `data/cocobu` of `data/cocobu_att` and its kin.
        sizes: Width and height of each picture, which the folders don't tell.

    Raises:
        FeatureFileError: With file, and array where it has names.
    """
    for file in files_of(folder_of(name, "att"), (".npz", ".npy")):
        image_id = file.name.rpartition(".")[0]
        features = matrix(read_array(file, "feat" if file.suffix == ".npz" else None), "features", str(file))
        box_file = folder_of(name, "box") / f"{image_id}.npy"
        boxes = matrix(read_array(box_file), "boxes", str(box_file), columns=4)
        if len(boxes) != len(features):
            raise FeatureFileError(f"{file}: {len(features)} features, but {len(boxes)} boxes in {box_file}.")
        if image_id not in sizes:
            raise FeatureFileError(f"{file}: the size of the picture is not known: its boxes are in pixels.")
        files = {"features": str(file), "boxes": str(box_file)}
        fail = lambda column, problem, files=files: error_in(  # noqa: E731, names the file that the array is in
            files.get(column, files["boxes"]), column, problem
        )
        yield FeatureRecord(image_id, regions_of_pixels(features, boxes, *sizes[image_id], fail), str(file))


def folder_of(name: Path, part: str) -> Path:
    """One of ruotianluo's folders."""
    return name.with_name(f"{name.name}_{part}")


class NpyWriter:
    """Writes ruotianluo's folders, and beside them the sizes of pictures: `NAME_sizes.jsonl`."""

    def __init__(self, name: Path):
        self.name = name
        for part in ("att", "fc", "box"):
            folder_of(name, part).mkdir(parents=True)
        self.sizes = open(name.with_name(f"{name.name}_sizes.jsonl"), "w", encoding="utf-8")  # noqa: SIM115, as above

    def write(self, record: FeatureRecord) -> None:
        """Writes an image's files. Raises `FeatureFileError` for an id that can't be a file's, or an unknown size."""
        regions, stem = record.regions, file_name(record)
        features = np.asarray(regions.features, dtype=np.float32)
        np.savez_compressed(folder_of(self.name, "att") / f"{stem}.npz", feat=features)
        mean = features.mean(axis=0) if len(features) else np.zeros(features.shape[1], np.float32)
        np.save(folder_of(self.name, "fc") / f"{stem}.npy", mean)
        np.save(folder_of(self.name, "box") / f"{stem}.npy", boxes_in_pixels(record))
        line = {"image_id": record.image_id, "width": regions.width, "height": regions.height}
        self.sizes.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self.sizes.close()


def read_sizes(file: Path) -> dict[str, tuple[int, int]]:
    """
    Width and height of pictures by image id.

    Args:
        file: JSON Lines of `image_id`, `width` and `height`, or JSON with a list `images` of such objects, as COCO's
            and ruotianluo's files have; ids may be called `id` or `cocoid`, too.

    Raises:
        FeatureFileError: The file is neither, with its line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            images = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            images = json.loads(text)["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureFileError(f"{file}: no sizes of pictures ({type(error).__name__}: {error}).") from error
    sizes = {}
    for number, image in enumerate(images, start=1):
        try:
            image_id = next(image[key] for key in SIZE_KEYS if key in image)
            sizes[str(image_id)] = (int(image["width"]), int(image["height"]))
        except (StopIteration, KeyError, TypeError, ValueError) as error:
            raise FeatureFileError(f"{file}: image {number}: expected image_id, width and height.") from error
    return sizes
