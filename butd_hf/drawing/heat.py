# SPDX-License-Identifier: Apache-2.0
"""Heat maps: attention over regions, spread over the picture."""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps


LONGEST_SIDE = 320  # of the map in pixels: finer would not be seen in a small panel
LEAST_CONTRAST = 0.5  # between the most and the least attention, in shares of the most, that a map shows in full
COLOURS = "inferno"
GAMMA = 0.8  # shows weak attention, too


def attention_map(boxes: np.ndarray, attention: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Attention of a word over the picture.

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
        heat = blurred(heat, sigma=smallest / 4)
    highest = heat.max(initial=0.0)
    if highest <= 0:
        return heat
    heat -= heat.min()
    return heat / max(heat.max(), LEAST_CONTRAST * highest)


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """The map (height, width) convolved with a Gaussian of `sigma` pixels, mirrored at its borders."""
    blurred_map = torch.from_numpy(values)[None, None]  # (1, 1, height, width)
    for _ in range(2):  # a Gaussian is the product of one along each side
        reach = min(max(1, round(3 * sigma)), blurred_map.shape[-1] - 1)  # there must be something to mirror
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        padded = F.pad(blurred_map, (reach, reach, 0, 0), mode="reflect")
        blurred_map = F.conv2d(padded, (weights / weights.sum())[None, None, None]).transpose(2, 3)
    return blurred_map[0, 0].numpy()


def heated(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """
    The picture, dark where no attention goes, bright and warm where it does.

    Args:
        picture: RGB in [0, 1]: (height, width, 3).
        heat: In [0, 1]: (height, width).
    """
    heat = heat**GAMMA
    grey = picture.mean(axis=-1, keepdims=True)
    muted = 0.35 * picture + 0.65 * grey
    warm = colormaps[COLOURS](0.25 + 0.65 * heat)[..., :3]
    heat = heat[..., None]
    lit = (1 - heat) * muted * 0.35 + heat * picture  # (height, width, 3)
    share = 0.42 * heat
    return np.clip((1 - share) * lit + share * warm, 0.0, 1.0)
