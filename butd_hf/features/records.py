# SPDX-License-Identifier: Apache-2.0
"""The regions of an image in a feature file, and checks that all kinds of files share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.region_rows import StoredRegions


OUTSIDE = 1.5  # pixels that a published box may reach beyond its image


class FeatureFileError(ValueError):
    """A damaged feature file. The message names file, line and column where there are any."""


@dataclass
class FeatureRecord:
    """An image in a feature file.

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
    error: Callable[[str, str], Exception],
    **labels: np.ndarray,
) -> StoredRegions:
    """Regions whose boxes are in pixels of the image.

    Boxes are divided by the image's width and height as they are: published ones end at most at `width - 1` and
    `height - 1`, and models that were trained on them divided likewise.

    Args:
        features: `(num_regions, region_size)`.
        boxes: `(num_regions, 4)`, `x0, y0, x1, y1`.
        width, height: Of the image.
        error: Makes an error of the column at fault and of what is wrong with it.
        labels: `labels`, `label_scores`, `attributes` and `attribute_scores`, if there are any.
    """
    for name, values in (("features", features), ("boxes", boxes)):
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise error(name, f"region {wrong[0]} has NaN or infinite values")
    if width < 1 or height < 1:
        raise error("image_w" if width < 1 else "image_h", f"expected a positive size, got {width} x {height}")
    extent = np.array([width, height, width, height], dtype=np.float64)
    if (boxes > extent + OUTSIDE).any():
        is_swapped = (boxes <= extent[[1, 0, 1, 0]] + OUTSIDE).all()
        swapped = "; width and height seem to have changed places" if is_swapped else ""
        raise error("boxes", f"a box ends outside its image of {width} x {height} pixels{swapped}")
    ones = np.ones(len(boxes), dtype=np.float32)
    return StoredRegions(
        features=features,
        boxes=(boxes.astype(np.float64) / extent).astype(np.float32),
        saliency=labels.get("label_scores", ones).astype(np.float32),
        mask=ones.astype(bool),
        width=width,
        height=height,
        **labels,
    )


def boxes_in_pixels(record: FeatureRecord) -> np.ndarray:
    """Boxes as `x0, y0, x1, y1` in pixels: (num_regions, 4), float32. Raises if the image's size is unknown."""
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
