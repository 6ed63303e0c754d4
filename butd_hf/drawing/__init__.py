# SPDX-License-Identifier: Apache-2.0
"""Figures: what the model saw and where it looked."""

from .caption import check_figure_file, draw_caption, save_figure
from .graph import draw_graph
from .objects import draw_objects, draw_picture
from .regions import draw_regions


__all__ = [
    "check_figure_file",
    "draw_caption",
    "draw_graph",
    "draw_objects",
    "draw_picture",
    "draw_regions",
    "save_figure",
]
