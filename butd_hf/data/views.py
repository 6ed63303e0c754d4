# SPDX-License-Identifier: Apache-2.0
"""Views of an image: the same picture mirrored, cropped or recoloured, and what that does to words about sides."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as transforms


SIDES = {"left": "right", "right": "left"}
SIDE_WORD = re.compile(r"\b(left|right)(?=(?:most|side|hand)?\b)", flags=re.IGNORECASE)


def load_image(path: str, content: bytes | None = None) -> Image.Image:
    """
    The image file, decoded and upright; colours are the processor's business. Raises `OSError` with the path.

    Args:
        path: Of the file.
        content: Its bytes, if they have been read already.
    """
    file = path if content is None else BytesIO(content)
    try:
        with Image.open(file) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise whatever a broken file leads them into
        reason = str(error).replace(repr(file), path)  # not where its bytes are in memory
        raise OSError(f"Cannot read image {path}: {reason}") from error


def central_crop(image: Image.Image) -> Image.Image:
    """The central nine tenths of each side: what a small step forward would show."""
    width, height = image.size
    margin_x, margin_y = round(width * 0.05), round(height * 0.05)
    return image.crop((margin_x, margin_y, width - margin_x, height - margin_y))


def corner_crop(image: Image.Image, right: bool, bottom: bool) -> Image.Image:
    """Seventeen twentieths of each side, from a corner on."""
    width, height = image.size
    crop_width, crop_height = max(1, round(width * 0.85)), max(1, round(height * 0.85))
    left, top = (width - crop_width) * right, (height - crop_height) * bottom
    return image.crop((left, top, left + crop_width, top + crop_height))


VIEWS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "identity": lambda image: image,
    "flip": ImageOps.mirror,
    "crop": central_crop,
    "crop_top_left": partial(corner_crop, right=False, bottom=False),
    "crop_bottom_right": partial(corner_crop, right=True, bottom=True),
    "crop_flip": lambda image: ImageOps.mirror(central_crop(image)),
    "crop_top_right_flip": lambda image: ImageOps.mirror(corner_crop(image, right=True, bottom=False)),
    "crop_bottom_left_flip": lambda image: ImageOps.mirror(corner_crop(image, right=False, bottom=True)),
}

# views that exchange left and right
MIRRORED_VIEWS = frozenset(name for name in VIEWS if name.endswith("flip"))

AUGMENTATIONS = ("flip", "crop", "jitter")


def views_of(augmentations: Sequence[str]) -> tuple[str, ...]:
    """The fixed views that stand in for random augmentation where regions are computed once."""
    return tuple(
        name
        for name in VIEWS
        if ("crop" in augmentations or not name.startswith("crop"))
        and ("flip" in augmentations or name not in MIRRORED_VIEWS)
    )


@dataclass(frozen=True)
class Augmentation:
    """
    Random changes that leave an image's captions true.

    Args:
        names: Which of `AUGMENTATIONS` to apply: `flip` mirrors every second image, `crop` takes a random part,
            `jitter` changes brightness, contrast and saturation.
        smallest_crop: Least share of the area that a crop keeps, in (0, 1].
        jitter_strength: Largest relative change of brightness, contrast and saturation, in [0, 1).
    """

    names: tuple[str, ...] = ("flip",)
    smallest_crop: float = 0.6
    jitter_strength: float = 0.2

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in AUGMENTATIONS]
        if unknown:
            raise ValueError(f"Unknown augmentation {unknown}; expected some of {AUGMENTATIONS}.")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, bool]:
        """The changed image, and whether left and right changed places."""
        if "crop" in self.names:
            image = random_crop(image, rng, self.smallest_crop)
        if "jitter" in self.names:
            image = image.convert("RGB")
            low, high = 1.0 - self.jitter_strength, 1.0 + self.jitter_strength
            image = transforms.adjust_brightness(image, rng.uniform(low, high))
            image = transforms.adjust_contrast(image, rng.uniform(low, high))
            image = transforms.adjust_saturation(image, rng.uniform(low, high))
        mirrored = "flip" in self.names and rng.random() < 0.5
        return (transforms.horizontal_flip(image) if mirrored else image), mirrored


def random_crop(image: Image.Image, rng: np.random.Generator, smallest: float) -> Image.Image:
    """A random part that covers `smallest` to 1 of the area, stretched by at most 4/3; resizing is left to others."""
    width, height = image.size
    area = rng.uniform(smallest, 1.0)
    stretch = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_width = min(width, max(1, round(width * np.sqrt(area * stretch))))
    crop_height = min(height, max(1, round(height * np.sqrt(area / stretch))))
    left = int(rng.integers(0, width - crop_width + 1))
    top = int(rng.integers(0, height - crop_height + 1))
    return image.crop((left, top, left + crop_width, top + crop_height))


def mirror_caption(caption: str) -> str:
    """The caption of the mirrored image: `left` and `right` change places, keeping their case."""

    def other_side(match: re.Match[str]) -> str:
        word = match.group()
        other = SIDES[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return SIDE_WORD.sub(other_side, caption)
