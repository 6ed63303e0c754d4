# SPDX-License-Identifier: Apache-2.0
"""The regions that a model attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.image_utils import ImageInput

from ..modeling.image_processing_butd import ButdImageProcessor


@dataclass(kw_only=True)
class ImageRegions:
    """Regions of an image, the most salient first.

    Attributes:
        boxes: `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        saliency: What ranked them: (num_regions,).
        labels: Most probable class of each, None if the selector predicts none: (num_regions,).
        attributes: Most probable attribute of each, likewise: (num_regions,).
        masks: In [0, 1] within each box, None if the selector has no masks: (num_regions, m, m).
    """

    boxes: np.ndarray
    saliency: np.ndarray
    labels: np.ndarray | None = None
    attributes: np.ndarray | None = None
    masks: np.ndarray | None = None


def read_regions(regions: Any) -> list[ImageRegions]:
    """The regions of each image of a batch, without padding, from `ButdRegions`."""
    fields = {"boxes": regions.boxes.float(), "saliency": regions.saliency.float()}
    for name, logits in (("labels", "class_logits"), ("attributes", "attribute_logits")):
        if getattr(regions, logits, None) is not None:
            fields[name] = getattr(regions, logits).argmax(dim=-1)  # (batch_size, num_regions)
    if getattr(regions, "masks", None) is not None:
        fields["masks"] = regions.masks.float()
    arrays = {name: value.cpu().numpy() for name, value in fields.items()}
    return [
        ImageRegions(**{name: value[row, exists] for name, value in arrays.items()})
        for row, exists in enumerate(regions.mask.cpu().numpy())
    ]


def image_inputs(
    model: nn.Module, image_processor: ButdImageProcessor, images: Sequence[ImageInput]
) -> dict[str, torch.Tensor]:
    """The model's inputs for a batch of images, on its device."""
    return dict(image_processor(images=list(images), return_tensors="pt").to(model.device, model.dtype))


@torch.no_grad()
def image_regions(
    model: nn.Module, image_processor: ButdImageProcessor, images: Sequence[ImageInput]
) -> list[ImageRegions]:
    """The regions that any model of this package, in evaluation mode, attends to in a batch of images."""
    return read_regions(model.base_model.encode_image(**image_inputs(model, image_processor, images)).regions)
