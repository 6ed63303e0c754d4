# SPDX-License-Identifier: Apache-2.0
"""The scene graph task: annotated objects, with pictures or without, in; recalls of their relations out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from PIL import ImageOps
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..data.scene_graphs import label_names, predicate_names
from ..data.views import load_image
from ..inference.relations import (
    GraphExample,
    GraphMode,
    collate_graphs,
    mirrored,
    predicted_graphs,
    prediction_line,
    read_graphs,
    triples_of,
)
from ..metrics.scene_graphs import score_graphs
from ..modeling.image_processing_butd import ButdImageProcessor
from ..progress import images_progress
from .detection import to_device
from .example_table import ExampleTable
from .task import Task


class SceneGraphDataset(ExampleTable[GraphExample]):
    """
    Annotated graphs. An example depends only on its index, the epoch and the seed.

    Args:
        table: What `load_scene_graphs` returns.
        flip: Whether half of the examples are mirrored, drawn anew each epoch.
        opposites: Predicates that change places in a mirror, such as "on the left of" and "on the right of".
        seed: Of what is drawn.
        strict: Whether a picture that can't be read is an error. Otherwise the next graph takes its place, with a
            warning that names it and counts.

    Attributes:
        look: Whether examples come with their pictures, as a task that looks at them wants.
    """

    def __init__(
        self,
        table: Dataset,
        *,
        flip: bool = False,
        opposites: dict[int, int] | None = None,
        seed: int = 0,
        strict: bool = True,
    ):
        super().__init__(seed=seed, strict=strict)
        self.look = False
        self.labels = label_names(table)
        self.predicates = predicate_names(table)
        self.graphs = read_graphs(table)
        self.flip = flip
        self.opposites = opposites or {}

    def __len__(self) -> int:
        return len(self.graphs)

    def read(self, index: int) -> GraphExample:
        graph = self.graphs[index]
        if self.look:
            graph = replace(graph, picture=load_image(graph.image))
        if not self.flip:
            return graph
        generator = torch.Generator().manual_seed(hash((self.seed, self.epoch, index)) % 2**63)
        return mirrored(graph, self.opposites) if torch.rand((), generator=generator) < 0.5 else graph


class SceneGraphTask(Task):
    """
    Trains a `ButdForSceneGraphGeneration` with a `ButdImageProcessor`.

    Args:
        model: The model; its `id2label` begins with the labels of the data and its `id2predicate` are the predicates.
        image_processor: Prepares pictures, as it will at inference.
        train_dataset: What to learn from.
        eval_dataset: Whose relations to find, without augmentation.
        mode: What is given of the pictures, in training and in the evaluation.
        look: Whether the model sees the pictures. `"predcls"` does without, on labels and geometry alone.
        eval_batch_size: Images per batch of the evaluation.
        num_workers: Loader processes of the evaluation.
        group_sizes: Whether images with about as many objects make a batch. Pairs grow with the square of objects,
            and most of a batch is padding otherwise; relations of crowded images then count for less each.
        settings: What else describes the task in the run folder.

    Raises:
        ValueError: The data sets or the model differ in their labels or predicates, or pictures are missing.
    """

    counts_over_processes = True

    def __init__(
        self,
        model: nn.Module,
        image_processor: ButdImageProcessor,
        train_dataset: SceneGraphDataset,
        eval_dataset: SceneGraphDataset,
        *,
        mode: GraphMode = "predcls",
        look: bool = False,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        group_sizes: bool = False,
        settings: dict[str, Any] | None = None,
    ):
        names = [model.config.id2label[label] for label in range(model.config.num_labels)]
        known = names[: len(train_dataset.labels)], list(model.config.id2predicate.values())
        for name, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            if (dataset.labels, dataset.predicates) != known:
                raise ValueError(f"{name} has other labels or predicates than the model, or in another order.")
            without = [graph.index for graph in dataset.graphs if graph.image is None]
            if (look or mode != "predcls") and without:
                raise ValueError(f"mode {mode!r} needs pictures, but {len(without)} images of {name} have none.")
        self.model = model
        self.image_processor = image_processor
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.mode = mode
        self.look = train_dataset.look = eval_dataset.look = look or mode != "predcls"
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.group_sizes = group_sizes
        self.seen = triples_of(train_dataset.graphs)
        self._settings = settings or {}

    @property
    def backbone(self) -> nn.Module | None:
        return getattr(self.model.base_model.bottom_up, "backbone", None)

    def settings(self) -> dict[str, Any]:
        return {"kind": "scene graph generation", "train_images": len(self.train_dataset), **self._settings}

    def card(self) -> dict[str, Any]:
        relations = sum(len(graph.relations) for graph in self.train_dataset.graphs)
        return {
            "task": "scene-graph-generation",
            "learned_from": f"{len(self.train_dataset):,} images with {relations:,} relations",
            "evaluation": {"num_images": len(self.eval_dataset), "mode": self.mode},
        }

    def example_sizes(self) -> list[int] | None:
        return [len(graph.labels) for graph in self.train_dataset.graphs] if self.group_sizes else None

    def collate(self, examples: list[GraphExample]) -> dict[str, Any]:
        pictures = None
        if self.look:
            pictures = [
                ImageOps.mirror(example.picture) if example.flipped else example.picture for example in examples
            ]
        return collate_graphs(examples, self.mode, pictures, self.image_processor)

    def num_images(self, batch: dict[str, Any]) -> int:
        return len(batch["labels"])

    def evaluate(self, model: nn.Module, accelerator: Accelerator, folder: Path, epoch: int) -> dict[str, float]:
        """
        Finds the relations of the evaluation images and scores them.

        Returns:
            The scores of `score_graphs`, and `loss`, the mean over the images.
        """
        own = range(accelerator.process_index, len(self.eval_dataset), accelerator.num_processes)
        own = sorted(own, key=lambda index: len(self.eval_dataset.graphs[index].labels))  # less padding
        loader = DataLoader(
            Subset(self.eval_dataset, own),
            batch_size=self.eval_batch_size,
            collate_fn=lambda examples: (examples, self.collate(examples)),
            num_workers=self.num_workers,
        )
        found: list[tuple[int, dict[str, Any]]] = []
        loss_sum = 0.0
        with images_progress(enabled=accelerator.is_main_process) as progress:
            bar = progress.add_task("finding relations", total=len(own))
            for examples, inputs in loader:
                outputs = model(**to_device(inputs, accelerator.device))
                loss_sum += float(outputs.loss) * len(examples)
                graphs = predicted_graphs(outputs, self.image_processor, [example.size for example in examples])
                found.extend(zip([example.index for example in examples], graphs, strict=True))
                progress.advance(bar, len(examples))
        found = sorted(gather_object(found), key=lambda entry: entry[0])
        losses = gather_object([loss_sum])
        scores: dict[str, float] = {}
        if accelerator.is_main_process:
            examples = [self.eval_dataset.graphs[index] for index, _ in found]
            graphs = [graph for _, graph in found]
            self.write_predictions(examples, graphs, folder / f"epoch-{epoch:03d}.jsonl")
            references = [example.as_reference() for example in examples]
            scores = {**score_graphs(graphs, references, seen=self.seen), "loss": sum(losses) / len(examples)}
        return broadcast_object_list([scores])[0]

    def write_predictions(self, examples: list[GraphExample], graphs: list[dict[str, Any]], file: Path) -> None:
        """A line per image: what was found, and what people annotated."""
        labels, predicates = self.model.config.id2label, self.model.config.id2predicate
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8") as opened:
            for example, graph in zip(examples, graphs, strict=True):
                line = prediction_line(example, graph, labels, predicates)
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")

    def save(self, model: nn.Module, folder: Path) -> None:
        model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


__all__ = ["SceneGraphDataset", "SceneGraphTask"]
