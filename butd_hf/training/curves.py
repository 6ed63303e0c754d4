# SPDX-License-Identifier: Apache-2.0
"""Curves of a run, drawn from its `metrics.jsonl`."""

import json
import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


NOT_MEASURED = ("time", "event", "epoch", "step", "seconds")  # what a line says besides its measures
MOST_SCORES = 10  # panels for scores: the one that best/ is chosen by, and the first others
PANELS_ABREAST = 3
PANEL_SIZE = (4.2, 2.8)  # inches
MARGINS = {"left": 0.6, "right": 0.15, "bottom": 0.5, "top": 0.35}  # of a panel, in inches, for its words and numbers


def draw_curves(metrics_file: Path, picture: Path, metric_for_best: str = "loss") -> None:
    """
    Draws losses, learning rate and scores over the steps, and puts the picture in place of an older one.

    Args:
        metrics_file: Lines of JSON, as `RunFolder.log` writes them; broken lines are passed over.
        picture: PNG file to write.
        metric_for_best: Score that is drawn first.
    """
    lines = read_lines(metrics_file)
    training = series_of(lines, "training")
    evaluation = series_of(lines, "evaluation")
    losses = {f"{name} (training)": series for name, series in training.items() if is_loss(name)}
    if "loss" in evaluation:
        losses["loss (evaluation)"] = evaluation.pop("loss")
    panels = {"loss": losses}
    others = [name for name in training if not is_loss(name)]
    panels.update({name.replace("_", " "): {name: training[name]} for name in others})
    scores = sorted(evaluation, key=lambda name: name != metric_for_best)  # stable: the others stay in their order
    panels.update({f"{name} (evaluation)": {name: evaluation[name]} for name in scores[:MOST_SCORES]})

    rows = -(-len(panels) // PANELS_ABREAST)
    width, height = PANEL_SIZE[0] * PANELS_ABREAST, PANEL_SIZE[1] * rows
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    for place, (title, curves) in enumerate(panels.items()):
        row, column = divmod(place, PANELS_ABREAST)
        # placed by hand: the layouts that matplotlib offers draw everything several times
        left = column * PANEL_SIZE[0] + MARGINS["left"]
        bottom = (rows - 1 - row) * PANEL_SIZE[1] + MARGINS["bottom"]
        inner = (
            PANEL_SIZE[0] - MARGINS["left"] - MARGINS["right"],
            PANEL_SIZE[1] - MARGINS["bottom"] - MARGINS["top"],
        )
        panel = figure.add_axes((left / width, bottom / height, inner[0] / width, inner[1] / height))
        draw_panel(panel, title, curves)
    unfinished = picture.with_suffix(".unfinished")
    figure.savefig(unfinished, format="png", dpi=100)
    unfinished.replace(picture)


def draw_panel(panel: Axes, title: str, curves: dict[str, tuple[list[float], list[float]]]) -> None:
    """One or several curves over the steps; single points are marked, or they would not be seen."""
    for name, (steps, values) in curves.items():
        panel.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 30 else None)
    panel.set_title(title, fontsize=9)
    panel.set_xlabel("step", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(alpha=0.3)
    if len(curves) > 1:
        panel.legend(fontsize=6)


def is_loss(name: str) -> bool:
    """Whether a measure of training is the loss or a part of it, and not a speed or a rate."""
    return "loss" in name


def read_lines(metrics_file: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that are whole."""
    lines = []
    for line in metrics_file.read_text(encoding="utf-8").splitlines() if metrics_file.is_file() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # cut short when a run was killed
            continue
    return lines


def series_of(lines: list[dict[str, Any]], event: str) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and values of each number that lines of an event hold; what is not finite is left out."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        if line.get("event") != event:
            continue
        for name, value in line.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if number and name not in NOT_MEASURED:
                steps, values = series.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(value)
    return series


__all__ = ["draw_curves"]
