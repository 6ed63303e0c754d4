# SPDX-License-Identifier: Apache-2.0
"""The Bottom-Up TSV: a line per image, arrays as base64 of float32.

As the code of Anderson et al. (2018) writes it there are six columns, width before height; as that of LXMERT (Tan &
Bansal 2019), ten, height before width. Neither has a header.
"""

import base64
import binascii
import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .records import FeatureFileError, FeatureRecord, boxes_in_pixels, regions_of_pixels


LXMERT = "image_id image_h image_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features"
COLUMNS = {
    "tsv": ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    "lxmert": tuple(LXMERT.split()),
}
LONGEST_LINE = 1 << 28  # bytes; 100 regions take about one million
FLOATS, NUMBERS = np.dtype(np.float32), np.dtype(np.int64)
# column of the file: name of it here, its type
LABELS = {
    "objects_id": ("labels", NUMBERS),
    "objects_conf": ("label_scores", FLOATS),
    "attrs_id": ("attributes", NUMBERS),
    "attrs_conf": ("attribute_scores", FLOATS),
}


class Line:
    """A line of a TSV file, whose errors name file, line and column."""

    def __init__(self, file: Path, number: int, content: bytes, columns: tuple[str, ...]):
        self.file = file
        self.number = number
        self.columns = columns
        self.is_whole = content.endswith(b"\n")
        self.values = content.rstrip(b"\r\n").split(b"\t")
        if len(self.values) != len(columns):
            raise self.error(
                min(len(self.values), len(columns)) - 1,
                f"the line has {len(self.values)} columns, expected {len(columns)}: {', '.join(columns)}",
            )

    def error(self, column: str | int, problem: str) -> FeatureFileError:
        """An error in a column."""
        column = self.columns.index(column) if isinstance(column, str) else column
        cut = "" if self.is_whole else "; the file ends within this line, it seems to be truncated"
        return FeatureFileError(
            f"{self.file}:{self.number}: column {column + 1} ({self.columns[column]}): {problem}{cut}."
        )

    def value(self, column: str) -> bytes:
        return self.values[self.columns.index(column)]

    def text(self, column: str) -> str:
        """Text in a column."""
        try:
            text = self.value(column).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(column, f"no text ({error.reason})") from error
        if not text:
            raise self.error(column, "is empty")
        return text

    def integer(self, column: str) -> int:
        """A whole number that isn't negative."""
        try:
            value = int(self.value(column))
        except ValueError as error:
            raise self.error(column, f"expected a whole number, got {self.value(column)[:40]!r}") from error
        if value < 0:
            raise self.error(column, f"expected a number that is not negative, got {value}")
        return value

    def array(self, column: str, dtype: np.dtype, rows: int, row_size: int | None) -> np.ndarray:
        """An array of so many rows, of any size per row if none is given."""
        content = self.value(column)
        if content[:2] in (b"b'", b'b"'):  # Python 3 code for Python 2 wrote the bytes' own notation
            content = content[2:-1]
        try:
            raw = base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.error(column, f"no base64 ({error})") from error
        step = rows * dtype.itemsize
        wanted = f"a multiple of {step}" if row_size is None else f"{step * row_size}"
        if row_size is None:
            row_size = len(raw) // step if step else 0
        if len(raw) != step * row_size:
            raise self.error(
                column, f"{len(raw)} bytes, expected {wanted} for num_boxes {rows} of {dtype.itemsize}-byte numbers"
            )
        return np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(rows, row_size)


def read_tsv(file: Path, columns: tuple[str, ...] | None = None) -> Iterator[FeatureRecord]:
    """The images of a TSV file, one in memory at a time.

    Args:
        file: The file.
        columns: Names of its columns; recognised by their number if None.

    Raises:
        FeatureFileError: With file, line and column.
    """
    region_size: int | None = None
    with open(file, "rb") as lines:
        for number, content in enumerate(iter(lambda: lines.readline(LONGEST_LINE), b""), start=1):
            if number == 1:
                content = content.removeprefix(codecs.BOM_UTF8)
            if not content.strip(b"\r\n"):
                continue
            columns = columns or columns_of(content)
            line = Line(file, number, content, columns)
            if len(content) == LONGEST_LINE:
                raise line.error(len(columns) - 1, f"the line is longer than {LONGEST_LINE} bytes")
            image_id, count = line.text("image_id"), line.integer("num_boxes")
            features = line.array("features", FLOATS, count, region_size)
            if count:
                region_size = features.shape[1]
                if not region_size:
                    raise line.error("features", "is empty")
            known = {column: LABELS[column] for column in columns if column in LABELS}
            regions = regions_of_pixels(
                features,
                line.array("boxes", FLOATS, count, 4),
                line.integer("image_w"),
                line.integer("image_h"),
                line.error,
                **{name: line.array(column, dtype, count, 1)[:, 0] for column, (name, dtype) in known.items()},
            )
            yield FeatureRecord(image_id, regions, f"{file}:{number}")


def columns_of(content: bytes) -> tuple[str, ...]:
    """The columns of a file whose first line has so many; those of Anderson et al. where it fits none."""
    count = content.count(b"\t") + 1
    return next((columns for columns in COLUMNS.values() if len(columns) == count), COLUMNS["tsv"])


def line_of(record: FeatureRecord, columns: tuple[str, ...]) -> bytes:
    """The line of an image, with the columns of `COLUMNS`.

    Raises:
        FeatureFileError: An id with a tab or a line break, or an unknown size.
    """
    if any(sign in record.image_id for sign in "\t\r\n"):
        raise FeatureFileError(f"{record.place}: image id {record.image_id!r} can't be in a TSV file.")
    regions, count = record.regions, len(record.regions.boxes)
    values: dict[str, bytes] = {
        "image_id": record.image_id.encode("utf-8"),
        "image_w": str(regions.width).encode(),
        "image_h": str(regions.height).encode(),
        "num_boxes": str(count).encode(),
        "boxes": encoded(boxes_in_pixels(record), FLOATS),
        "features": encoded(regions.features, FLOATS),
    }
    for column, (name, dtype) in LABELS.items():
        known = getattr(regions, name)
        values[column] = encoded(np.zeros(count) if known is None else known, dtype)
    return b"\t".join(values[column] for column in columns) + b"\n"


def encoded(array: np.ndarray, dtype: np.dtype) -> bytes:
    """Base64 of an array's bytes, little-endian."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype.newbyteorder("<")).tobytes())
