# SPDX-License-Identifier: Apache-2.0
"""A caption explained: the picture with its regions, and for each word where the model looked."""

import math
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from .heat import LONGEST_SIDE, attention_map, heated
from .regions import draw_regions


PICTURE_AREA = 20.0  # of the large picture, in square inches
TITLE = 0.27  # inches above each word's panel
GAP = 0.12  # inches between panels
MARGIN = 0.25  # inches around all
LETTERS_PER_INCH = 7.0  # of the headline
LARGEST_ASPECT = 3.0  # panoramas are squeezed to it: their panels would be slits


def draw_caption(
    image: Image.Image,
    boxes: np.ndarray,
    words: Sequence[str],
    attentions: np.ndarray,
    *,
    caption: str | None = None,
    numbered: int = 10,
) -> Figure:
    """
    Draws a picture with its most salient regions, and a panel per word with where the model looked.

    A panel is bright where attention went, and outlines the region with most of it, whose share the title tells.

    Args:
        image: The picture.
        boxes: Regions, most salient first, `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        words: Words of the caption.
        attentions: Attention of each word over the regions: (num_words, num_regions).
        caption: The headline; the words by default.
        numbered: How many regions are outlined and numbered.

    Returns:
        A figure with a canvas of its own, to be saved or shown.
    """
    image = image.convert("RGB")
    aspect = min(max(image.width / image.height, 1 / LARGEST_ASPECT), LARGEST_ASPECT)
    picture_width, picture_height = math.sqrt(PICTURE_AREA * aspect), math.sqrt(PICTURE_AREA / aspect)
    rows, columns = panel_grid(len(words), aspect)
    panel_height = (picture_height - rows * TITLE - (rows - 1) * GAP) / rows
    panel_width = panel_height * aspect

    width = 2 * MARGIN + picture_width + columns * (GAP + panel_width) + (GAP if columns else 0)
    letters = int((width - 2 * MARGIN) * LETTERS_PER_INCH)
    headline = textwrap.wrap(caption if caption is not None else " ".join(words), width=letters) or [""]
    head = 0.32 * len(headline) + 0.12
    height = 2 * MARGIN + head + picture_height
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)  # no pyplot: nothing global, any thread
    figure.text(
        MARGIN / width,
        1 - MARGIN / height,
        "\n".join(headline),
        fontsize=16,
        fontweight="bold",
        ha="left",
        va="top",
        linespacing=1.3,
    )

    def add_axes(left: float, top: float, axes_width: float, axes_height: float) -> Axes:
        """Axes at a place in inches from the top left corner."""
        place = (left / width, 1 - (top + axes_height) / height, axes_width / width, axes_height / height)
        axes = figure.add_axes(place)
        axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def show(axes: Axes, pixels: Image.Image | np.ndarray) -> None:
        axes.imshow(pixels, extent=(0, 1, 1, 0), aspect="auto", interpolation="antialiased")

    large = add_axes(MARGIN, MARGIN + head, picture_width, picture_height)
    show(large, image)
    draw_regions(large, boxes, numbered=numbered)

    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    pixels = np.asarray(small, dtype=np.float32) / 255
    for index, (word, attention) in enumerate(zip(words, attentions, strict=True)):
        row, column = divmod(index, columns)
        left = MARGIN + picture_width + 2 * GAP + column * (panel_width + GAP)
        top = MARGIN + head + row * (panel_height + TITLE + GAP) + TITLE
        axes = add_axes(left, top, panel_width, panel_height)
        show(axes, heated(pixels, attention_map(boxes, attention, *pixels.shape[:2])))
        axes.set_title(word, fontsize=11, loc="left", pad=4)
        if len(boxes):
            draw_strongest(axes, boxes, attention)
    return figure


def draw_strongest(axes: Axes, boxes: np.ndarray, attention: np.ndarray) -> None:
    """Outlines the region with most attention and tells its share."""
    strongest = int(attention.argmax())
    left, top, right, bottom = np.clip(boxes[strongest], 0.008, 0.992)  # an outline at the border shows whole
    for colour, line in (((0, 0, 0, 0.5), 2.4), ("white", 1.2)):
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=line)
        )
    axes.set_title(f"{attention[strongest]:.0%}", fontsize=8, loc="right", pad=4, color="0.45")


def panel_grid(num_panels: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of panels as high as the picture, about up to twice as wide."""
    widest = 2.0 if aspect < 1.5 else 1.5
    rows = 2
    while math.ceil(num_panels / rows) / rows > widest:
        rows += 1
    return rows, math.ceil(num_panels / rows)


def check_figure_file(file: str | os.PathLike) -> None:
    """Raises `ValueError` if the suffix of the file names no format that figures are saved in."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if Path(file).suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"cannot draw to {str(file)!r}: expected a suffix among {', '.join(sorted(known))}.")


def save_figure(figure: Figure, file: str | os.PathLike) -> None:
    """
    Saves a figure in the format that the file's suffix names. It is written beside its place and then renamed, so that
    nobody meets half of it.

    Raises:
        ValueError: If there is no such format.
    """
    check_figure_file(file)
    file = Path(file)
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        figure.savefig(unfinished, format=file.suffix.removeprefix(".").lower())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
