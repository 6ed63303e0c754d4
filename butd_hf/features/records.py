# SPDX-License-Identifier: Apache-2.0
"""What every kind of feature file says of an image, and how it is checked."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.region_rows import StoredRegions


OUTSIDE = 1.5  # pixels that a published box may reach beyond its picture


class FeatureFileError(ValueError):
    """A feature file that is damaged. The message says where: file, line and column where there are any."""


@dataclass
class FeatureRecord:
    """
    An image in a feature file.

    Args:
        image_id: Its name.
        regions: Its regions, boxes in [0, 1].
        place: Where it was read, for messages.
    """

    image_id: str
    regions: StoredRegions
    place: str = ""


def regions_of_pixels(
    features: np.ndarray,
    boxes: np.ndarray,
    width: int,
    height: int,
    fail: Callable[[str, str], Exception],
    **beliefs: np.ndarray,
) -> StoredRegions:
    """
    Regions whose boxes are in pixels of the picture.

    Boxes are divided by the picture's width and height as they are: published ones end at most at `width - 1` and
    `height - 1`, and models that were trained on them divided likewise.

    Args:
        features: `(num_regions, region_size)`.
        boxes: `(num_regions, 4)`, `x0, y0, x1, y1`.
        width, height: Of the picture.
        fail: Makes an error of the column at fault and of what is wrong with it.
        beliefs: `labels` and the like.
    """
    for name, values in (("features", features), ("boxes", boxes)):
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise fail(name, f"region {wrong[0]} has NaN or infinite values")
    if width < 1 or height < 1:
        raise fail("image_w" if width < 1 else "image_h", f"expected a positive size, got {width} x {height}")
    extent = np.array([width, height, width, height], dtype=np.float64)
    if len(boxes) and (boxes > extent + OUTSIDE).any():
        turned = "; width and height seem to have changed places" if fits(boxes, height, width) else ""
        raise fail("boxes", f"a box ends outside its picture of {width} x {height} pixels{turned}")
    scores = beliefs.get("label_scores")
    return StoredRegions(
        features=features,
        boxes=(boxes.astype(np.float64) / extent).astype(np.float32),
        saliency=np.ones(len(boxes), dtype=np.float32) if scores is None else scores.astype(np.float32),
        mask=np.ones(len(boxes), dtype=bool),
        width=width,
        height=height,
        **beliefs,
    )


def fits(boxes: np.ndarray, width: int, height: int) -> bool:
    """Whether boxes lie within a picture."""
    return bool((boxes <= np.array([width, height, width, height]) + OUTSIDE).all())


def boxes_in_pixels(record: FeatureRecord) -> np.ndarray:
    """Boxes as `x0, y0, x1, y1` in pixels: (num_regions, 4), float32. Raises if the picture's size is unknown."""
    regions = record.regions
    if regions.width < 1 or regions.height < 1:
        raise FeatureFileError(
            f"{record.place}: the size of image {record.image_id!r} is unknown, boxes are in pixels."
        )
    extent = np.array([regions.width, regions.height, regions.width, regions.height], dtype=np.float64)
    return (regions.boxes.astype(np.float64) * extent).astype(np.float32)


def file_name(record: FeatureRecord) -> str:
    """The image's id as the name of a file. Raises `FeatureFileError` where it can be none."""
    if Path(record.image_id).name != record.image_id:
        raise FeatureFileError(f"{record.place}: image id {record.image_id!r} can't be the name of a file.")
    return record.image_id


def matrix(values: Any, name: str, place: str, columns: int | None = None) -> np.ndarray:
    """An array of numbers with two dimensions, float32. Raises `FeatureFileError` if it is none."""
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or columns not in (None, array.shape[1]):
        expected = "(num_regions, region_size)" if columns is None else f"(num_regions, {columns})"
        raise FeatureFileError(f"{place}: {name} has shape {array.shape} and type {array.dtype}, expected {expected}.")
    return array.astype(np.float32)
