# SPDX-License-Identifier: Apache-2.0
"""Transforms of annotated images: boxes and masks change with the pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_masks
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.ops import box_area
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from .data_errors import BrokenSampleError
from .transforms import image_processor


DETECTION_AUGMENTATIONS = ("flip", "crop", "zoom_out", "jitter", "mosaic")
LEAST_VISIBLE = 0.3  # share of an object that must stay in the image for it to stay annotated
LEAST_SIDE = 4.0  # pixels: smaller boxes are left out after a change
GREY = 114  # around an image that was zoomed out
ORIENTATION = 0x0112  # EXIF tag

# image: tv_tensors.Image; boxes: tv_tensors.BoundingBoxes; masks: tv_tensors.Mask, all zero where there is none; and
# one row per object of labels, has_mask, iscrowd, attributes
Sample = dict[str, torch.Tensor]
PER_OBJECT = ("labels", "has_mask", "iscrowd", "attributes")


def read_image(path: str, height: int, width: int, longest_side: int) -> torch.Tensor:
    """The image as uint8 (3, height, width), decoded at a reduced size if JPEG allows one not below `longest_side`.

    Args:
        path: Of the file.
        height: As annotated. EXIF orientation is applied where the annotated size wants it.
        width: As annotated.
        longest_side: In pixels.

    Raises:
        OSError: It cannot be read; the message names it.
        BrokenSampleError: It has another size than its annotations say.
    """
    try:
        with Image.open(path) as image:
            stored = image.size
            scale = longest_side / max(stored)
            if scale < 1:
                image.draft(None, (int(stored[0] * scale), int(stored[1] * scale)))
            image.load()
            is_turned = image.getexif().get(ORIENTATION, 1) >= 5  # by a quarter
            if (stored[::-1] if is_turned else stored) == (width, height):
                image = ImageOps.exif_transpose(image)
            elif stored == (width, height):
                del image.getexif()[ORIENTATION]  # annotated as it is stored
            else:
                raise BrokenSampleError(
                    f"{path}: {stored[0]} x {stored[1]} pixels, but annotated as {width} x {height}."
                )
            return image_processor().process_image(image)
    except BrokenSampleError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them into
        raise OSError(f"Cannot read image {path}: {error}") from error


def read_sample(row: dict[str, Any], longest_side: int, masks: bool = True) -> Sample:
    """An annotated image, its longest side reduced to about `longest_side`.

    Args:
        row: A row of what `load_detections` returns.
        longest_side: In pixels; smaller images stay as they are.
        masks: Whether to decode the masks, which takes time.
    """
    height, width = row["height"], row["width"]
    image = read_image(row["image"], height, width, longest_side)
    if max(image.shape[-2:]) > 1.5 * longest_side:
        scale = longest_side / max(image.shape[-2:])
        image = transforms.resize(image, [max(1, round(side * scale)) for side in image.shape[-2:]])
    objects, size = row["objects"], tuple(image.shape[-2:])
    boxes = torch.tensor([each["box"] for each in objects], dtype=torch.float32).reshape(-1, 4)
    boxes = boxes * torch.tensor([size[1] / width, size[0] / height] * 2)
    sample = {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        "labels": torch.tensor([each["label"] for each in objects], dtype=torch.int64),
        "has_mask": torch.tensor([each["mask"] is not None for each in objects], dtype=torch.bool),
        "iscrowd": torch.tensor([int(each["iscrowd"]) for each in objects], dtype=torch.int64),
        "attributes": torch.tensor([each["attribute"] for each in objects], dtype=torch.int64),
    }
    if masks:
        decoded = np.zeros((len(objects), height, width), dtype=np.uint8)
        for place, each in enumerate(objects):
            if each["mask"] is not None:
                decoded[place] = coco_masks.decode({"size": [height, width], "counts": each["mask"]})
        sample["masks"] = transforms.resize(tv_tensors.Mask(decoded), list(size))  # (num_objects, height, width)
    return sample


def select_objects(sample: Sample, kept: torch.Tensor) -> Sample:
    """The sample with the objects where `kept`, a bool tensor (num_objects,), is True and that are large enough."""
    boxes = sample["boxes"].as_subclass(torch.Tensor)
    kept = kept & ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(dim=1)
    selected = {**sample, **{name: sample[name][kept] for name in PER_OBJECT}}
    for name in {"boxes", "masks"} & sample.keys():
        selected[name] = tv_tensors.wrap(sample[name].as_subclass(torch.Tensor)[kept], like=sample[name])
    if "masks" in sample:
        selected["has_mask"] = selected["has_mask"] & (selected["masks"].flatten(1) > 0).any(dim=1)
    return selected


def change(sample: Sample, function: Callable[..., torch.Tensor], *arguments: Any) -> Sample:
    """The sample with image, boxes and masks changed by one of torchvision's functions."""
    return {name: value if name in PER_OBJECT else function(value, *arguments) for name, value in sample.items()}


@dataclass(frozen=True)
class DetectionAugmentation:
    """Random changes of annotated images, by torchvision's transforms and, for mosaics, which it lacks, by our own.

    Args:
        names: Which of `DETECTION_AUGMENTATIONS`: `flip` mirrors every second image, `crop` takes a part that keeps
            an object (SSD's IoU crop), `zoom_out` puts it on a larger grey canvas, `jitter` distorts colours, `mosaic`
            joins four images (YOLOv4).
        mosaic: Share of images that become a mosaic.
    """

    names: tuple[str, ...] = ("flip", "crop", "zoom_out", "jitter")
    mosaic: float = 0.5

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in DETECTION_AUGMENTATIONS]
        if unknown:
            raise ValueError(f"Unknown augmentation {unknown}; expected some of {DETECTION_AUGMENTATIONS}.")

    def __call__(self, sample: Sample, draw: Callable[[], Sample], size: int, rng: np.random.Generator) -> Sample:
        """The changed sample. Call it within `seeded`: torchvision draws from torch's generator.

        Args:
            sample: What to change.
            draw: Gives another, random sample.
            size: Side of a mosaic in pixels.
            rng: Source of the other random numbers.
        """
        if "mosaic" in self.names and rng.random() < self.mosaic:
            sample = mosaic([sample, draw(), draw(), draw()], size, rng)
        elif "zoom_out" in self.names and rng.random() < 0.25:
            sample = v2.RandomZoomOut(fill={tv_tensors.Image: GREY, "others": 0}, side_range=(1.0, 2.0), p=1.0)(sample)
        elif "crop" in self.names and len(sample["labels"]):
            sample = v2.RandomIoUCrop(sampler_options=[0.3, 0.5, 0.7, 0.9, 1.0], trials=10)(sample)
            sample = select_objects(sample, torch.ones(len(sample["labels"]), dtype=torch.bool))
        if "flip" in self.names:
            sample = v2.RandomHorizontalFlip()(sample)
        if "jitter" in self.names:
            sample = {**sample, "image": COLOURS(sample["image"])}
        return sample


# channels keep their order: a cow is brown; hue costs more than all else together, so it changes rarely
COLOURS = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(brightness=0.3)]),
        v2.RandomApply([v2.ColorJitter(contrast=0.4)]),
        v2.RandomApply([v2.ColorJitter(saturation=0.5)]),
        v2.RandomApply([v2.ColorJitter(hue=0.03)], p=0.15),
        v2.RandomGrayscale(p=0.02),
    ]
)


def mosaic(samples: list[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Four samples around a random point of a square of `size` pixels, each covering its quarter (YOLOv4)."""
    across, down = (round(size * rng.uniform(0.3, 0.7)) for _ in range(2))
    tiles = []
    for place, sample in enumerate(samples):
        top, height = (0, down) if place < 2 else (down, size - down)
        left, width = (0, across) if place % 2 == 0 else (across, size - across)
        # the largest part of the tile's shape, or up to a third smaller, from anywhere
        old_height, old_width = sample["image"].shape[-2:]
        scale = min(old_height / height, old_width / width) / rng.uniform(1.0, 1.5)
        part = [max(1, int(height * scale)), max(1, int(width * scale))]
        corner = [
            int(rng.integers(whole - side + 1)) for whole, side in zip((old_height, old_width), part, strict=True)
        ]
        tile = change(sample, transforms.resized_crop, *corner, *part, [height, width])
        shrunk = part[0] * part[1] / (height * width)
        tile = select_objects(tile, box_area(tile["boxes"]) * shrunk >= LEAST_VISIBLE * box_area(sample["boxes"]))
        tiles.append(change(tile, transforms.pad, [left, top, size - left - width, size - top - height]))
    joined = {
        name: torch.cat([tile[name].as_subclass(torch.Tensor) for tile in tiles])
        for name in ("boxes", "masks", *PER_OBJECT)
        if all(name in tile for tile in tiles)
    }
    joined["image"] = tv_tensors.Image(sum(tile["image"].as_subclass(torch.Tensor) for tile in tiles))
    joined["boxes"] = tv_tensors.BoundingBoxes(joined["boxes"], format="XYXY", canvas_size=(size, size))
    if "masks" in joined:
        joined["masks"] = tv_tensors.Mask(joined["masks"])  # (num_objects, size, size)
    return joined
