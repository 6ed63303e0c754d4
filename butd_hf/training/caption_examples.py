# SPDX-License-Identifier: Apache-2.0
"""Images with captions to learn from or to score: from a table, or one after another from a stream."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from PIL import Image

from ..data.data_errors import BrokenSampleError
from ..data.region_rows import StoredRegions
from ..data.region_store import RegionStore
from ..data.transforms import MIRRORED_VIEWS, Augmentation, load_image, mirror_caption
from .example_stream import ExampleStream
from .example_table import ExampleTable


@dataclass
class CaptionExample:
    """One image, as a picture or as its stored regions, with captions of it."""

    index: int
    captions: list[str]
    image: Image.Image | None = None
    regions: StoredRegions | None = None


class CaptionDataset(ExampleTable[CaptionExample]):
    """
    Images with captions. An example depends only on its index, the epoch and the seed.

    Args:
        table: What `load_captions` returns.
        captions_per_image: Captions drawn from those of an image, anew each epoch; 0 takes all, in order.
        augmentation: Of pictures.
        store: Regions to use instead of pictures; one of its views is drawn each epoch.
        seed: Of what is drawn.
        strict: Whether a picture that can't be read is an error. Otherwise the next one takes its place, with a
            warning that names it and counts.
    """

    def __init__(
        self,
        table: Dataset,
        *,
        captions_per_image: int = 0,
        augmentation: Augmentation | None = None,
        store: RegionStore | None = None,
        seed: int = 0,
        strict: bool = True,
    ):
        super().__init__(seed=seed, strict=strict)
        # plain lists: reading a row of a table costs more than decoding a small picture
        self.paths: list[str] = list(table["image"])
        self.image_ids: list[str] = list(table["image_id"])
        self.captions: list[list[str]] = list(table["captions"])
        self.captions_per_image = captions_per_image
        self.augmentation = augmentation
        self.store = store

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> str:
        """How much of what there is."""
        return f"{len(self):,} images with {sum(map(len, self.captions)):,} captions"

    def read(self, index: int) -> CaptionExample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        image, regions, mirrored = None, None, False
        if self.store is not None:
            view = self.store.views[rng.integers(len(self.store.views))]
            regions, mirrored = self.store[self.image_ids[index], view], view in MIRRORED_VIEWS
        else:
            image = load_image(self.paths[index])
            if self.augmentation is not None:
                image, mirrored = self.augmentation(image, rng)
        captions = captions_to_learn(self.captions[index], self.captions_per_image, mirrored, rng)
        return CaptionExample(index, captions, image, regions)


class CaptionStream(ExampleStream[CaptionExample]):
    """
    Images with captions from a stream that nobody knows the length of.

    Args:
        rows: What `open_captions` returns, perhaps several of them mixed.
        captions_per_image: Captions drawn from those of an image.
        augmentation: Of pictures.

    The other arguments are those of `ExampleStream`.
    """

    def __init__(
        self,
        rows: IterableDataset,
        *,
        captions_per_image: int = 1,
        augmentation: Augmentation | None = None,
        **options: Any,
    ):
        super().__init__(rows, **options)
        self.captions_per_image = captions_per_image
        self.augmentation = augmentation

    def describe(self) -> str:
        """How much of what there is."""
        return "a stream of images with captions"

    def read(self, row: dict[str, Any], rng: np.random.Generator) -> CaptionExample:
        if not row["captions"] or row["image"] is None:
            what = "no captions" if row["image"] is not None else "no image"
            raise BrokenSampleError(f"{row['image_id']} has {what}")
        image, mirrored = load_image(row["image"]["path"] or row["image_id"], row["image"]["bytes"]), False
        if self.augmentation is not None:
            image, mirrored = self.augmentation(image, rng)
        return CaptionExample(-1, captions_to_learn(row["captions"], self.captions_per_image, mirrored, rng), image)


def captions_to_learn(captions: list[str], count: int, mirrored: bool, rng: np.random.Generator) -> list[str]:
    """`count` of an image's captions, or all if it is 0, as they are true of it."""
    if count:
        captions = draw_captions(captions, count, rng)
    return [mirror_caption(caption) for caption in captions] if mirrored else captions


def draw_captions(captions: list[Any], count: int, rng: np.random.Generator) -> list[Any]:
    """`count` captions (or whatever there are several of), each as often as every other, give or take one."""
    drawn: list[Any] = []
    while len(drawn) < count:
        order = rng.permutation(len(captions))[: count - len(drawn)]
        drawn.extend(captions[place] for place in order)
    return drawn


__all__ = ["CaptionDataset", "CaptionExample", "CaptionStream", "draw_captions"]
