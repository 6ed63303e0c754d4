# SPDX-License-Identifier: Apache-2.0
"""Figures of images with their regions, objects, captions and graphs."""

from .boxes import draw_objects, draw_regions
from .caption import draw_caption
from .figures import check_figure_file, image_axes, save_figure
from .graph import draw_graph


__all__ = [
    "check_figure_file",
    "draw_caption",
    "draw_graph",
    "draw_objects",
    "draw_regions",
    "image_axes",
    "save_figure",
]
