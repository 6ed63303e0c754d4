# SPDX-License-Identifier: Apache-2.0
"""Views of annotated images: what changes a picture changes its boxes and masks alike."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_masks
from PIL import Image, ImageOps
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from .flaws import BrokenSampleError


DETECTION_AUGMENTATIONS = ("flip", "crop", "zoom_out", "jitter", "mosaic", "copy_paste")
LEAST_VISIBLE = 0.3  # share of an object that must stay in the picture for it to be looked for
LEAST_SIDE = 4.0  # pixels: smaller boxes are left out after a change
MOST_PASTED = 4  # objects per picture
GREY = 114  # around what is zoomed out of

# image: tv_tensors.Image; boxes: tv_tensors.BoundingBoxes; masks: tv_tensors.Mask, all zero where there is none; and
# one row per object of labels, has_mask, iscrowd, attributes
Sample = dict[str, torch.Tensor]
PER_OBJECT = ("labels", "has_mask", "iscrowd", "attributes")


@contextlib.contextmanager
def seeded(*seeds: int) -> Iterator[np.random.Generator]:
    """Within it, torch's random numbers and the generator given depend on the seeds alone; outside nothing changes."""
    rng = np.random.default_rng(seeds)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(rng.integers(2**63)))
        yield rng


def read_picture(path: str, height: int, width: int, longest_side: int) -> torch.Tensor:
    """
    The picture as uint8 (3, height, width), decoded at a reduced size if JPEG allows one not below `longest_side`.

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
            whole = image.size
            scale = longest_side / max(whole)
            if scale < 1:
                image.draft("RGB", (int(whole[0] * scale), int(whole[1] * scale)))
            image.load()
            upright = ImageOps.exif_transpose(image)
            turned = upright.size != image.size  # by a quarter
            if (whole[::-1] if turned else whole) == (width, height):
                image = upright
            elif whole != (width, height):
                raise BrokenSampleError(
                    f"{path}: {whole[0]} x {whole[1]} pixels, but annotated as {width} x {height}."
                )
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)  # (3, height, width)
    except BrokenSampleError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them into
        raise OSError(f"Cannot read image {path}: {error}") from error


def read_sample(row: dict[str, Any], longest_side: int, masks: bool = True) -> Sample:
    """
    An annotated picture, its longest side reduced to about `longest_side`.

    Args:
        row: A row of what `load_detections` returns.
        longest_side: In pixels; smaller pictures stay as they are.
        masks: Whether to decode the masks, which takes time.
    """
    height, width = row["height"], row["width"]
    image = read_picture(row["image"], height, width, longest_side)
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
        decoded = torch.from_numpy(decoded)
        if size != (height, width):
            decoded = resize_masks(decoded, size)
        sample["masks"] = tv_tensors.Mask(decoded)  # (num_objects, height, width)
    return sample


def resize_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks (num_objects, height, width) at another size, also if there are none."""
    if len(masks) == 0:
        return masks.new_zeros((0, *size))
    return transforms.resize(masks, list(size), interpolation=v2.InterpolationMode.NEAREST)


def select_objects(sample: Sample, kept: torch.Tensor) -> Sample:
    """The sample with the objects where `kept`, a bool tensor (num_objects,), is True."""
    selected = dict(sample)
    for name in ("boxes", "masks", *PER_OBJECT):
        if name in sample:
            rows = sample[name][kept]
            selected[name] = rows if name in PER_OBJECT else tv_tensors.wrap(rows, like=sample[name])
    return selected


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """Areas of `x0, y0, x1, y1`: (num_boxes,)."""
    return (boxes[:, 2:4] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def cleaned(sample: Sample) -> Sample:
    """The sample without boxes that have become too small to see, and telling which masks have become empty."""
    boxes = sample["boxes"].as_subclass(torch.Tensor)
    sample = select_objects(sample, ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(dim=1))
    if "masks" in sample and len(sample["masks"]):
        sample["has_mask"] = sample["has_mask"] & (sample["masks"].flatten(1).amax(dim=1) > 0)
    return sample


@dataclass(frozen=True)
class DetectionAugmentation:
    """
    Random changes of annotated pictures, by torchvision's transforms and, where it has none, by our own.

    Args:
        names: Which of `DETECTION_AUGMENTATIONS`: `flip` mirrors every second picture, `crop` takes a part that keeps
            an object (SSD's IoU crop), `zoom_out` puts it on a larger grey canvas, `jitter` distorts colours, `mosaic`
            joins four pictures, `copy_paste` adds objects that have masks from another picture (Ghiasi et al. 2021).
        mosaic: Share of pictures that become a mosaic.
        copy_paste: Share of pictures that objects are pasted into.
    """

    names: tuple[str, ...] = ("flip", "crop", "zoom_out", "jitter")
    mosaic: float = 0.5
    copy_paste: float = 0.5

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in DETECTION_AUGMENTATIONS]
        if unknown:
            raise ValueError(f"Unknown augmentation {unknown}; expected some of {DETECTION_AUGMENTATIONS}.")

    @property
    def needs_masks(self) -> bool:
        """Whether masks are needed even if only boxes are learned."""
        return "copy_paste" in self.names

    def __call__(self, sample: Sample, draw: Callable[[], Sample], size: int, rng: np.random.Generator) -> Sample:
        """
        The changed sample. Call it within `seeded`: torchvision draws from torch's generator.

        Args:
            sample: What to change.
            draw: Gives another, random sample.
            size: Side of a mosaic in pixels.
            rng: What else is random.
        """
        if "mosaic" in self.names and rng.random() < self.mosaic:
            sample = mosaic([sample, draw(), draw(), draw()], size, rng)
        elif "zoom_out" in self.names and rng.random() < 0.25:
            sample = v2.RandomZoomOut(fill={tv_tensors.Image: GREY, "others": 0}, side_range=(1.0, 2.0), p=1.0)(sample)
        elif "crop" in self.names and len(sample["labels"]):
            sample = v2.RandomIoUCrop(sampler_options=[0.3, 0.5, 0.7, 0.9, 1.0], trials=10)(sample)
            sample = cleaned(sample)
        if "copy_paste" in self.names and rng.random() < self.copy_paste:
            sample = copy_paste(sample, draw(), rng)
        if "flip" in self.names:
            sample = v2.RandomHorizontalFlip()(sample)
        if "jitter" in self.names:
            sample = distort(sample)
        return sample


# channels keep their order: a cow is brown; hue costs more than all else together, so it changes rarely
DISTORTION = v2.Compose(
    [
        v2.RandomApply([v2.ColorJitter(brightness=0.3)]),
        v2.RandomApply([v2.ColorJitter(contrast=0.4)]),
        v2.RandomApply([v2.ColorJitter(saturation=0.5)]),
        v2.RandomApply([v2.ColorJitter(hue=0.03)], p=0.15),
        v2.RandomGrayscale(p=0.02),
    ]
)


def distort(sample: Sample) -> Sample:
    """Other colours."""
    return {**sample, "image": DISTORTION(sample["image"])}


def scaled(sample: Sample, height: int, width: int) -> Sample:
    """The sample at another size."""
    if sample["image"].shape[-2:] == (height, width):
        return sample
    masks = sample.get("masks")
    changed = v2.Resize([height, width])({name: value for name, value in sample.items() if name != "masks"})
    if masks is not None:
        changed["masks"] = tv_tensors.Mask(resize_masks(masks.as_subclass(torch.Tensor), (height, width)))
    return changed


def cropped(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """A part of the sample, with the objects of which enough can be seen in it."""
    before = areas(sample["boxes"])
    changed = dict(sample)
    for name in ("image", "boxes", "masks"):
        if name in sample:
            changed[name] = transforms.crop(sample[name], top, left, height, width)
    return cleaned(select_objects(changed, areas(changed["boxes"]) >= LEAST_VISIBLE * before))


def mosaic(samples: list[Sample], size: int, rng: np.random.Generator) -> Sample:
    """Four samples around a random point of a square of `size` pixels, each covering its quarter (YOLOv4)."""
    across, down = (round(size * rng.uniform(0.3, 0.7)) for _ in range(2))
    tiles = []
    for place, sample in enumerate(samples):
        height = down if place < 2 else size - down
        width = across if place % 2 == 0 else size - across
        old_height, old_width = sample["image"].shape[-2:]
        scale = max(height / old_height, width / old_width) * rng.uniform(1.0, 1.5)
        new_height, new_width = max(height, round(old_height * scale)), max(width, round(old_width * scale))
        top, left = int(rng.integers(new_height - height + 1)), int(rng.integers(new_width - width + 1))
        tile = cropped(scaled(sample, new_height, new_width), top, left, height, width)
        below, right = (0 if place < 2 else down), (0 if place % 2 == 0 else across)
        tile["boxes"] = tile["boxes"].as_subclass(torch.Tensor) + torch.tensor([right, below, right, below])
        if "masks" in tile:
            padding = [right, below, size - right - width, size - below - height]
            masks = tile["masks"].as_subclass(torch.Tensor)
            tile["masks"] = torch.nn.functional.pad(masks, (padding[0], padding[2], padding[1], padding[3]))
        tiles.append(tile)
    images = [tile["image"].as_subclass(torch.Tensor) for tile in tiles]
    rows = [torch.cat(images[:2], dim=2), torch.cat(images[2:], dim=2)]
    joined = {name: torch.cat([tile[name] for tile in tiles]) for name in PER_OBJECT}
    joined["image"] = tv_tensors.Image(torch.cat(rows, dim=1))  # (3, size, size)
    joined["boxes"] = tv_tensors.BoundingBoxes(
        torch.cat([tile["boxes"] for tile in tiles]), format="XYXY", canvas_size=(size, size)
    )
    if all("masks" in tile for tile in tiles):
        joined["masks"] = tv_tensors.Mask(torch.cat([tile["masks"] for tile in tiles]))  # (num_objects, size, size)
    return joined


def copy_paste(sample: Sample, source: Sample, rng: np.random.Generator) -> Sample:
    """
    The sample with some objects of another, larger or smaller, in front of it.

    What they cover is taken from the masks behind them. Objects that are mostly covered are no longer looked for: by
    their masks, or by their boxes where nobody drew a mask.
    """
    usable = source["has_mask"] & (source["iscrowd"] == 0)
    chosen = torch.zeros_like(usable)
    candidates = usable.nonzero()[:, 0].numpy()
    if len(candidates) == 0:
        return sample
    count = int(rng.integers(1, min(MOST_PASTED, len(candidates)) + 1))
    chosen[torch.from_numpy(rng.permutation(candidates)[:count])] = True
    height, width = sample["image"].shape[-2:]
    source = select_objects(source, chosen)
    old_height, old_width = source["image"].shape[-2:]
    scale = min(height / old_height, width / old_width) * rng.uniform(0.4, 1.2)
    source = scaled(source, max(8, round(old_height * scale)), max(8, round(old_width * scale)))
    # somewhere within, or with an edge outside
    top, left = (
        int(rng.integers(min(0, inner - outer), max(0, inner - outer) + 1))
        for inner, outer in zip((height, width), source["image"].shape[-2:], strict=True)
    )
    source = cropped(source, -top, -left, height, width)  # pads where it reaches beyond the source
    source = select_objects(source, source["has_mask"])
    if not len(source["labels"]):
        return sample
    front = source["masks"].as_subclass(torch.Tensor).amax(dim=0) > 0  # (height, width)

    image = torch.where(front, source["image"].as_subclass(torch.Tensor), sample["image"].as_subclass(torch.Tensor))
    masks = sample["masks"].as_subclass(torch.Tensor) * ~front
    before = sample["masks"].flatten(1).sum(dim=1, dtype=torch.float32)
    by_mask = masks.flatten(1).sum(dim=1, dtype=torch.float32) / before.clamp(min=1)
    boxes = sample["boxes"].as_subclass(torch.Tensor)
    covered = front.float().cumsum(0).cumsum(1)
    covered = torch.nn.functional.pad(covered, (1, 0, 1, 0))  # (height + 1, width + 1), sums up to a corner
    x0, y0, x1, y1 = boxes.round().long().clamp(min=0).unbind(dim=1)
    x0, x1, y0, y1 = (value.clamp(max=most) for value, most in ((x0, width), (x1, width), (y0, height), (y1, height)))
    inside = covered[y1, x1] - covered[y0, x1] - covered[y1, x0] + covered[y0, x0]
    by_box = 1 - inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)
    visible = torch.where(sample["has_mask"], by_mask, by_box)
    behind = {**sample, "image": tv_tensors.Image(image), "masks": tv_tensors.Mask(masks)}
    behind = select_objects(behind, visible >= LEAST_VISIBLE)
    joined = {name: torch.cat([behind[name], source[name]]) for name in PER_OBJECT}
    joined["image"] = behind["image"]
    joined["masks"] = tv_tensors.Mask(torch.cat([behind["masks"], source["masks"]]))
    joined["boxes"] = tv_tensors.BoundingBoxes(
        torch.cat([behind["boxes"], source["boxes"]]), format="XYXY", canvas_size=(height, width)
    )
    return cleaned(joined)
