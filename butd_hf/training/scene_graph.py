# SPDX-License-Identifier: Apache-2.0
"""Scene graphs: annotated objects, with images or without, in; recalls of their relations out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import ImageOps
from torch import nn

from ..data.transforms import load_image
from ..inference.relations import (
    GraphExample,
    GraphMode,
    collate_graphs,
    mirrored,
    predicted_graphs,
    prediction_line,
    triples_of,
)
from ..metrics.scene_graphs import score_graphs
from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from .task import Task


class SceneGraphTask(Task):
    """Graphs of `read_graphs` for a `ButdForSceneGraphGeneration`.

    Args:
        processor: Prepares images.
        config: Of the model; its `id2label` begins with the labels of the data, `id2predicate` are the predicates.
        train_graphs: Whose relations are not new; what else is scored counts as zero-shot.
        mode: What is given of the images, in training and in evaluation.
        pixels: Whether the model sees the images. `"predcls"` does without, on labels and geometry alone.
        flip: Whether half of the images are mirrored in training.

    Raises:
        ValueError: Images are missing.
    """

    name = "scene-graph-generation"

    def __init__(
        self,
        processor: ButdImageProcessor,
        config: ButdConfig,
        train_graphs: Sequence[GraphExample],
        *,
        mode: GraphMode = "predcls",
        pixels: bool = False,
        flip: bool = False,
    ):
        self.processor = processor
        self.config = config
        self.seen = triples_of(train_graphs)
        self.mode = mode
        self.pixels = pixels or mode != "predcls"
        without = sum(graph.image is None for graph in train_graphs)
        if self.pixels and without:
            raise ValueError(
                f"mode {mode!r} with pixels needs images, but {without} of {len(train_graphs)} have none."
            )
        self.flip = flip
        self.opposites = opposite_predicates(list(config.id2predicate.values()))

    def read(self, row: GraphExample, rng: np.random.Generator | None, source: Any) -> dict[str, Any]:
        graph = replace(row, pixels=load_image(row.image)) if self.pixels else row
        if rng is not None and self.flip and rng.random() < 0.5:
            graph = mirrored(graph, self.opposites)
            graph = replace(graph, pixels=ImageOps.mirror(graph.pixels) if self.pixels else None)
        return {"graph": graph}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        graphs = [sample["graph"] for sample in samples]
        images = [graph.pixels for graph in graphs] if self.pixels else None
        batch = collate_graphs(graphs, self.mode, images, self.processor)
        return {**{name: value for name, value in batch.items() if name != "labels"}, "labels": batch["labels"]}

    def predict(self, model: nn.Module, outputs: Any, rows: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        return predicted_graphs(outputs, self.processor, [graph.size for graph in rows])

    def score(self, predictions: Sequence[Any], rows: Sequence[GraphExample]) -> dict[str, float]:
        return score_graphs(predictions, [graph.as_reference() for graph in rows], seen=self.seen)

    def line(self, prediction: dict[str, Any], row: GraphExample) -> dict[str, Any]:
        return prediction_line(row, prediction, self.config.id2label, self.config.id2predicate)


def opposite_predicates(names: Sequence[str]) -> dict[int, int]:
    """Predicates that change places in a mirror: those that differ in left and right."""
    swap = {"left": "right", "right": "left"}
    places = {name: number for number, name in enumerate(names)}
    twins = {number: " ".join(swap.get(word, word) for word in name.split()) for number, name in enumerate(names)}
    return {number: places[twin] for number, twin in twins.items() if twin in places and places[twin] != number}


def join_labels(
    names: Sequence[str], classes: Sequence[str], label_map: dict[str, str]
) -> tuple[list[str], list[int]]:
    """Labels of the data and, behind them, classes of the bottom-up half that the data doesn't have.

    Args:
        names: Labels of the data.
        classes: Of the bottom-up half.
        label_map: What a class is called in the data, where names differ.

    Returns:
        All labels, and which of them each class means.

    Raises:
        ValueError: `label_map` names something that isn't there.
    """
    for found, known, where in ((label_map.values(), names, "the data"), (label_map, classes, "the bottom-up half")):
        if unknown := sorted({*found} - {*known}):
            raise ValueError(f"--label_map names labels that are not in {where}: {unknown}.")
    meant = [label_map.get(name, name) for name in classes]
    labels = [*names, *(name for name in dict.fromkeys(meant) if name not in names)]
    return labels, [labels.index(name) for name in meant]


__all__ = ["SceneGraphTask", "join_labels", "opposite_predicates"]
