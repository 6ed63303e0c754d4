# SPDX-License-Identifier: Apache-2.0
"""The detection and segmentation tasks: pictures with boxes and masks in, average precision out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..data.detection import label_names
from ..data.detection_views import DetectionAugmentation, Sample, read_sample, seeded
from ..inference.objects import prediction_line, predictions_of, score_predictions
from ..metrics.average_precision import COMMON_BOXES
from ..modeling.annotations import build_labels, unpadded_sizes
from ..progress import images_progress
from .example_table import ExampleTable
from .task import Task


@dataclass
class DetectionExample:
    """An annotated picture, perhaps changed, and its place in the table."""

    index: int
    sample: Sample
    image_id: int
    size: tuple[int, int]  # height and width as annotated


class DetectionDataset(ExampleTable[DetectionExample]):
    """
    Pictures with objects. An example depends only on its index, the epoch and the seed.

    Args:
        table: What `load_detections` returns.
        image_size: Longest side in pixels that pictures are read at; also the side of mosaics.
        masks: Whether masks are read.
        augmentation: Of pictures with their boxes and masks.
        seed: Of what is random.
        strict: Whether a picture that can't be read, or whose size isn't the annotated one, is an error. Otherwise the
            next one takes its place, with a warning that names it and counts.
    """

    def __init__(
        self,
        table: Dataset,
        *,
        image_size: int,
        masks: bool = False,
        augmentation: DetectionAugmentation | None = None,
        seed: int = 0,
        strict: bool = True,
    ):
        super().__init__(seed=seed, strict=strict)
        self.table = table
        self.names = label_names(table)
        self.image_size = image_size
        self.masks = masks or (augmentation is not None and augmentation.needs_masks)
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.table)

    def read(self, index: int) -> DetectionExample:
        row = self.table[index]
        sample = read_sample(row, self.image_size, self.masks)
        if self.augmentation is not None:
            with seeded(self.seed, self.epoch, index) as rng:

                def draw() -> Sample:
                    return self.first_whole(int(rng.integers(len(self))), self.read_sample)

                sample = self.augmentation(sample, draw, self.image_size, rng)
        return DetectionExample(index, sample, row["image_id"], (row["height"], row["width"]))

    def read_sample(self, index: int) -> Sample:
        """The annotated picture as it is."""
        return read_sample(self.table[index], self.image_size, self.masks)


class DetectionTask(Task):
    """
    Trains a `ButdForObjectDetection`, or with `masks` a `ButdForInstanceSegmentation`, with a `ButdImageProcessor`.

    Args:
        model: The model; its `id2label` are the classes of the data.
        image_processor: Prepares pictures, as it will at inference.
        train_dataset: What to learn from.
        eval_dataset: What to find objects in, without augmentation.
        masks: Whether the task is segmentation.
        common: Boxes in the evaluation data that a class needs to count for `box_ap50_common`.
        eval_batch_size: Images per batch of the evaluation.
        num_workers: Loader processes of the evaluation.
        settings: What else describes the task in the run folder.

    Raises:
        ValueError: The two data sets differ in their classes, or masks are learned from data read without them.
    """

    counts_over_processes = True

    def __init__(
        self,
        model: nn.Module,
        image_processor: Any,
        train_dataset: DetectionDataset,
        eval_dataset: DetectionDataset,
        *,
        masks: bool = False,
        common: int = COMMON_BOXES,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        settings: dict[str, Any] | None = None,
    ):
        if train_dataset.names != eval_dataset.names:
            odd = sorted(set(train_dataset.names) ^ set(eval_dataset.names))
            raise ValueError(f"train_dataset and eval_dataset differ in their classes: {odd or 'in their order'}.")
        if model.config.num_labels < len(train_dataset.names):
            raise ValueError(
                f"model has {model.config.num_labels} classes, the data {len(train_dataset.names)}: give the model's "
                f"config the id2label of the data."
            )
        if masks and not train_dataset.masks:
            raise ValueError("masks=True needs a train_dataset with masks=True.")
        self.model = model
        self.image_processor = image_processor
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.masks = masks
        self.label_masks = masks or (train_dataset.masks and model.config.bottom_up_config.region_mask_size > 0)
        self.common = common
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self._settings = settings or {}

    @property
    def backbone(self) -> nn.Module:
        return self.model.base_model.bottom_up.backbone

    def settings(self) -> dict[str, Any]:
        kind = "segmentation" if self.masks else "detection"
        return {"kind": kind, "train_images": len(self.train_dataset), **self._settings}

    def card(self) -> dict[str, Any]:
        return {
            "task": "image-segmentation" if self.masks else "object-detection",
            "learned_from": f"{len(self.train_dataset):,} images with boxes{' and masks' if self.masks else ''}",
            "evaluation": {"num_images": len(self.eval_dataset), "common": self.common},
        }

    def collate(self, examples: list[DetectionExample]) -> dict[str, Any]:
        """`pixel_values`, perhaps `pixel_mask`, and `labels`: a dict per image."""
        pictures = [example.sample["image"].as_subclass(torch.Tensor) for example in examples]
        inputs = self.image_processor(images=pictures, return_tensors="pt")
        batch = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        batch["labels"] = [
            self.labels_of(example, processed_size)
            for example, processed_size in zip(examples, unpadded_sizes(inputs), strict=True)
        ]
        # convolutions are faster with channels last, on CPUs above all
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        return batch

    def loss_weight(self, batch: dict[str, Any]) -> int:
        return sum(len(labels["class_labels"]) for labels in batch["labels"])

    def labels_of(self, example: DetectionExample, processed_size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What the model is to find in an image."""
        sample = example.sample
        others = {
            "iscrowd": sample["iscrowd"],
            "image_id": torch.tensor([example.image_id]),
            "orig_size": torch.tensor(example.size),
        }
        if (sample["attributes"] >= 0).any():
            others["attribute_labels"] = sample["attributes"]
        masks = None
        if self.label_masks and "masks" in sample:
            masks, others["has_mask"] = sample["masks"].as_subclass(torch.Tensor), sample["has_mask"]
        return build_labels(
            sample["labels"],
            sample["boxes"].as_subclass(torch.Tensor),
            tuple(sample["image"].shape[-2:]),
            masks=masks,
            processed_size=processed_size,
            **others,
        )

    def collate_evaluation(self, examples: list[DetectionExample]) -> dict[str, Any]:
        """A batch with the places of its images in the table, and their annotated sizes."""
        return {
            "inputs": self.collate(examples),
            "indices": [example.index for example in examples],
            "sizes": [example.size for example in examples],
        }

    def evaluate(self, model: nn.Module, accelerator: Accelerator, folder: Path, epoch: int) -> dict[str, float]:
        """
        Finds the objects in the evaluation images and scores them.

        Returns:
            The scores of `average_precision` for boxes and, in segmentation, for masks; `recall36`, the class-agnostic
            recall at IoU 0.5 of the best 36 regions; and `loss`, the mean over the images.
        """
        own = range(accelerator.process_index, len(self.eval_dataset), accelerator.num_processes)
        loader = DataLoader(
            Subset(self.eval_dataset, list(own)),
            batch_size=self.eval_batch_size,
            collate_fn=self.collate_evaluation,
            num_workers=self.num_workers,
        )
        found: list[tuple[int, dict[str, Any]]] = []
        loss_sum = 0.0
        with images_progress(enabled=accelerator.is_main_process) as progress:
            bar = progress.add_task("detecting", total=len(own))
            for batch in loader:
                outputs = model(**to_device(batch["inputs"], accelerator.device))
                loss_sum += float(outputs.loss) * len(batch["indices"])
                predictions = predictions_of(outputs, self.image_processor, batch["sizes"], masks=self.masks)
                found.extend(zip(batch["indices"], predictions, strict=True))
                progress.advance(bar, len(batch["indices"]))
        found = sorted(gather_object(found), key=lambda entry: entry[0])
        losses = gather_object([loss_sum])
        scores: dict[str, float] = {}
        if accelerator.is_main_process:
            rows = [self.eval_dataset.table[index] for index, _ in found]
            predictions = [prediction for _, prediction in found]
            self.write_predictions(rows, predictions, folder / f"epoch-{epoch:03d}.jsonl")
            scores = score_predictions(
                predictions, rows, names=self.eval_dataset.names, masks=self.masks, common=self.common
            )
            scores["loss"] = sum(losses) / len(rows)
        return broadcast_object_list([scores])[0]

    def write_predictions(self, rows: list[dict], predictions: list[dict[str, Any]], file: Path) -> None:
        """A line per image: what was found, what is there, and the best regions."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8") as opened:
            for row, prediction in zip(rows, predictions, strict=True):
                line = prediction_line(row, prediction, self.eval_dataset.names)
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")

    def save(self, model: nn.Module, folder: Path) -> None:
        model.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in lists and dicts, on the device."""
    if isinstance(value, dict):
        return {name: to_device(each, device) for name, each in value.items()}
    if isinstance(value, list):
        return [to_device(each, device) for each in value]
    return value.to(device)
