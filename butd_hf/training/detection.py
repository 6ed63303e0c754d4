# SPDX-License-Identifier: Apache-2.0
"""Detection and segmentation: images with boxes and masks in, average precision out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import set_seed

from ..data.detection import label_names, load_detections
from ..data.detection_transforms import DetectionAugmentation, Sample, read_sample
from ..data.transforms import seeded
from ..inference.objects import prediction_line, predictions_of, score_predictions
from ..metrics.average_precision import COMMON_BOXES
from ..modeling.annotations import build_labels, unpadded_sizes
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_detection_butd import ButdForInstanceSegmentation
from .arguments import DataArguments, DetectionArguments, ModelArguments, parse_arguments
from .models import build_config, build_image_processor, build_model
from .run import run
from .samples import SampleTable
from .splits import load_splits
from .task import Task
from .trainer import ButdTrainer


REGION_MASK_SIZE = 14  # of the masks that regions themselves get in segmentation, as in Mask R-CNN before upsampling


class DetectionTask(Task):
    """Rows of `load_detections` for a `ButdForObjectDetection`, or with `masks` a `ButdForInstanceSegmentation`.

    Args:
        processor: Prepares images.
        names: The classes, in the order of their labels.
        masks: Whether the task is segmentation.
        region_masks: Whether regions have masks to learn.
        common: Boxes in the evaluation data that a class needs to count for `box_ap50_common`.
        augmentation: Of images with their boxes and masks in training.
    """

    def __init__(
        self,
        processor: ButdImageProcessor,
        names: Sequence[str],
        *,
        masks: bool = False,
        region_masks: bool = False,
        common: int = COMMON_BOXES,
        augmentation: DetectionAugmentation | None = None,
    ):
        self.name = "image-segmentation" if masks else "object-detection"
        self.processor = processor
        self.names = list(names)
        self.masks = masks
        self.label_masks = masks or region_masks
        self.read_masks = self.label_masks
        self.common = common
        self.augmentation = augmentation
        self.image_size = max(dict(processor.size).values())  # longest side that images are read at, and of mosaics

    def read(self, row: dict[str, Any], rng: np.random.Generator | None, source: Any) -> dict[str, Any]:
        sample = read_sample(row, self.image_size, self.read_masks)
        if rng is not None and self.augmentation is not None:
            with seeded(int(rng.integers(2**63))) as generator:

                def another() -> Sample:
                    place = int(generator.integers(len(source)))
                    read = lambda place: read_sample(source.rows[place], self.image_size, self.read_masks)  # noqa: E731
                    return source.first_whole(place, read)

                sample = self.augmentation(sample, another, self.image_size, generator)
        return {"sample": sample, "image_id": row["image_id"], "size": (row["height"], row["width"])}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`pixel_values`, perhaps `pixel_mask`, and `labels`: a dict per image."""
        images = [sample["sample"]["image"].as_subclass(torch.Tensor) for sample in samples]
        inputs = self.processor(images=images, return_tensors="pt")
        batch = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        sizes = unpadded_sizes(inputs)
        batch["labels"] = [self.labels_of(sample, size) for sample, size in zip(samples, sizes, strict=True)]
        return batch

    def labels_of(self, sample: dict[str, Any], processed_size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What the model is to find in an image, of a height and width in pixels."""
        annotated = sample["sample"]
        others = {
            "iscrowd": annotated["iscrowd"],
            "image_id": torch.tensor([sample["image_id"]]),
            "orig_size": torch.tensor(sample["size"]),
        }
        if (annotated["attributes"] >= 0).any():
            others["attribute_labels"] = annotated["attributes"]
        masks = None
        if self.label_masks and "masks" in annotated:
            masks, others["has_mask"] = annotated["masks"].as_subclass(torch.Tensor), annotated["has_mask"]
        boxes, size = annotated["boxes"].as_subclass(torch.Tensor), tuple(annotated["image"].shape[-2:])
        return build_labels(annotated["labels"], boxes, size, masks=masks, processed_size=processed_size, **others)

    def predict(self, model: nn.Module, outputs: Any, rows: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        sizes = [(row["height"], row["width"]) for row in rows]
        return predictions_of(outputs, self.processor, sizes, masks=self.masks)

    def score(self, predictions: Sequence[Any], rows: Sequence[Any]) -> dict[str, float]:
        return score_predictions(predictions, rows, names=self.names, masks=self.masks, common=self.common)

    def line(self, prediction: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        return prediction_line(row, prediction, self.names)


def train(model_class: type, **defaults: Any) -> dict[str, float]:
    """Trains a detector or segmenter as the command line says; `defaults` are of `parse_arguments`."""
    masks = model_class is ButdForInstanceSegmentation
    augment = ["flip", "crop", "zoom_out", "jitter"]
    data, options, own, training = parse_arguments(
        *(DataArguments, ModelArguments, DetectionArguments),
        **{"backbone": "tf_efficientnet_lite0", "augment": augment, "per_device_eval_batch_size": 16, **defaults},
    )
    set_seed(training.seed)

    def load(source: str) -> Dataset:
        return load_detections(source, images=data.images, strict=data.strict, require_images=data.strict)

    train_rows, eval_rows = load_splits(data, load, training.seed)
    names = label_names(train_rows)
    if names != label_names(eval_rows):
        raise ValueError(
            f"--eval_data has other categories than --data, or in another order: {label_names(eval_rows)}."
        )
    processor = build_image_processor(options, size={"height": 320, "width": 320})
    bottom_up = {"selector": "rpn", **({"region_mask_size": REGION_MASK_SIZE} if masks else {})}
    config = build_config(options, model_class, {}, bottom_up)
    config.bottom_up_config.num_region_labels = len(names)
    config.id2label, config.label2id = dict(enumerate(names)), {name: label for label, name in enumerate(names)}
    model = build_model(options, model_class, config, whole=False)  # heads of other classes, or masks, begin anew
    augmentation = DetectionAugmentation(tuple(data.augment), own.mosaic) if data.augment else None
    task = DetectionTask(
        processor,
        names,
        masks=masks,
        region_masks=config.bottom_up_config.region_mask_size > 0,
        common=own.common,
        augmentation=augmentation,
    )
    samples = SampleTable(train_rows, task.read, training=True, seed=training.seed, strict=data.strict)
    rates = {"ema_decay": options.ema_decay, "backbone_learning_rate": options.backbone_learning_rate}
    trainer = ButdTrainer(model, training, task, samples, SampleTable(eval_rows, task.read), **rates)
    return run(trainer, data, options, f"{len(train_rows):,} images with boxes{' and masks' if masks else ''}")


__all__ = ["DetectionTask", "train"]
