# SPDX-License-Identifier: Apache-2.0
"""Heat maps: attention over regions, spread over the image."""

import numpy as np
from matplotlib import colormaps
from scipy.ndimage import gaussian_filter


LONGEST_SIDE = 320  # of the map in pixels: finer would not be seen in a small panel
LEAST_CONTRAST = 0.5  # between the most and the least attention, in shares of the most, that a map shows in full
COLOURS = "inferno"
GAMMA = 0.8  # shows weak attention, too


def attention_map(boxes: np.ndarray, attention: np.ndarray, height: int, width: int) -> np.ndarray:
    """Attention of a word over the image.

    Each region spreads its attention evenly over its root area: over its whole area, large regions would vanish beside
    small ones, and without a share large ones would drown all others.

    Args:
        boxes: `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        attention: Not negative: (num_regions,).
        height: Of the map, in pixels.
        width: Of the map, in pixels.

    Returns:
        The map, smooth, from 0 where least attention goes to 1 where most does: (height, width). If it hardly differs
        it stays below 1: noise is not stretched. Zero if there are no regions.
    """
    heat = np.zeros((height, width), dtype=np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    sizes = np.sqrt(np.clip(sides.prod(axis=1), 1e-6, None))
    corners = np.round(boxes * [width, height, width, height]).astype(int)
    for (left, top, right, bottom), share in zip(corners, attention / sizes, strict=True):
        heat[top:bottom, left:right] += share
    if heat.size and len(boxes):
        smallest = float(np.clip(sides.min(axis=1), 0.02, None).min()) * min(height, width)
        heat = gaussian_filter(heat, smallest / 4, mode="mirror", truncate=3.0)
    highest = heat.max(initial=0.0)
    if highest <= 0:
        return heat
    heat -= heat.min()
    return heat / max(heat.max(), LEAST_CONTRAST * highest)


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image, dark where no attention goes, bright and warm where it does.

    Args:
        image: RGB in [0, 1]: (height, width, 3).
        heat: In [0, 1]: (height, width).
    """
    heat = heat**GAMMA
    grey = image.mean(axis=-1, keepdims=True)
    muted = 0.35 * image + 0.65 * grey
    warm = colormaps[COLOURS](0.25 + 0.65 * heat)[..., :3]
    heat = heat[..., None]
    lit = (1 - heat) * muted * 0.35 + heat * image  # (height, width, 3)
    share = 0.42 * heat
    return np.clip((1 - share) * lit + share * warm, 0.0, 1.0)
