# SPDX-License-Identifier: Apache-2.0
"""Boxes and masks on an image: outlines that stay apart, and numbers that cover no other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Stroke
from PIL import Image

from .figures import image_axes, point_size


Colour = tuple[float, ...]

TAG_POINTS = 9.0  # font size of the numbers
TITLE_POINTS = 10.0
LINE_POINTS = 1.7  # width of the outlines
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue
OPACITY = 0.45  # of masks
MASK_SIDE = 256  # pixels of the overlay of soft masks


def ink(colour: Colour) -> str:
    """Black or white, whichever can be read on a colour."""
    return "black" if np.dot(colour[:3], LUMINANCE) > 0.5 else "white"


def draw_regions(axes: Axes, boxes: np.ndarray, *, numbered: int = 10, masks: np.ndarray | None = None) -> None:
    """Outlines and numbers the first regions, from yellow over red to violet.

    Args:
        axes: Shows the image from (0, 0), the top left corner, to (1, 1).
        boxes: Most salient first, `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        numbered: This many are drawn; the others are left out.
        masks: In [0, 1] within each box, drawn as translucent overlays: (num_regions, m, m).
    """
    boxes = boxes[:numbered]
    colours = [colormaps["plasma"](0.95 - 0.62 * rank / max(len(boxes) - 1, 1)) for rank in range(len(boxes))]
    if masks is not None and len(boxes):
        whole = np.stack([whole_mask(mask, box) for mask, box in zip(masks[:numbered], boxes, strict=True)])
        draw_masks(axes, whole, colours)
    draw_numbered_boxes(axes, boxes, colours)


def whole_mask(mask: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A soft mask (m, m) within a box in [0, 1] as one of the whole image, (MASK_SIDE, MASK_SIDE)."""
    whole = np.zeros((MASK_SIDE, MASK_SIDE), dtype=np.float32)
    left, top, right, bottom = np.round(np.clip(box, 0, 1) * MASK_SIDE).astype(int)
    if right > left and bottom > top:
        soft = torch.from_numpy(np.asarray(mask, dtype=np.float32))[None, None]
        resized = F.interpolate(soft, (bottom - top, right - left), mode="bilinear")
        whole[top:bottom, left:right] = resized[0, 0].numpy()
    return whole


def draw_masks(axes: Axes, masks: np.ndarray, colours: Sequence[Colour]) -> None:
    """Masks in [0, 1] of the whole image (num_objects, height, width) as translucent overlays, the first on top."""
    if len(masks):
        axes.imshow(overlay(masks, colours), extent=(0, 1, 1, 0), aspect="auto", interpolation="nearest", zorder=2)


def overlay(masks: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Masks (num_objects, height, width) as one translucent image (height, width, 4), the first on top."""
    image = np.zeros((*masks.shape[1:], 4))
    for mask, colour in zip(masks[::-1], list(colours)[::-1], strict=True):
        inside = mask > 0.5
        image[inside] = (*colour[:3], OPACITY)
    return image


def draw_numbered_boxes(axes: Axes, boxes: np.ndarray, colours: Sequence[Colour]) -> None:
    """Outlines boxes (num_boxes, 4) in [0, 1] and numbers them from 1, the first on top."""
    point = point_size(axes)
    outlines = draw_outlines(axes, boxes, colours)
    taken: list[np.ndarray] = []
    for number, (box, colour) in enumerate(zip(outlines, colours, strict=True), start=1):
        size = np.array([1.0 + 0.75 * len(str(number)), 1.5]) * TAG_POINTS * point
        corner = tag_corner(box[:2], box[2:], size, taken)
        taken.append(corner)
        axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor=(0, 0, 0, 0.45), linewidth=0.6, zorder=5))
        centre = corner + size * [0.5, 0.54]  # digits have no descender
        style = {"fontsize": TAG_POINTS, "fontweight": "bold", "ha": "center", "va": "center_baseline", "zorder": 6}
        axes.text(*centre, str(number), color=ink(colour), **style)


def draw_outlines(axes: Axes, boxes: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Outlines boxes, the first on top, and returns where the outlines are: (num_boxes, 4)."""
    outlines = apart(np.asarray(boxes), LINE_POINTS * np.tile(point_size(axes), 2))
    shade = [Stroke(linewidth=LINE_POINTS + 1.0, foreground=(0, 0, 0, 0.45)), Stroke()]
    for rank, ((x0, y0, x1, y1), colour) in enumerate(zip(outlines, colours, strict=True)):
        style = {"edgecolor": colour, "linewidth": LINE_POINTS, "path_effects": shade}
        level = 4 - rank / len(outlines)
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, zorder=level, **style))
    return outlines


def apart(boxes: np.ndarray, line: np.ndarray) -> np.ndarray:
    """The boxes, moved inwards where one would be drawn over the side of another before it.

    Args:
        boxes: `x0, y0, x1, y1`: (num_boxes, 4).
        line: Width of a line at each of the four sides.
    """
    outlines = boxes.astype(float)
    inwards = np.array([1, 1, -1, -1])
    for rank, box in enumerate(boxes):
        for side in range(4):
            along = [1 - side % 2, 3 - side % 2]  # where the side begins and ends
            start, end = box[along]
            over = sum(
                abs(box[side] - other[side]) < line[side] and start < other[along[1]] and other[along[0]] < end
                for other in boxes[:rank]
            )
            room = abs(box[side] - box[side - 2]) / 4
            outlines[rank, side] += inwards[side] * min((0.6 + 1.4 * over) * line[side], room)
    return outlines


def tag_corner(low: np.ndarray, high: np.ndarray, size: np.ndarray, taken: list[np.ndarray]) -> np.ndarray:
    """The top left corner of a tag on the outline of a box, where it covers no other tag if there is such a place."""
    right, bottom = np.maximum(high - size, low)
    left, top = low
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]])
    steps = np.linspace(0, 1, 13)[:, None]
    edges = ((0, 1), (0, 2), (1, 3), (2, 3))
    along = [corners[start] + steps * (corners[end] - corners[start]) for start, end in edges]
    places = np.concatenate([corners, *along])
    covered = [sum(np.all(np.abs(place - other) < 1.02 * size) for other in taken) for place in places]
    return places[int(np.argmin(covered))]


def draw_objects(
    image: Image.Image, boxes: np.ndarray, titles: Sequence[str], *, masks: np.ndarray | None = None
) -> Any:
    """Draws an image with the objects in it.

    Args:
        image: The image.
        boxes: `x0, y0, x1, y1` in pixels, highest score first, which is drawn on top: (num_objects, 4).
        titles: What is written at each box.
        masks: True on each object: (num_objects, height, width).

    Returns:
        A figure, to be saved or shown.
    """
    figure, axes = image_axes(image)
    colours = [colormaps["tab10"](index % 10) for index in range(len(boxes))]
    if masks is not None:
        draw_masks(axes, masks, colours)
    outlines = draw_outlines(axes, scaled(boxes, image), colours)
    for rank, ((left, top, _, _), title, colour) in enumerate(zip(outlines, titles, colours, strict=True)):
        above = top > 2 * TITLE_POINTS * point_size(axes)[1]  # else there is no room above the box
        style = {"fontsize": TITLE_POINTS, "ha": "left", "va": "bottom" if above else "top", "clip_on": True}
        style["bbox"] = {"facecolor": colour, "edgecolor": "none", "pad": 1.5}
        # without mathematics: a class may be called anything
        axes.text(left, top, title, color=ink(colour), zorder=6 - rank / len(outlines), parse_math=False, **style)
    return figure


def scaled(boxes: Any, image: Image.Image) -> np.ndarray:
    """Boxes in pixels as boxes in [0, 1]."""
    return np.asarray(boxes, dtype=float).reshape(-1, 4) / [image.width, image.height, image.width, image.height]
