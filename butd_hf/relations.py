# SPDX-License-Identifier: Apache-2.0
"""From tables of annotated graphs to what a scene graph model takes, and from what it returns to what is scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from .metrics.graph_recall import CUTOFFS, SAME_OBJECT
from .modeling.heads.frequency_prior import ButdFrequencyPrior
from .modeling.image_processing_butd import ButdImageProcessor


# what is given of a picture: boxes and labels of its objects, boxes alone, or nothing but the picture
GraphMode = Literal["predcls", "sgcls", "sgdet"]
GRAPH_MODES: tuple[str, ...] = get_args(GraphMode)


@dataclass
class GraphExample:
    """
    An annotated graph.

    Attributes:
        index: Its place in the table.
        image: Path of the picture, None where there is none.
        boxes: `x0, y0, x1, y1` in [0, 1]: (num_objects, 4).
        labels: (num_objects,).
        relations: Subject, object and predicate: (num_relations, 3).
        size: Height and width in the unit of the annotation.
        flipped: Whether the picture is to be mirrored; boxes and relations are.
        picture: What `image` holds, if it has been read.
    """

    index: int
    image: str | None
    boxes: torch.Tensor
    labels: torch.Tensor
    relations: torch.Tensor
    size: tuple[float, float]
    flipped: bool = False
    picture: Image.Image | None = None

    def as_labels(self) -> dict[str, torch.Tensor]:
        """As the model's `labels` has it."""
        boxes = box_convert(self.boxes, "xyxy", "cxcywh")
        return {"class_labels": self.labels, "boxes": boxes, "relations": self.relations}

    def as_reference(self) -> dict[str, np.ndarray]:
        """As `butd_hf.metrics` takes it, boxes in the unit of the annotation."""
        boxes = self.boxes.numpy() * np.array(self.size[::-1] * 2)
        return {"labels": self.labels.numpy(), "boxes": boxes, "relations": self.relations.numpy()}


def read_graphs(table: Dataset) -> list[GraphExample]:
    """All graphs of a table that `load_scene_graphs` returned. Pictures are not read."""
    return [
        GraphExample(
            index,
            row["image"],
            torch.tensor([each["box"] for each in row["objects"]], dtype=torch.float32).reshape(-1, 4)
            / torch.tensor([row["width"], row["height"]] * 2),
            torch.tensor([each["label"] for each in row["objects"]], dtype=torch.long),
            torch.tensor(
                [[each["subject"], each["object"], each["predicate"]] for each in row["relations"]], dtype=torch.long
            ).reshape(-1, 3),
            (row["height"], row["width"]),
        )
        for index, row in enumerate(table)
    ]


def mirrored(example: GraphExample, opposites: Mapping[int, int]) -> GraphExample:
    """The graph of the mirrored picture; `opposites` are predicates that change places there, left and right."""
    boxes = example.boxes.clone()
    boxes[:, [0, 2]] = 1 - example.boxes[:, [2, 0]]
    relations = example.relations.clone()
    for predicate, opposite in opposites.items():
        relations[example.relations[:, 2] == predicate, 2] = opposite
    return replace(example, boxes=boxes, relations=relations, flipped=not example.flipped)


def collate_graphs(
    examples: Sequence[GraphExample],
    mode: GraphMode,
    pictures: Sequence[Any] | None = None,
    image_processor: ButdImageProcessor | None = None,
) -> dict[str, Any]:
    """
    Inputs of the model for a batch.

    Args:
        examples: The graphs.
        mode: What is given of them.
        pictures: Theirs, in case the model looks at them.
        image_processor: What prepares these.

    Returns:
        `labels`, and as far as they are given `pixel_values`, `pixel_mask`, `region_boxes`, `region_mask` and
        `region_labels`.

    Raises:
        ValueError: There is no such mode, or it needs pictures and there are none.
    """
    if mode not in GRAPH_MODES:
        raise ValueError(f"mode must be one of {', '.join(GRAPH_MODES)}, got {mode!r}.")
    batch: dict[str, Any] = {"labels": [example.as_labels() for example in examples]}
    if pictures is not None:
        inputs = image_processor(images=list(pictures), return_tensors="pt")
        batch.update({name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs})
        # convolutions are faster with channels last, on CPUs above all
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
    elif mode != "predcls":
        raise ValueError(f"mode {mode!r} needs pictures, got none; 'predcls' does without.")
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
    """
    What the model says of each picture of a batch, as `butd_hf.metrics` takes it.

    Relations are the `most` best with one predicate per pair, and the `most` best without that constraint.

    Args:
        outputs: Of the model, in evaluation mode.
        image_processor: What belongs to it.
        sizes: Height and width of each picture, in the unit that boxes are wanted in.
        most: As many relations as count.
        repeat_overlap: From which boxes are about one thing, of which nothing is told twice: by default as the metrics
            see it, which count a repetition for nothing. See `post_process_scene_graph_generation`.
    """
    graphs = []
    options = {"threshold": -1.0, "relation_threshold": -1.0, "top_k": most, "target_sizes": list(sizes)}
    options["repeat_overlap"] = repeat_overlap
    best_of_pairs, best_of_all = (
        image_processor.post_process_scene_graph_generation(outputs, graph_constraint=constraint, **options)
        for constraint in (True, False)
    )
    for constrained, free in zip(best_of_pairs, best_of_all, strict=True):
        relations = torch.cat([constrained["relations"], free["relations"]])
        scores = torch.cat([constrained["relation_scores"], free["relation_scores"]])
        found = {
            "labels": free["labels"], "boxes": free["boxes"], "scores": free["scores"],
            "relations": relations, "relation_scores": scores,
        }  # fmt: skip
        graphs.append({name: value.float().cpu().numpy() for name, value in found.items()})
        graphs[-1].update({name: graphs[-1][name].astype(np.int64) for name in ("labels", "relations")})
    return graphs


@torch.no_grad()
def counted_graphs(prior: ButdFrequencyPrior, example: GraphExample) -> dict[str, np.ndarray]:
    """
    What counting alone says of known objects: how often their labels are related, times how often so.

    All ordered pairs, each with its most frequent predicate.
    """
    number = len(example.labels)
    subjects, objects = (~torch.eye(number, dtype=torch.bool)).nonzero().unbind(dim=1)
    labels = example.labels[subjects], example.labels[objects]
    shares, predicates = prior(*labels).exp().max(dim=-1) if number > 1 else (torch.zeros(0), subjects)
    scores = prior.log_odds(*labels).sigmoid() * shares
    relations = torch.stack([subjects, objects, predicates], dim=1)
    reference = example.as_reference()
    return {**reference, "relations": relations.numpy(), "relation_scores": scores.numpy()}


def triples_of(examples: Sequence[GraphExample]) -> set[tuple[int, int, int]]:
    """Subject label, predicate and object label of all relations: what a model has seen."""
    found: set[tuple[int, int, int]] = set()
    for example in examples:
        subjects, objects, predicates = example.relations.unbind(dim=1)
        triples = torch.stack([example.labels[subjects], predicates, example.labels[objects]], dim=1)
        found.update(map(tuple, triples.tolist()))
    return found


def prediction_line(
    example: GraphExample, graph: Mapping[str, Any], labels: Mapping[int, str], predicates: Mapping[int, str]
) -> dict[str, Any]:
    """A line of a predictions file: what was found in a picture and what people annotated, in words."""

    def words(found: Mapping[str, Any], most: int | None = None) -> list[list[Any]]:
        order = np.argsort(-np.asarray(found.get("relation_scores", [])), kind="stable")[:most]
        rows = np.asarray(found["relations"])[order] if "relation_scores" in found else found["relations"]
        scores = np.asarray(found["relation_scores"])[order].tolist() if "relation_scores" in found else None
        return [
            [int(subject), predicates[int(predicate)], int(target), *([round(scores[row], 4)] if scores else [])]
            for row, (subject, target, predicate) in enumerate(np.asarray(rows).tolist())
        ]

    def objects(found: Mapping[str, Any]) -> list[dict[str, Any]]:
        pairs = zip(found["labels"].tolist(), found["boxes"].tolist(), strict=True)
        return [{"label": labels[label], "box": [round(value, 1) for value in box]} for label, box in pairs]

    reference = example.as_reference()
    return {
        "objects": objects(graph),
        "relations": words(graph),
        "references": {"objects": objects(reference), "relations": words(reference)},
    }


__all__ = [
    "GRAPH_MODES",
    "GraphExample",
    "GraphMode",
    "collate_graphs",
    "counted_graphs",
    "mirrored",
    "predicted_graphs",
    "prediction_line",
    "read_graphs",
    "triples_of",
]
