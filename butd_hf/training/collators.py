# SPDX-License-Identifier: Apache-2.0
"""Images or stored regions, as captions and questions are about them, in batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.data_errors import BrokenSampleError
from ..data.region_rows import StoredRegions
from ..data.transforms import MIRRORED_VIEWS, Augmentation, load_image


REGION_INPUTS = ("region_features", "region_boxes", "region_mask")


def read_image(
    row: dict[str, Any], rng: np.random.Generator | None, store: Any, augmentation: Augmentation | None
) -> tuple[dict[str, Any], bool]:
    """The image of a row, or its stored regions, and whether left and right have changed places in it.

    Args:
        row: With `image`, a path or what a stream has of a file (`path`, `bytes`), and `image_id`.
        rng: Draws a view; None for the image as it is.
        store: The regions, if there are any.
        augmentation: Of images, where there are none.
    """
    if store is not None:
        view = "identity" if rng is None else store.views[rng.integers(len(store.views))]
        return {"regions": store[row["image_id"], view]}, view in MIRRORED_VIEWS
    image = row["image"]
    if image is None:
        raise BrokenSampleError(f"{row['image_id']} has no image")
    image = (
        load_image(image) if isinstance(image, str) else load_image(image["path"] or row["image_id"], image["bytes"])
    )
    mirrored = False
    if rng is not None and augmentation is not None:
        image, mirrored = augmentation(image, rng)
    return {"image": image}, mirrored


def collate_images(samples: Sequence[dict[str, Any]], processor: Any) -> dict[str, torch.Tensor]:
    """What the model sees of the images of a batch, or their regions."""
    if "regions" in samples[0]:
        return collate_regions([sample["regions"] for sample in samples])
    return image_inputs(processor, [sample["image"] for sample in samples])


def image_inputs(processor: Any, images: Sequence[Any]) -> dict[str, torch.Tensor]:
    """What a model sees of images."""
    inputs = processor(images=list(images), return_tensors="pt")
    inputs = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
    # convolutions are faster with channels last, on CPUs above all
    inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
    return inputs


def collate_regions(regions: Sequence[StoredRegions]) -> dict[str, torch.Tensor]:
    """A batch of the model's region inputs, padded to the image with the most regions."""
    most = max(len(each.mask) for each in regions)
    region_size = regions[0].features.shape[1]
    features = np.zeros((len(regions), most, region_size), dtype=np.float32)
    boxes = np.zeros((len(regions), most, 4), dtype=np.float32)
    mask = np.zeros((len(regions), most), dtype=bool)
    for row, each in enumerate(regions):
        count = len(each.mask)
        features[row, :count] = each.features
        boxes[row, :count] = each.boxes
        mask[row, :count] = each.mask
    return dict(zip(REGION_INPUTS, map(torch.from_numpy, (features, boxes, mask)), strict=True))


def draw(values: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """`count` of some values, each as often as every other, give or take one."""
    drawn: list[Any] = []
    while len(drawn) < count:
        drawn.extend(values[place] for place in rng.permutation(len(values))[: count - len(drawn)])
    return drawn


__all__ = ["collate_images", "collate_regions", "draw", "image_inputs", "read_image"]
