# SPDX-License-Identifier: Apache-2.0
"""A caption explained: the image with its regions, and for each word where the model attends to."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from .boxes import draw_regions
from .figures import add_image, aspect_of, new_figure
from .heat import LONGEST_SIDE, attention_map, heated


IMAGE_AREA = 20.0  # of the large image, in square inches
TITLE = 0.27  # inches above each word's panel
GAP = 0.12  # inches between panels
MARGIN = 0.25  # inches around all
LETTERS_PER_INCH = 7.0  # of the headline
LARGEST_ASPECT = 3.0  # panels of panoramas would be slits


def draw_caption(
    image: Image.Image,
    boxes: np.ndarray,
    words: Sequence[str],
    attentions: np.ndarray,
    *,
    caption: str | None = None,
    numbered: int = 10,
    masks: np.ndarray | None = None,
) -> Figure:
    """Draws an image with its most salient regions, and a panel per word with where the model attends to.

    A panel is bright where attention is high, and outlines the region with most of it, whose share is in the title.

    Args:
        image: The image.
        boxes: Regions, most salient first, `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        words: Words of the caption.
        attentions: Attention of each word over the regions: (num_words, num_regions).
        caption: The headline; the words by default.
        numbered: How many regions are outlined and numbered.
        masks: In [0, 1] within each box: (num_regions, m, m).

    Returns:
        A figure, to be saved or shown.
    """
    image = image.convert("RGB")
    aspect = aspect_of(image, LARGEST_ASPECT)
    image_width, image_height = math.sqrt(IMAGE_AREA * aspect), math.sqrt(IMAGE_AREA / aspect)
    rows, columns = panel_grid(len(words), aspect)
    panel_height = (image_height - rows * TITLE - (rows - 1) * GAP) / rows
    panel_width = panel_height * aspect

    width = 2 * MARGIN + image_width + columns * (GAP + panel_width) + (GAP if columns else 0)
    letters = int((width - 2 * MARGIN) * LETTERS_PER_INCH)
    headline = textwrap.wrap(caption if caption is not None else " ".join(words), width=letters) or [""]
    head = 0.32 * len(headline) + 0.12
    height = 2 * MARGIN + head + image_height
    figure = new_figure(width, height)
    style = {"fontsize": 16, "fontweight": "bold", "ha": "left", "va": "top", "linespacing": 1.3}
    figure.text(MARGIN / width, 1 - MARGIN / height, "\n".join(headline), **style)

    def place(left: float, top: float, axes_width: float, axes_height: float) -> tuple[float, ...]:
        """Inches from the top left corner as matplotlib's shares from the bottom left one."""
        return left / width, 1 - (top + axes_height) / height, axes_width / width, axes_height / height

    large = add_image(figure, place(MARGIN, MARGIN + head, image_width, image_height), image)
    draw_regions(large, boxes, numbered=numbered, masks=masks)

    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    pixels = np.asarray(small, dtype=np.float32) / 255
    for index, (word, attention) in enumerate(zip(words, attentions, strict=True)):
        row, column = divmod(index, columns)
        left = MARGIN + image_width + 2 * GAP + column * (panel_width + GAP)
        top = MARGIN + head + row * (panel_height + TITLE + GAP) + TITLE
        panel = heated(pixels, attention_map(boxes, attention, *pixels.shape[:2]))
        axes = add_image(figure, place(left, top, panel_width, panel_height), panel)
        axes.set_title(word, fontsize=11, loc="left", pad=4)
        if len(boxes):
            most = int(attention.argmax())
            x0, y0, x1, y1 = np.clip(boxes[most], 0.008, 0.992)  # an outline at the border shows whole
            for colour, line in (((0, 0, 0, 0.5), 2.4), ("white", 1.2)):
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=line))
            axes.set_title(f"{attention[most]:.0%}", fontsize=8, loc="right", pad=4, color="0.45")
    return figure


def panel_grid(num_panels: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of panels as high as the image, about up to twice as wide."""
    widest = 2.0 if aspect < 1.5 else 1.5
    rows = 2
    while math.ceil(num_panels / rows) / rows > widest:
        rows += 1
    return rows, math.ceil(num_panels / rows)
