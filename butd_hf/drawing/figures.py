# SPDX-License-Identifier: Apache-2.0
"""Figures that images fill, and saving them."""

import math
import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..atomic_write import atomic_write


AREA = 30.0  # of an image's figure, in square inches
LARGEST_ASPECT = 4.0  # panoramas are squeezed to it


def aspect_of(image: Image.Image, largest: float = LARGEST_ASPECT) -> float:
    """Width by height, no further from square than `largest`."""
    return min(max(image.width / image.height, 1 / largest), largest)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with a canvas of its own: without pyplot nothing is global, and any thread draws."""
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_image(figure: Figure, place: tuple[float, ...], pixels: Image.Image | np.ndarray) -> Axes:
    """Axes that an image fills, at left, bottom, width and height in [0, 1]: (0, 0) is the image's top left corner."""
    axes = figure.add_axes(place, label=str(len(figure.axes)))
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    axes.axis("off")
    axes.imshow(pixels, extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased")
    return axes


def image_axes(image: Image.Image) -> tuple[Figure, Axes]:
    """A figure that an image fills, and its axes from (0, 0), the top left corner, to (1, 1)."""
    aspect = aspect_of(image)
    figure = new_figure(math.sqrt(AREA * aspect), math.sqrt(AREA / aspect))
    return figure, add_image(figure, (0, 0, 1, 1), image.convert("RGB"))


def point_size(axes: Axes) -> np.ndarray:
    """Width and height of a point in the units of axes that go from 0 to 1."""
    place = axes.get_position()
    return 1 / (np.array([place.width, place.height]) * axes.figure.get_size_inches() * 72)


def check_figure_file(file: str | os.PathLike) -> None:
    """Raises `ValueError` if the suffix of the file names no format that figures are saved in."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if Path(file).suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"cannot draw to {str(file)!r}: expected a suffix among {', '.join(sorted(known))}.")


def save_figure(figure: Figure, file: str | os.PathLike) -> None:
    """Saves a figure in the format that the file's suffix names. Raises `ValueError` if there is no such format."""
    check_figure_file(file)
    with atomic_write(file) as unfinished:
        figure.savefig(unfinished, format=Path(file).suffix.removeprefix(".").lower())
