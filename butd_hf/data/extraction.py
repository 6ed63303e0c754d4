# SPDX-License-Identifier: Apache-2.0
"""Extracting regions of many images, once: the bytes do not depend on the number of processes."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from ..progress import images_progress
from .extraction_fingerprint import fingerprint_of
from .given_boxes import GivenBoxes
from .region_rows import DTYPES, DuplicateImageError, RegionStoreError, encode_row, rows_of_batch
from .region_store import STORE_FILE, RegionStore
from .region_writing import (
    IMAGES_PER_SHARD,
    describe_store,
    move_store,
    shard_name,
    unfinished_folder,
    write_index,
    write_json,
    write_shard,
)
from .transforms import VIEWS, load_image


PLAN_FILE = "plan.json"
REPORTS = "reports"  # of finished shards, until the store is finished
PIXEL_INPUTS = ("pixel_values", "pixel_mask", "image_scale")

Entry = tuple[int, int]  # place of an image in the list, place of a view


@dataclass
class ImageViews(torch.utils.data.Dataset):
    """Views of images, each decoded in the loader's workers.

    Args:
        images: Pairs of image id and path.
        views: Names in `butd_hf.data.transforms.VIEWS`.
        boxes: Boxes whose regions are extracted.
        strict: Whether an image that can't be read is an error.
    """

    images: Sequence[tuple[str, str]]
    views: Sequence[str]
    boxes: GivenBoxes | None
    strict: bool

    def __getitem__(self, entry: Entry) -> dict[str, Any]:
        image_id, path = self.images[entry[0]]
        sample = {"image_id": image_id, "view": self.views[entry[1]]}
        try:
            image = VIEWS[sample["view"]](load_image(path))
        except OSError as error:
            if self.strict:
                raise
            return {**sample, "error": str(error)}
        sample.update(image=image, size=image.size)
        if self.boxes is not None:
            sample["boxes"] = self.boxes.relative(image_id, *image.size)
        return sample


@dataclass
class ShardBatches:
    """Batches of views, shard after shard, those of near shapes together so that little is padded.

    They depend on the images of a shard alone, not on which process extracts it.
    """

    images: Sequence[tuple[str, str]]
    num_views: int
    shard_size: int
    batch_size: int
    shards: list[int]

    def size_of(self, shard: int) -> int:
        """Views of images in a shard."""
        return min(self.shard_size, len(self.images) - shard * self.shard_size) * self.num_views

    def __iter__(self) -> Iterator[list[Entry]]:
        for shard in self.shards:
            start = shard * self.shard_size
            places = range(start, start + self.size_of(shard) // self.num_views)
            shapes = {place: shape_of(self.images[place][1]) for place in places}
            entries = [(place, view) for place in places for view in range(self.num_views)]
            entries.sort(key=lambda entry: (entry[1], *shapes[entry[0]], entry[0]))
            for first in range(0, len(entries), self.batch_size):
                yield entries[first : first + self.batch_size]


def shape_of(path: str) -> tuple[float, int]:
    """Width per height, and pixels, from the header of an image file; zeros if it can't be read."""
    try:
        with Image.open(path) as image:
            return image.width / image.height, image.width * image.height
    except Exception:  # reported when it is decoded
        return 0.0, 0


def process_views(samples: list[dict[str, Any]], processor: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples without their images, and the model's inputs for those that could be read."""
    images = [sample.pop("image") for sample in samples if "image" in sample]
    inputs = processor(images=images, return_tensors="pt") if images else {}
    inputs = {name: inputs[name] for name in PIXEL_INPUTS if name in inputs}
    boxes = [torch.from_numpy(sample.pop("boxes")) for sample in samples if "boxes" in sample]
    if boxes:
        most = max(1, *map(len, boxes))
        inputs["region_boxes"] = torch.stack([nn.functional.pad(each, (0, 0, 0, most - len(each))) for each in boxes])
        inputs["region_mask"] = torch.arange(most) < torch.tensor([[len(each)] for each in boxes])
    return samples, inputs


def extract_regions(
    model: nn.Module,
    processor: Any,
    images: Dataset | Sequence[tuple[str, str]],
    store_path: str | Path,
    *,
    batch_size: int = 32,
    views: Sequence[str] = ("identity",),
    dtype: str = "float16",
    num_workers: int = 0,
    accelerator: Accelerator | None = None,
    boxes: GivenBoxes | None = None,
    strict: bool = True,
    shard_size: int = IMAGES_PER_SHARD,
    overwrite: bool = True,
) -> RegionStore:
    """Runs the bottom-up half of a model over images and stores the regions. An existing store is used if
    nothing that its regions depend on has changed, and extracted again otherwise.

    The store is written beside `store_path` and renamed when it is complete. Several processes share the shards; each
    appears whole or not at all, so that a killed extraction continues with the shards that are missing. With the same
    batch size and as many threads per process, the bytes do not depend on the number of processes or of kills.

    Args:
        model: A model with `base_model.bottom_up`, or a bottom-up module itself.
        processor: Turns images into `pixel_values` (and `pixel_mask`), as it will at inference.
        images: A table with the columns `image_id` and `image` (path), or pairs of the two.
        store_path: Folder of the store.
        batch_size: Views per forward pass and process.
        views: Names in `butd_hf.data.transforms.VIEWS`.
        dtype: `float16` or `float32`, of the features.
        num_workers: Loader processes that decode images.
        accelerator: By default one for the current process.
        boxes: Boxes whose regions are extracted, instead of selecting any.
        strict: Whether an image that can't be read is an error; otherwise it is left out, with its reason in
            `RegionStore.skipped`.
        shard_size: Images per file.
        overwrite: Whether to replace what was extracted from other images or by another model.

    Raises:
        RegionStoreError: An unknown view or dtype, an image id that occurs twice, or a store that may not be
            overwritten.
        OSError: An image can't be read, with `strict`.
    """
    store_path = Path(store_path)
    accelerator = accelerator or Accelerator()
    pairs = pairs_of(images)
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views or dtype not in DTYPES:
        raise RegionStoreError(f"Expected views among {sorted(VIEWS)} and one of {DTYPES}, got {views}, {dtype!r}.")
    if boxes is not None:
        if tuple(views) != ("identity",):
            raise RegionStoreError(f"Boxes are of images as they are, not of views {views}.")
        boxes.check([image_id for image_id, _ in pairs])

    bottom_up = model if not hasattr(model, "base_model") else model.base_model.bottom_up
    digest = None if boxes is None else boxes.digest
    fingerprint = fingerprint_of(bottom_up, processor, pairs, views, dtype, digest)
    # only the main process reads the folder: others may be writing
    plan: list[Any] = [None, None, None]
    if accelerator.is_main_process:
        plan = list(plan_extraction(store_path, fingerprint, len(pairs), max(shard_size, batch_size), overwrite))
    refusal, shard_size, missing = broadcast_object_list(plan)
    if refusal is not None:
        raise RegionStoreError(refusal)
    if missing is not None:
        own = missing[accelerator.process_index :: accelerator.num_processes]
        batches = ShardBatches(pairs, len(views), shard_size, batch_size, own)
        loader = DataLoader(
            ImageViews(pairs, views, boxes, strict),
            batch_sampler=batches,
            num_workers=num_workers,
            collate_fn=partial(process_views, processor=processor),
        )
        extract_shards(bottom_up, loader, batches, unfinished_folder(store_path), np.dtype(dtype), accelerator)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            finish(store_path, fingerprint, -(-len(pairs) // shard_size))
        accelerator.wait_for_everyone()
    store = RegionStore.open(store_path)
    if strict and store.skipped:
        first = store.skipped[0]
        raise OSError(f"{store_path} lacks {len(store.skipped)} images that couldn't be read: {first['reason']}")
    return store


def plan_extraction(
    path: Path, fingerprint: dict[str, Any], num_images: int, shard_size: int, overwrite: bool
) -> tuple[str | None, int, list[int] | None]:
    """Compares finished and unfinished files with what is wanted.

    Returns:
        Why nothing may be done, the images per shard, and the shards that are missing, None with a finished store.
    """
    folder = unfinished_folder(path)
    if recorded_fingerprint(path / STORE_FILE) == fingerprint:
        return None, shard_size, None
    if recorded_fingerprint(folder / STORE_FILE) == fingerprint:  # killed when all was done but its renaming
        return None, shard_size, []
    if recorded_fingerprint(folder / PLAN_FILE) == fingerprint:
        shard_size = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))["shard_size"]
    else:
        for place, what in ((path, "a store"), (folder, "an unfinished extraction")):
            if place.exists() and not overwrite:
                return f"{place} is {what} of other images or another model; overwrite it, or go elsewhere.", 0, None
        shutil.rmtree(folder, ignore_errors=True)
        (folder / REPORTS).mkdir(parents=True)
        write_json(folder / PLAN_FILE, {"fingerprint": fingerprint, "shard_size": shard_size})
    for part in folder.rglob(".*.part"):  # of processes that were killed
        part.unlink()
    shards = range(-(-num_images // shard_size))
    return None, shard_size, [shard for shard in shards if not report_file(folder, shard).is_file()]


def recorded_fingerprint(file: Path) -> dict[str, Any] | None:
    """The fingerprint in a plan or in the description of a finished store; None if there is none."""
    try:
        if file.name == STORE_FILE:
            return RegionStore.open(file.parent).fingerprint
        return json.loads(file.read_text(encoding="utf-8"))["fingerprint"]
    except (RegionStoreError, KeyError, OSError, json.JSONDecodeError):
        return None


def report_file(folder: Path, shard: int) -> Path:
    """The report of a shard, which is written when it is finished."""
    return folder / REPORTS / f"{shard_name(shard)}.json"


@torch.no_grad()
def extract_shards(
    bottom_up: nn.Module,
    loader: DataLoader,
    batches: ShardBatches,
    folder: Path,
    dtype: np.dtype,
    accelerator: Accelerator,
) -> None:
    """Extracts the shards of one process, each into a file of its own and then a report of it."""
    was_training = bottom_up.training
    bottom_up.eval().to(accelerator.device, memory_format=torch.channels_last)
    loaded = iter(loader)
    with images_progress(enabled=accelerator.is_main_process) as progress:
        bar = progress.add_task("extracting regions", total=sum(map(batches.size_of, batches.shards)))
        for shard in batches.shards:
            rows, region_size, left = [], 0, batches.size_of(shard)
            skipped: dict[str, str] = {}
            while left:
                samples, inputs = next(loaded)
                left -= len(samples)
                skipped |= {sample["image_id"]: sample["error"] for sample in samples if "error" in sample}
                readable = [sample for sample in samples if "error" not in sample]
                if readable:
                    regions = forward(bottom_up, inputs, accelerator)
                    region_size = regions.features.shape[-1]
                    found = rows_of_batch(regions, [sample["size"] for sample in readable])
                    for sample, row in zip(readable, found, strict=True):
                        rows.append(encode_row(sample["image_id"], sample["view"], row, dtype))
                progress.advance(bar, len(samples))
            write_shard(folder / shard_name(shard), rows)
            reasons = [{"image_id": image_id, "reason": reason} for image_id, reason in sorted(skipped.items())]
            report = {"rows": len(rows), "region_size": region_size, "skipped": reasons}
            write_json(report_file(folder, shard), report)
    bottom_up.train(was_training)


def forward(bottom_up: nn.Module, inputs: dict[str, torch.Tensor], accelerator: Accelerator) -> Any:
    """The regions of a batch."""
    inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
    inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
    with accelerator.autocast():
        return bottom_up(**inputs).regions


def finish(path: Path, fingerprint: dict[str, Any], num_shards: int) -> None:
    """Makes a store of finished shards. May be interrupted anywhere, and is then repeated."""
    folder = unfinished_folder(path)
    if not (folder / STORE_FILE).is_file():
        reports = [json.loads(report_file(folder, shard).read_text(encoding="utf-8")) for shard in range(num_shards)]
        shards = [(shard_name(shard), report["rows"]) for shard, report in enumerate(reports)]
        skipped = [each for report in reports for each in report["skipped"]]
        region_size = next((report["region_size"] for report in reports if report["region_size"]), 0)
        write_index(folder, shards)
        dtype, views = fingerprint["dtype"], fingerprint["views"]
        describe_store(folder, dtype, region_size, views, shards, fingerprint, skipped)
    # from here on the description says that nothing is missing
    shutil.rmtree(folder / REPORTS, ignore_errors=True)
    (folder / PLAN_FILE).unlink(missing_ok=True)
    move_store(folder, path)


def pairs_of(images: Dataset | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of image id and path; raises if an id occurs twice."""
    if isinstance(images, Dataset):
        images = list(zip(images["image_id"], images["image"], strict=True))
    pairs: dict[str, str] = {}
    for image_id, path in images:
        if str(image_id) in pairs:
            raise DuplicateImageError(f"Image id {str(image_id)!r} occurs more than once: regions are stored by it.")
        pairs[str(image_id)] = str(path)
    return list(pairs.items())


__all__ = ["extract_regions"]
