# SPDX-License-Identifier: Apache-2.0
"""Captioning: images or stored regions with their captions in, generated captions scored."""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch import nn

from ..data.data_errors import BrokenSampleError
from ..data.transforms import Augmentation, mirror_caption
from ..metrics import CaptionMetrics
from ..modeling.processing_butd import ButdProcessor
from .collators import REGION_INPUTS, collate_images, draw, read_image
from .task import Task


class CaptionTask(Task):
    """Rows of `load_captions` or `open_captions` for a `ButdForConditionalGeneration`.

    Args:
        processor: Prepares images and captions.
        captions_per_image: Captions drawn of each image in training, anew each epoch.
        max_length: Longest caption in tokens; longer ones are cut.
        augmentation: Of images in training.
    """

    name = "image-to-text"

    def __init__(
        self,
        processor: ButdProcessor,
        *,
        captions_per_image: int = 5,
        max_length: int | None = None,
        augmentation: Augmentation | None = None,
    ):
        self.processor = processor
        self.captions_per_image = captions_per_image
        self.max_length = max_length
        self.augmentation = augmentation

    def read(self, row: dict[str, Any], rng: np.random.Generator | None, source: Any) -> dict[str, Any]:
        if not row["captions"]:
            raise BrokenSampleError(f"{row['image_id']} has no captions")
        image, mirrored = read_image(row, rng, source.store, self.augmentation)
        captions = row["captions"] if rng is None else draw(row["captions"], self.captions_per_image, rng)
        return {**image, "captions": [mirror_caption(each) for each in captions] if mirrored else captions}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        most = max(len(sample["captions"]) for sample in samples)  # the model takes as many for each image
        captions = [list(islice(cycle(sample["captions"]), most)) for sample in samples]
        encoded = self.processor.encode_captions(captions, max_length=self.max_length)
        return {**collate_images(samples, self.processor), **encoded}

    def predict(self, model: nn.Module, outputs: Any, rows: Sequence[Any], **options: Any) -> list[str]:
        regions = outputs.regions  # as the loss was computed from them: images aren't encoded twice
        inputs = dict(zip(REGION_INPUTS, (regions.features, regions.boxes, regions.mask), strict=True))
        texts = self.processor.batch_decode(model.generate(**inputs, **options), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def score(self, predictions: Sequence[str], rows: Sequence[Any]) -> dict[str, float]:
        return CaptionMetrics().compute(predictions, [row["captions"] for row in rows])

    def line(self, prediction: str, row: dict[str, Any]) -> dict[str, Any]:
        return {"image_id": row["image_id"], "prediction": prediction, "references": row["captions"]}


__all__ = ["CaptionTask"]
