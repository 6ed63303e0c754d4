# SPDX-License-Identifier: Apache-2.0
"""Regions on a picture, numbered by saliency."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Stroke


TAG_POINTS = 9.0  # font size of the numbers
LINE_POINTS = 1.6  # width of the outlines
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue


def rank_colour(rank: int, count: int) -> tuple[float, float, float, float]:
    """Colour of the region of this rank, from 0, among `count`: yellow for the first, then red, then violet."""
    return colormaps["plasma"](0.95 - 0.62 * rank / max(count - 1, 1))


def draw_regions(axes: Axes, boxes: np.ndarray, *, numbered: int = 10) -> None:
    """
    Outlines regions and numbers the first of them.

    Args:
        axes: Shows the picture from (0, 0) to (1, 1), the top left corner at (0, 0).
        boxes: Most salient first, `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        numbered: This many are drawn with a number; the others are left out.
    """
    place = axes.get_position()
    # sizes in points become sizes in the axes' own units
    point = 1 / (np.array([place.width, place.height]) * axes.figure.get_size_inches() * 72)
    size = np.array([1.75, 1.5]) * TAG_POINTS * point
    outlines = apart(boxes[:numbered], LINE_POINTS * np.tile(point, 2))

    taken: list[np.ndarray] = []
    for rank, (low, high) in enumerate(outlines.reshape(-1, 2, 2)):
        colour = rank_colour(rank, len(outlines))
        axes.add_patch(
            Rectangle(
                low,
                *(high - low),
                fill=False,
                edgecolor=colour,
                linewidth=LINE_POINTS,
                zorder=4 - rank / len(outlines),  # the most salient on top
                path_effects=[Stroke(linewidth=LINE_POINTS + 1.0, foreground=(0, 0, 0, 0.45)), Stroke()],
            )
        )
        corner = tag_corner(low, high, size, taken)
        taken.append(corner)
        axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor=(0, 0, 0, 0.45), linewidth=0.6, zorder=5))
        axes.text(
            *(corner + size * [0.5, 0.54]),  # digits have no descender
            str(rank + 1),
            color="black" if np.dot(colour[:3], LUMINANCE) > 0.5 else "white",
            fontsize=TAG_POINTS,
            fontweight="bold",
            ha="center",
            va="center_baseline",
            zorder=6,
        )


def apart(boxes: np.ndarray, line: np.ndarray) -> np.ndarray:
    """
    The boxes, moved inwards where one would be drawn over the side of another before it.

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
    steps = np.linspace(0, 1, 13)[:, None]
    corners = np.array([[left, top], [right, top], [left, bottom], [right, bottom]])
    edges = ((0, 1), (0, 2), (1, 3), (2, 3))
    along = [corners[start] + steps * (corners[end] - corners[start]) for start, end in edges]
    candidates = np.concatenate([corners, *along])
    covered = [sum(np.all(np.abs(candidate - other) < 1.02 * size) for other in taken) for candidate in candidates]
    return candidates[int(np.argmin(covered))]
