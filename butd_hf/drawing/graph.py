# SPDX-License-Identifier: Apache-2.0
"""A scene graph beside its image: boxes and nodes share numbers and colours."""

from dataclasses import dataclass
from typing import Any

import networkx
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from ..graphs import SceneGraph, to_networkx
from .boxes import draw_numbered_boxes, ink, scaled
from .figures import add_image, aspect_of, new_figure


HEIGHT = 8.0  # of the figure, in inches
IMAGE_AREA = 42.0  # at most, in square inches
MARGIN = 0.15
NODE_POINTS = 10.0
PREDICATE_POINTS = 8.5
LETTER = 0.58 / 72  # width of a letter in inches, per point of its size
CURVES = (0.0, 0.14, -0.14, 0.28, -0.28, 0.42, -0.42)  # how far edges may bend, in shares of their length
PLACES = np.linspace(0.2, 0.8, 13)  # where along an edge its predicate may stand
APART = 4  # edges between nodes that nothing connects, in the layout
STEPS = 200  # of pushing nodes apart that would cover one another


@dataclass
class Box:
    """A rectangle of the figure in inches: its centre, and half its sides."""

    centre: np.ndarray
    half: np.ndarray


def draw_graph(image: Image.Image, graph: SceneGraph) -> Figure:
    """Draws an image with the objects that have relations, and their graph beside it.

    An arrow goes from subject to object, in the subject's colour, as its predicate is. Up to about 30 relations can be
    read.

    Args:
        image: The image.
        graph: As the pipeline returns it, boxes in the image's pixels: `{"xmin", "ymin", "xmax", "ymax"}` or
            `[x0, y0, x1, y1]`. Objects without a relation are drawn only if there are no relations at all.
    """
    made = to_networkx(graph)
    if made.number_of_edges():
        made.remove_nodes_from([node for node, degree in dict(made.degree()).items() if degree == 0])
    nodes = list(made)
    colours = {node: colormaps["tab20"]((2 * rank % 20 + rank // 10 % 2) / 19.999) for rank, node in enumerate(nodes)}
    titles = {node: f"{rank + 1} {made.nodes[node]['label']}" for rank, node in enumerate(nodes)}

    aspect = aspect_of(image)
    height = min(HEIGHT - 2 * MARGIN, np.sqrt(IMAGE_AREA / aspect))
    width = height * aspect
    across = max(8.5, 4.0 + 0.35 * len(nodes))
    total = width + across + 2 * MARGIN
    figure = new_figure(total, HEIGHT)
    place = (MARGIN / total, 0.5 - height / 2 / HEIGHT, width / total, height / HEIGHT)
    left = add_image(figure, place, image.convert("RGB"))
    boxes = [made.nodes[node]["box"] for node in nodes]
    boxes = [
        [box[side] for side in ("xmin", "ymin", "xmax", "ymax")] if isinstance(box, dict) else box for box in boxes
    ]
    draw_numbered_boxes(left, scaled(boxes, image), list(colours.values()))

    right = figure.add_axes(((width + 2 * MARGIN) / total, 0, across / total, 1), label="graph")
    right.set(xlim=(0, across), ylim=(0, HEIGHT))  # in inches
    right.axis("off")
    draw_nodes_and_edges(right, made, titles, colours, np.array([across, HEIGHT]))
    return figure


def text_half(text: str, points: float, pad: float) -> np.ndarray:
    """Half the width and height of a line of text, in inches."""
    return np.array([max(len(text), 1) * LETTER * points, 1.25 * points / 72]) / 2 + pad


def draw_nodes_and_edges(
    axes: Axes, made: networkx.MultiDiGraph, titles: dict[Any, str], colours: dict[Any, tuple], size: np.ndarray
) -> None:
    """The graph, in inches: nodes where the layout puts them, predicates where they cover least."""
    boxes = place_nodes(made, titles, size)
    predicates: dict[tuple[Any, Any], list[str]] = {}
    for subject, target, values in made.edges(data=True):
        predicates.setdefault((subject, target), []).append(values["predicate"])
    centred = {"ha": "center", "va": "center", "parse_math": False}  # a class may be called anything
    labels: list[Box] = []
    for (subject, target), names in predicates.items():
        start, end, colour = boxes[subject], boxes[target], colours[subject]
        title = ", ".join(dict.fromkeys(names))
        half = text_half(title, PREDICATE_POINTS, 0.03)
        curves = CURVES[1:] if (target, subject) in predicates else CURVES  # opposite arrows need two lines
        curve, centre = best_place(start, end, half, curves, [*boxes.values(), *labels], size)
        labels.append(Box(centre, half))
        style = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        ends, bent = boundary_points(start, end, curve), f"arc3,rad={curve}"
        axes.add_patch(FancyArrowPatch(*ends, connectionstyle=bent, color=colour, zorder=2, **style))
        frame = {"facecolor": "white", "edgecolor": colour, "linewidth": 0.7, "pad": 1.2}
        axes.text(*centre, title, fontsize=PREDICATE_POINTS, color="black", zorder=4, bbox=frame, **centred)
    for node, box in boxes.items():
        frame = {"facecolor": colours[node], "edgecolor": "none", "boxstyle": "round,pad=0.35"}
        style = {"fontsize": NODE_POINTS, "fontweight": "bold", "color": ink(colours[node]), "zorder": 5}
        axes.text(*box.centre, titles[node], bbox=frame, **style, **centred)


def place_nodes(made: networkx.MultiDiGraph, titles: dict[Any, str], size: np.ndarray) -> dict[Any, Box]:
    """Where each node goes, in inches: Kamada and Kawai's layout, stretched to the space and pushed apart."""
    halves = {node: text_half(titles[node], NODE_POINTS, 0.12) for node in made}
    if len(halves) <= 1:
        return {node: Box(size / 2, half) for node, half in halves.items()}
    plain = networkx.Graph(made.to_undirected())
    plain.remove_edges_from(list(networkx.selfloop_edges(plain)))
    known = dict(networkx.all_pairs_shortest_path_length(plain))
    distances = {node: {other: known[node].get(other, APART) for other in plain} for node in plain}
    layout = networkx.kamada_kawai_layout(plain, dist=distances)
    points = np.array([layout[node] for node in made])
    half = np.array([halves[node] for node in made])
    low, high = half + MARGIN, size - half - MARGIN
    spread = points.max(axis=0) - points.min(axis=0)
    points = (points - points.min(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
    points = np.where(spread > 1e-6, low + points * (high - low), size / 2)
    gap = np.array([0.35, 0.4])  # between nodes, for arrows and predicates
    for _ in range(STEPS):
        offset = points[:, None] - points[None]  # (num_nodes, num_nodes, 2)
        missing = half[:, None] + half[None] + gap - np.abs(offset)
        closest = missing.argmin(axis=-1)  # the side over which they come apart soonest
        covered = (missing > 0).all(axis=-1) & ~np.eye(len(points), dtype=bool)
        if not covered.any():
            break
        order = np.sign(np.arange(len(points))[:, None] - np.arange(len(points))[None])
        for side in range(2):
            push = np.where(covered & (closest == side), missing[..., side] / 4, 0.0)
            direction = np.where(np.abs(offset[..., side]) > 1e-9, np.sign(offset[..., side]), order)
            points[:, side] += (push * direction).sum(axis=1)
        points = np.clip(points, low, high)
    return {node: Box(point, halves[node]) for node, point in zip(made, points, strict=True)}


def bend(start: np.ndarray, end: np.ndarray, curve: float, along: np.ndarray) -> np.ndarray:
    """Points (n, 2) of the curve that matplotlib's `arc3` draws, `along` it (n,) from 0 to 1."""
    step, along = end - start, along[:, None]
    control = (start + end) / 2 + curve * np.array([step[1], -step[0]])
    return (1 - along) ** 2 * start + 2 * along * (1 - along) * control + along**2 * end


def best_place(
    start: Box, end: Box, half: np.ndarray, curves: tuple[float, ...], others: list[Box], size: np.ndarray
) -> tuple[float, np.ndarray]:
    """How far an edge bends and where on it its predicate stands, so that it covers little and is near the middle."""
    centres, halves = np.array([each.centre for each in others]), np.array([each.half for each in others])
    between = np.array([each is not start and each is not end for each in others])
    best, chosen = np.inf, (curves[0], (start.centre + end.centre) / 2)
    for curve in curves:
        points = bend(start.centre, end.centre, curve, np.linspace(0.15, 0.85, 9))
        inside = (np.abs(points[:, None] - centres) < halves).all(axis=-1)  # (num_points, num_others)
        crossed = (inside & between).sum()
        places = bend(start.centre, end.centre, curve, PLACES)  # (num_places, 2)
        shared = np.clip(half + halves - np.abs(places[:, None] - centres), 0, 2 * np.minimum(half, halves))
        covered = shared.prod(axis=-1).sum(axis=-1)  # square inches: (num_places,)
        outside = np.clip(half + 0.05 - np.minimum(places, size - places), 0, None).sum(axis=-1)
        costs = 100 * covered + 20 * outside + 0.25 * crossed + np.abs(PLACES - 0.5) + abs(curve)
        place = int(costs.argmin())
        if costs[place] < best - 1e-9:
            best, chosen = costs[place], (curve, places[place])
    return chosen


def boundary_points(start: Box, end: Box, curve: float) -> tuple[np.ndarray, np.ndarray]:
    """Where an edge leaves one node and meets the other."""
    points = bend(start.centre, end.centre, curve, np.linspace(0, 1, 101))
    outside = (np.abs(points - start.centre) > start.half).any(axis=1)
    outside &= (np.abs(points - end.centre) > end.half + 0.03).any(axis=1)
    free = np.flatnonzero(outside)
    return (points[free[0]], points[free[-1]]) if len(free) > 1 else (start.centre, end.centre)
