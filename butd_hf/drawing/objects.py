# SPDX-License-Identifier: Apache-2.0
"""Objects on a picture: boxes with their names, masks as translucent overlays."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from .regions import LUMINANCE, apart


AREA = 30.0  # of the figure, in square inches
LINE_POINTS = 1.8
TITLE_POINTS = 10.0
OPACITY = 0.45  # of masks
LARGEST_ASPECT = 4.0  # panoramas are squeezed to it


def draw_picture(image: Image.Image) -> tuple[Figure, Axes]:
    """A figure that a picture fills, and its axes from (0, 0), the top left corner, to (1, 1)."""
    aspect = min(max(image.width / image.height, 1 / LARGEST_ASPECT), LARGEST_ASPECT)
    figure = Figure(figsize=(math.sqrt(AREA * aspect), math.sqrt(AREA / aspect)), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)  # no pyplot: nothing global, any thread
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    axes.axis("off")
    axes.imshow(image.convert("RGB"), extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased")
    return figure, axes


def draw_objects(
    image: Image.Image, boxes: np.ndarray, titles: Sequence[str], *, masks: np.ndarray | None = None
) -> Figure:
    """
    Draws a picture with the objects in it.

    Args:
        image: The picture.
        boxes: `x0, y0, x1, y1` in pixels, the most certain first, which is drawn on top: (num_objects, 4).
        titles: What is written at each box.
        masks: True on each object: (num_objects, height, width).
    """
    figure, axes = draw_picture(image)
    colours = [colormaps["tab10"](index % 10) for index in range(len(boxes))]
    if masks is not None and len(masks):
        axes.imshow(overlay(masks, colours), extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest", zorder=2)
    point = 1 / (figure.get_size_inches() * 72)  # in the axes' own units
    outlines = apart(scaled(boxes, image), LINE_POINTS * np.tile(point, 2))
    for rank, ((left, top, right, bottom), title, colour) in enumerate(zip(outlines, titles, colours, strict=True)):
        level = 4 - rank / len(outlines)
        axes.add_patch(
            Rectangle(
                (left, top),
                right - left,
                bottom - top,
                fill=False,
                edgecolor=colour,
                linewidth=LINE_POINTS,
                zorder=level,
            )
        )
        above = top > 2 * TITLE_POINTS * point[1]  # else there is no room above the box
        axes.text(
            left,
            top,
            title,
            color="black" if np.dot(colour[:3], LUMINANCE) > 0.5 else "white",
            fontsize=TITLE_POINTS,
            ha="left",
            va="bottom" if above else "top",
            zorder=level + 2,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
            clip_on=True,
            parse_math=False,  # a class may be called anything
        )
    return figure


def scaled(boxes: np.ndarray, image: Image.Image) -> np.ndarray:
    """Boxes in pixels as boxes in [0, 1]."""
    return np.asarray(boxes, dtype=float).reshape(-1, 4) / [image.width, image.height, image.width, image.height]


def overlay(masks: np.ndarray, colours: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """Masks (num_objects, height, width) as one translucent picture (height, width, 4), the first on top."""
    picture = np.zeros((*masks.shape[1:], 4))
    for mask, colour in zip(masks[::-1], list(colours)[::-1], strict=True):
        picture[mask.astype(bool)] = (*colour[:3], OPACITY)
    return picture
