# SPDX-License-Identifier: Apache-2.0
"""Annotated scene graphs as inputs of the model, and its outputs as `butd_hf.metrics` takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from ..metrics.graph_recall import CUTOFFS, SAME_OBJECT
from ..modeling.image_processing_butd import ButdImageProcessor


# what is given: boxes and labels of the objects, their boxes, or nothing but the image
GraphMode = Literal["predcls", "sgcls", "sgdet"]
GRAPH_MODES: tuple[str, ...] = get_args(GraphMode)


@dataclass
class GraphExample:
    """An annotated graph.

    Attributes:
        index: Its row in the table.
        image: Path of the image, None where there is none.
        boxes: `x0, y0, x1, y1` in [0, 1]: (num_objects, 4).
        labels: (num_objects,).
        relations: Subject, object and predicate: (num_relations, 3).
        size: Height and width in the unit of the annotation.
        flipped: Whether the image is to be mirrored; boxes and relations are.
        pixels: The image, if it has been read.
    """

    index: int
    image: str | None
    boxes: torch.Tensor
    labels: torch.Tensor
    relations: torch.Tensor
    size: tuple[float, float]
    flipped: bool = False
    pixels: Image.Image | None = None

    def as_labels(self) -> dict[str, torch.Tensor]:
        """As the model's `labels` has it."""
        boxes = box_convert(self.boxes, "xyxy", "cxcywh")
        return {"class_labels": self.labels, "boxes": boxes, "relations": self.relations}

    def as_reference(self) -> dict[str, np.ndarray]:
        """As `butd_hf.metrics` takes it, boxes in the unit of the annotation."""
        boxes = self.boxes.numpy() * np.array(self.size[::-1] * 2)
        return {"labels": self.labels.numpy(), "boxes": boxes, "relations": self.relations.numpy()}


def read_graphs(table: Dataset) -> list[GraphExample]:
    """All graphs of a table that `load_scene_graphs` returned, without reading the images."""
    examples = []
    for index, row in enumerate(table):
        boxes = torch.tensor([each["box"] for each in row["objects"]], dtype=torch.float32).reshape(-1, 4)
        labels = [each["label"] for each in row["objects"]]
        relations = [[each["subject"], each["object"], each["predicate"]] for each in row["relations"]]
        examples.append(
            GraphExample(
                index,
                row["image"],
                boxes / torch.tensor([row["width"], row["height"]] * 2),
                torch.tensor(labels, dtype=torch.long),
                torch.tensor(relations, dtype=torch.long).reshape(-1, 3),
                (row["height"], row["width"]),
            )
        )
    return examples


def mirrored(example: GraphExample, opposites: Mapping[int, int]) -> GraphExample:
    """The graph of the mirrored image; `opposites` are predicates that change places there, left and right."""
    boxes, relations = example.boxes.clone(), example.relations.clone()
    boxes[:, [0, 2]] = 1 - example.boxes[:, [2, 0]]
    for predicate, opposite in opposites.items():
        relations[example.relations[:, 2] == predicate, 2] = opposite
    return replace(example, boxes=boxes, relations=relations, flipped=not example.flipped)


def collate_graphs(
    examples: Sequence[GraphExample],
    mode: GraphMode,
    images: Sequence[Any] | None = None,
    image_processor: ButdImageProcessor | None = None,
) -> dict[str, Any]:
    """Inputs of the model for a batch.

    Args:
        examples: The graphs.
        mode: What is given of them.
        images: Theirs, if the model is to see them.
        image_processor: What prepares these.

    Returns:
        `labels`, and as far as they are given `pixel_values`, `pixel_mask`, `region_boxes`, `region_mask` and
        `region_labels`.

    Raises:
        ValueError: There is no such mode, or it needs images and there are none.
    """
    if mode not in GRAPH_MODES:
        raise ValueError(f"mode must be one of {', '.join(GRAPH_MODES)}, got {mode!r}.")
    batch: dict[str, Any] = {"labels": [example.as_labels() for example in examples]}
    if images is not None:
        batch.update(image_processor(images=list(images), return_tensors="pt"))
        # convolutions are faster with channels last, on CPUs above all
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
    elif mode != "predcls":
        raise ValueError(f"mode {mode!r} needs images, got none; 'predcls' does without.")
    if mode != "sgdet":
        batch["region_boxes"] = pad_sequence([example.boxes for example in examples], batch_first=True)
        exists = [torch.ones(len(example.boxes), dtype=torch.bool) for example in examples]
        batch["region_mask"] = pad_sequence(exists, batch_first=True)
    if mode == "predcls":
        batch["region_labels"] = pad_sequence([example.labels for example in examples], batch_first=True)
    return batch


def predicted_graphs(
    outputs: Any,
    image_processor: ButdImageProcessor,
    sizes: Sequence[tuple[float, float]],
    most: int = max(CUTOFFS),
    repeat_overlap: float | None = SAME_OBJECT,
) -> list[dict[str, np.ndarray]]:
    """The graph of each image of a batch, as `butd_hf.metrics` takes it.

    Relations are the `most` best with one predicate per pair, and the `most` best without that constraint.

    Args:
        outputs: Of the model, in evaluation mode.
        image_processor: The model's.
        sizes: Height and width of each image, in the unit that boxes are wanted in.
        most: As many relations as count.
        repeat_overlap: IoU from which boxes of one label are one object, which has each relation once: by default that
            of the metrics, which count repetitions for nothing. See `post_process_scene_graph_generation`.
    """
    graphs = []
    options = {"threshold": -1.0, "relation_threshold": -1.0, "top_k": most, "target_sizes": list(sizes)}
    best_of_pairs, best_of_all = (
        image_processor.post_process_scene_graph_generation(
            outputs, graph_constraint=constraint, repeat_overlap=repeat_overlap, **options
        )
        for constraint in (True, False)
    )
    for constrained, free in zip(best_of_pairs, best_of_all, strict=True):
        found = {name: free[name] for name in ("labels", "boxes", "scores")}
        found |= {name: torch.cat([constrained[name], free[name]]) for name in ("relations", "relation_scores")}
        graphs.append({name: value.cpu().numpy() for name, value in found.items()})
    return graphs


def triples_of(examples: Sequence[GraphExample]) -> set[tuple[int, int, int]]:
    """Subject label, predicate and object label of all relations: those that a model was trained on."""
    found: set[tuple[int, int, int]] = set()
    for example in examples:
        subjects, objects, predicates = example.relations.unbind(dim=1)
        triples = torch.stack([example.labels[subjects], predicates, example.labels[objects]], dim=1)
        found.update(map(tuple, triples.tolist()))
    return found


def prediction_line(
    example: GraphExample, graph: Mapping[str, Any], labels: Mapping[int, str], predicates: Mapping[int, str]
) -> dict[str, Any]:
    """A line of a predictions file: what was found in an image and what people annotated, in words."""

    def in_words(found: Mapping[str, Any]) -> dict[str, list]:
        pairs = zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True)
        objects = [{"label": labels[label], "box": [round(side, 1) for side in box]} for label, box in pairs]
        relations = [[subject, predicates[name], target] for subject, target, name in found["relations"].tolist()]
        if "relation_scores" in found:
            order = np.argsort(-found["relation_scores"], kind="stable")
            relations = [[*relations[row], round(float(found["relation_scores"][row]), 4)] for row in order]
        return {"objects": objects, "relations": relations}

    return {**in_words(graph), "references": in_words(example.as_reference())}
