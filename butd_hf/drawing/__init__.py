"""Figures: what the model saw and where it looked."""

from .caption import check_figure_file, draw_caption, save_figure
from .regions import draw_regions


__all__ = ["check_figure_file", "draw_caption", "draw_regions", "save_figure"]
