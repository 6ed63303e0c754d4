# SPDX-License-Identifier: Apache-2.0
"""Boxes that the user gives instead of those that a selector would propose."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .data_errors import DataError
from .json_files import read_json, read_json_lines


BOX_FORMATS = ("xyxy", "xywh", "relative")
OUTSIDE = 1.0  # pixels that a box may reach beyond the image: conventions differ by one


class GivenBoxes:
    """Boxes of images, from a JSON or JSON Lines file.

    JSON is an object of lists of boxes by image id; JSON Lines are objects with `image_id` (or `image`) and `boxes`.

    Args:
        file: Where they are.
        box_format: `"xyxy"` is x0, y0, x1, y1 and `"xywh"` x0, y0, width, height in pixels of the upright image;
            `"relative"` is x0, y0, x1, y1 in [0, 1].

    Raises:
        DataError: The file isn't one of the two, has a box that is none, or an image twice. Names file and line.
    """

    def __init__(self, file: str | Path, box_format: str = "xyxy"):
        if box_format not in BOX_FORMATS:
            raise DataError(f"box_format must be one of {BOX_FORMATS}, got {box_format!r}.")
        self.file = Path(file)
        self.box_format = box_format
        self.boxes: dict[str, np.ndarray] = {}
        try:
            self.digest = hashlib.sha256(box_format.encode() + self.file.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read as boxes ({error}).") from error
        for place, image_id, boxes in self._entries():
            if image_id in self.boxes:
                raise DataError(f"{place}: image {image_id!r} comes twice.")
            self.boxes[image_id] = self._array(boxes, f"{place}: image {image_id!r}")

    def _entries(self) -> Iterator[tuple[str, str, Any]]:
        if self.file.suffix.lower() not in (".jsonl", ".ndjson"):
            value = read_json(self.file, "an object of boxes by image id")
            if not isinstance(value, dict):
                raise DataError(f"{self.file}: expected an object of boxes by image id, got a {type(value).__name__}.")
            yield from ((str(self.file), image_id, boxes) for image_id, boxes in value.items())
            return
        for place, value in read_json_lines(self.file):
            image_id = value.get("image_id", value.get("image")) if isinstance(value, dict) else None
            if image_id is None or "boxes" not in value:
                raise DataError(f"{place}: expected an object with `image_id` and `boxes`.")
            yield place, str(image_id), value["boxes"]

    def _array(self, boxes: Any, name: str) -> np.ndarray:
        if not isinstance(boxes, list):
            raise DataError(f"{name}: expected a list of boxes, got {boxes!r}.")
        for place, box in enumerate(boxes):
            is_box = isinstance(box, list) and len(box) == 4
            if not is_box or not all(isinstance(side, (int, float)) and math.isfinite(side) for side in box):
                raise DataError(f"{name}: box {place} is {box!r}, expected four numbers ({self.box_format}).")
        array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        if self.box_format == "xywh":
            array[:, 2:] += array[:, :2]
        wrong = np.flatnonzero((array[:, 2:] <= array[:, :2]).any(axis=1))
        if len(wrong):
            raise DataError(f"{name}: box {wrong[0]} is {boxes[wrong[0]]}, which has no area as {self.box_format}.")
        return array

    def check(self, image_ids: Sequence[str]) -> None:
        """Raises `DataError` if there are images without an entry; one without boxes has an empty list."""
        missing = [image_id for image_id in image_ids if image_id not in self.boxes]
        if missing:
            raise DataError(
                f"{self.file} has no boxes of {len(missing)} of {len(image_ids)} images, such as {missing[0]!r}."
            )

    def relative(self, image_id: str, width: int, height: int) -> np.ndarray:
        """The boxes of an image as `x0, y0, x1, y1` in [0, 1]: (num_regions, 4), float32.

        Raises:
            DataError: One of them lies outside the image.
        """
        boxes = self.boxes[image_id]
        extent = np.array([width, height, width, height], dtype=np.float64)
        pixels = boxes * extent if self.box_format == "relative" else boxes
        outside = np.flatnonzero(((pixels < -OUTSIDE) | (pixels > extent + OUTSIDE)).any(axis=1))
        if len(outside):
            raise DataError(
                f"{self.file}: image {image_id!r}: box {outside[0]} ends at {pixels[outside[0]].round(1).tolist()} "
                f"(x0, y0, x1, y1), outside the image of {width} x {height} pixels."
            )
        return (pixels / extent).astype(np.float32)
