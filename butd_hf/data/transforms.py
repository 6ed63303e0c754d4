# SPDX-License-Identifier: Apache-2.0
"""Transforms of images: decoding, fixed views, random augmentation, and captions of mirrored images."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from ..modeling.image_processing_butd import ButdImageProcessor


SIDES = {"left": "right", "right": "left"}
SIDE_WORD = re.compile(r"\b(left|right)(?=(?:most|side|hand)?\b)", flags=re.IGNORECASE)


@contextlib.contextmanager
def seeded(*seeds: int) -> Iterator[np.random.Generator]:
    """Within it, torch's random numbers and the generator given depend on the seeds alone; outside nothing changes."""
    rng = np.random.default_rng(seeds)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(rng.integers(2**63)))
        yield rng


@lru_cache(maxsize=1)
def image_processor() -> ButdImageProcessor:
    """Its `process_image` turns any image into RGB as at inference."""
    return ButdImageProcessor()


def load_image(path: str, content: bytes | None = None) -> Image.Image:
    """The image file, decoded and upright, in its own colour space. Raises `OSError` with the path.

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


def crop_sides(image: Image.Image, share: float, left: float, top: float) -> Image.Image:
    """A part with a share of each side; of the rest, the shares `left` and `top` lie before it."""
    width, height = image.size
    crop_width, crop_height = max(1, round(width * share)), max(1, round(height * share))
    x0, y0 = round((width - crop_width) * left), round((height - crop_height) * top)
    return image.crop((x0, y0, x0 + crop_width, y0 + crop_height))


CROPS = {
    "crop": partial(crop_sides, share=0.9, left=0.5, top=0.5),
    "crop_top_left": partial(crop_sides, share=0.85, left=0, top=0),
    "crop_top_right": partial(crop_sides, share=0.85, left=1, top=0),
    "crop_bottom_left": partial(crop_sides, share=0.85, left=0, top=1),
    "crop_bottom_right": partial(crop_sides, share=0.85, left=1, top=1),
}
VIEWS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "identity": lambda image: image,
    "flip": ImageOps.mirror,
    **{name: CROPS[name] for name in ("crop", "crop_top_left", "crop_bottom_right")},
    "crop_flip": lambda image: ImageOps.mirror(CROPS["crop"](image)),
    "crop_top_right_flip": lambda image: ImageOps.mirror(CROPS["crop_top_right"](image)),
    "crop_bottom_left_flip": lambda image: ImageOps.mirror(CROPS["crop_bottom_left"](image)),
}

# views that exchange left and right
MIRRORED_VIEWS = frozenset(name for name in VIEWS if name.endswith("flip"))

AUGMENTATIONS = ("flip", "crop", "jitter")


def views_of(augmentations: Sequence[str]) -> tuple[str, ...]:
    """The fixed views that replace random augmentation where regions are computed once."""
    return tuple(
        name
        for name in VIEWS
        if ("crop" in augmentations or not name.startswith("crop"))
        and ("flip" in augmentations or name not in MIRRORED_VIEWS)
    )


@dataclass(frozen=True)
class Augmentation:
    """Random changes that leave an image's captions true.

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
        with seeded(int(rng.integers(2**63))):
            if "crop" in self.names:  # the processor resizes later
                top, left, height, width = v2.RandomResizedCrop.get_params(
                    image, scale=[self.smallest_crop, 1.0], ratio=[3 / 4, 4 / 3]
                )
                image = image.crop((left, top, left + width, top + height))
            if "jitter" in self.names:
                image = v2.functional.to_pil_image(image_processor().process_image(image))
                image = v2.ColorJitter(*[self.jitter_strength] * 3)(image)
        mirrored = "flip" in self.names and rng.random() < 0.5
        return (ImageOps.mirror(image) if mirrored else image), mirrored


def mirror_caption(caption: str) -> str:
    """The caption of the mirrored image: `left` and `right` change places, keeping their case."""

    def other_side(match: re.Match[str]) -> str:
        word = match.group()
        other = SIDES[word.lower()]
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return SIDE_WORD.sub(other_side, caption)
