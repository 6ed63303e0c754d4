# SPDX-License-Identifier: Apache-2.0
"""Running a bottom-up model over many images, once: what is where does not depend on how many processes do it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from .region_rows import DTYPES, DuplicateImageError, RegionStoreError, rows_of_batch
from .region_shards import (
    IMAGES_PER_SHARD,
    STORE_FILE,
    ShardWriter,
    describe_store,
    install,
    shard_name,
    unfinished_folder,
    write_index,
    write_whole,
)
from .views import VIEWS, load_image


if TYPE_CHECKING:
    from .region_store import RegionStore

PLAN_FILE = "plan.json"
REPORTS = "reports"  # of finished shards, while the store is not finished

PIXEL_INPUTS = ("pixel_values", "pixel_mask", "image_scale")

Entry = tuple[int, int]  # place of an image in the list, place of a view


class ImageViews(torch.utils.data.Dataset):
    """
    Views of images, each decoded in the loader's workers.

    Args:
        images: Pairs of image id and path.
        views: Names in `butd_hf.data.views.VIEWS`.
        boxes: Boxes to describe in each image.
        strict: Whether an image that can't be read is an error.
    """

    def __init__(
        self,
        images: Sequence[tuple[str, str]],
        views: Sequence[str],
        boxes: GivenBoxes | None = None,
        strict: bool = True,
    ):
        self.images = images
        self.views = views
        self.boxes = boxes
        self.strict = strict

    def __len__(self) -> int:
        return len(self.images) * len(self.views)

    def __getitem__(self, entry: Entry) -> dict[str, Any]:
        image_id, path = self.images[entry[0]]
        sample = {"image_id": image_id, "view": self.views[entry[1]]}
        try:
            picture = VIEWS[sample["view"]](load_image(path))
        except OSError as error:
            if self.strict:
                raise
            return {**sample, "error": str(error)}
        sample.update(picture=picture, size=picture.size)
        if self.boxes is not None:
            sample["boxes"] = self.boxes.relative(image_id, *picture.size)
        return sample


class ShardBatches:
    """
    Batches of views, shard after shard, those of near shapes together so that little is padded.

    They depend on the images of a shard alone, never on who works at which shard.
    """

    def __init__(
        self, images: Sequence[tuple[str, str]], num_views: int, shard_size: int, batch_size: int, shards: list[int]
    ):
        self.images = images
        self.num_views = num_views
        self.shard_size = shard_size
        self.batch_size = batch_size
        self.shards = shards

    def entries(self, shard: int) -> list[Entry]:
        """Images and views of a shard, in the order in which they are worked at."""
        start = shard * self.shard_size
        places = range(start, min(start + self.shard_size, len(self.images)))
        shapes = {place: shape_of(self.images[place][1]) for place in places}
        entries = [(place, view) for place in places for view in range(self.num_views)]
        return sorted(entries, key=lambda entry: (entry[1], *shapes[entry[0]], entry[0]))

    def __iter__(self) -> Iterator[list[Entry]]:
        for shard in self.shards:
            entries = self.entries(shard)
            for start in range(0, len(entries), self.batch_size):
                yield entries[start : start + self.batch_size]


def shape_of(path: str) -> tuple[float, int]:
    """Width per height, and pixels, as the header of an image file says; zeros if it says nothing."""
    try:
        with Image.open(path) as image:
            return image.width / image.height, image.width * image.height
    except Exception:  # whoever decodes it will say what is wrong
        return 0.0, 0


def process_views(samples: list[dict[str, Any]], processor: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Samples without their pictures, and the model's inputs for those that could be read."""
    pictures = [sample.pop("picture") for sample in samples if "picture" in sample]
    inputs = processor(images=pictures, return_tensors="pt") if pictures else {}
    inputs = {name: inputs[name] for name in PIXEL_INPUTS if name in inputs}
    boxes = [sample.pop("boxes") for sample in samples if "boxes" in sample]
    if boxes:
        most = max(1, *map(len, boxes))
        inputs["region_boxes"] = torch.zeros(len(boxes), most, 4)
        inputs["region_mask"] = torch.zeros(len(boxes), most, dtype=torch.bool)
        for row, each in enumerate(boxes):
            inputs["region_boxes"][row, : len(each)] = torch.from_numpy(each)
            inputs["region_mask"][row, : len(each)] = True
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
) -> "RegionStore":
    """
    Runs the bottom-up half of a model over images and stores the regions. A store that is already there is used if
    nothing that its regions depend on has changed, and extracted anew otherwise.

    The store is written beside `store_path` and renamed when it is complete. Several processes share the shards; each
    appears whole or not at all, so that a killed extraction goes on with the shards that are missing. With the same
    batch size and as many threads per process, the bytes do not depend on the number of processes or of kills.

    Args:
        model: A model with `base_model.bottom_up`, or a bottom-up module itself.
        processor: Turns images into `pixel_values` (and `pixel_mask`), as it will at inference.
        images: A table with the columns `image_id` and `image` (path), or pairs of the two.
        store_path: Folder of the store.
        batch_size: Views per forward pass and process.
        views: Names in `butd_hf.data.views.VIEWS`.
        dtype: `float16` or `float32`, of the features.
        num_workers: Loader processes that decode images.
        accelerator: By default one for the current process.
        boxes: Boxes to describe instead of selecting any.
        strict: Whether an image that can't be read is an error; otherwise it is left out and `RegionStore.skipped`
            tells why.
        shard_size: Images per file.
        overwrite: Whether to replace what was extracted from other images or by another model.

    Raises:
        RegionStoreError: An unknown view or dtype, an image id that occurs twice, or a store that isn't to be
            overwritten.
        OSError: An image can't be read, with `strict`.
    """
    from .region_store import RegionStore

    store_path = Path(store_path)
    accelerator = accelerator or Accelerator()
    pairs = pairs_of(images)
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views or dtype not in DTYPES:
        raise RegionStoreError(f"Expected views among {sorted(VIEWS)} and one of {DTYPES}, got {views}, {dtype!r}.")
    if boxes is not None:
        if tuple(views) != ("identity",):
            raise RegionStoreError(f"Boxes are of pictures as they are, not of views {views}.")
        boxes.check([image_id for image_id, _ in pairs])

    bottom_up = model if not hasattr(model, "base_model") else model.base_model.bottom_up
    digest = None if boxes is None else boxes.digest
    fingerprint = fingerprint_of(bottom_up, processor, pairs, views, dtype, digest)
    # what there is and what is to be done, as the main process sees it: files appear while others look
    found: list[Any] = [None, None, None]
    if accelerator.is_main_process:
        found = list(take_stock(store_path, fingerprint, len(pairs), max(shard_size, batch_size), overwrite))
    refusal, shard_size, missing = broadcast_object_list(found)
    if refusal is not None:
        raise RegionStoreError(refusal)
    if missing is not None:
        own = missing[accelerator.process_index :: accelerator.num_processes]
        work = ShardBatches(pairs, len(views), shard_size, batch_size, own)
        dataset = ImageViews(pairs, views, boxes, strict)
        extract_shards(
            bottom_up, processor, dataset, work, unfinished_folder(store_path), dtype, num_workers, accelerator
        )
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            finish(store_path, fingerprint, -(-len(pairs) // shard_size))
        accelerator.wait_for_everyone()
    store = RegionStore.open(store_path)
    if strict and store.skipped:
        first = store.skipped[0]
        raise OSError(f"{store_path} lacks {len(store.skipped)} images that couldn't be read: {first['reason']}")
    return store


def take_stock(
    path: Path, fingerprint: dict[str, Any], num_images: int, shard_size: int, overwrite: bool
) -> tuple[str | None, int, list[int] | None]:
    """
    What is there already, and what is missing.

    Returns:
        Why nothing must be done, the images per shard, and the shards that are missing, None with a finished store.
    """
    folder = unfinished_folder(path)
    if recorded_fingerprint(path) == fingerprint:
        return None, shard_size, None
    if recorded_fingerprint(folder) == fingerprint:  # killed when all was done but its renaming
        return None, shard_size, []
    plan = read_json(folder / PLAN_FILE)
    if plan.get("fingerprint") == fingerprint:
        shard_size = plan["shard_size"]
    else:
        for place, what in ((path, "a store"), (folder, "an unfinished extraction")):
            if place.exists() and not overwrite:
                return f"{place} is {what} of other images or another model; overwrite it, or go elsewhere.", 0, None
        shutil.rmtree(folder, ignore_errors=True)
        (folder / REPORTS).mkdir(parents=True)
        write_whole(folder / PLAN_FILE, {"fingerprint": fingerprint, "shard_size": shard_size})
    for part in folder.rglob(".*.part"):  # of processes that were killed
        part.unlink()
    finished = {file.name for file in (folder / REPORTS).glob("*.json")}
    missing = [
        number for number in range(-(-num_images // shard_size)) if f"{shard_name(number)}.json" not in finished
    ]
    return None, shard_size, missing


def recorded_fingerprint(folder: Path) -> dict[str, Any] | None:
    """The fingerprint in the description of a finished store of today's version."""
    from .region_store import RegionStore

    try:
        return RegionStore.open(folder).fingerprint
    except (RegionStoreError, KeyError, OSError, json.JSONDecodeError):
        return None


def read_json(file: Path) -> dict[str, Any]:
    """What is in a JSON file; nothing if there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


@torch.no_grad()
def extract_shards(
    bottom_up: nn.Module,
    processor: Any,
    dataset: ImageViews,
    work: ShardBatches,
    folder: Path,
    dtype: str,
    num_workers: int,
    accelerator: Accelerator,
) -> None:
    """Extracts the shards of one process, each into a file of its own with a report that says it is finished."""
    loader = DataLoader(
        dataset, batch_sampler=work, num_workers=num_workers, collate_fn=partial(process_views, processor=processor)
    )
    was_training = bottom_up.training
    bottom_up.eval().to(accelerator.device, memory_format=torch.channels_last)
    batches = iter(loader)
    with images_progress(enabled=accelerator.is_main_process) as progress:
        total, others = len(dataset), 0
        bar = progress.add_task(
            "extracting regions", total=total, completed=done_elsewhere(folder, work, len(dataset.views))
        )
        own = 0
        for shard in work.shards:
            writer = ShardWriter(folder / shard_name(shard), np.dtype(dtype))
            skipped, left = [], num_entries(work, shard)
            try:
                while left:
                    samples, inputs = next(batches)
                    left, own = left - len(samples), own + len(samples)
                    skipped += [
                        {"image_id": sample["image_id"], "reason": sample["error"]}
                        for sample in samples
                        if "error" in sample and sample["view"] == dataset.views[0]
                    ]
                    readable = [sample for sample in samples if "error" not in sample]
                    if readable:
                        regions = look(bottom_up, inputs, accelerator)
                        rows = rows_of_batch(regions, [sample["size"] for sample in readable])
                        writer.write(
                            [
                                (sample["image_id"], sample["view"], row)
                                for sample, row in zip(readable, rows, strict=True)
                            ]
                        )
                    if accelerator.is_main_process:
                        others = done_elsewhere(folder, work, len(dataset.views))
                        progress.update(bar, completed=min(total, own + others))
            except BaseException:
                writer.abandon()
                raise
            writer.close()
            report = {
                "rows": writer.num_rows,
                "region_size": writer.region_size,
                "skipped": sorted(skipped, key=lambda one: one["image_id"]),
            }
            write_whole(folder / REPORTS / f"{shard_name(shard)}.json", report)
    bottom_up.train(was_training)


def num_entries(work: ShardBatches, shard: int) -> int:
    """Views of images in a shard."""
    return min(work.shard_size, len(work.images) - shard * work.shard_size) * work.num_views


def done_elsewhere(folder: Path, work: ShardBatches, num_views: int) -> int:
    """Views that other processes, or this one before it was killed, have finished; to a shard."""
    own = {f"{shard_name(shard)}.json" for shard in work.shards}
    shards = sum(file.name not in own for file in (folder / REPORTS).glob("regions-*.json"))
    return min(shards * work.shard_size, len(work.images)) * num_views


def look(bottom_up: nn.Module, inputs: dict[str, torch.Tensor], accelerator: Accelerator) -> Any:
    """The regions of a batch."""
    inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
    inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
    with accelerator.autocast():
        return bottom_up(**inputs)


def finish(path: Path, fingerprint: dict[str, Any], num_shards: int) -> None:
    """Makes a store of finished shards. May be interrupted anywhere, and is then done again."""
    folder = unfinished_folder(path)
    if not (folder / STORE_FILE).is_file():
        shards, skipped, region_size = [], [], 0
        for number in range(num_shards):
            name = shard_name(number)
            report = json.loads((folder / REPORTS / f"{name}.json").read_text(encoding="utf-8"))
            shards.append((name, report["rows"]))
            skipped.extend(report["skipped"])
            region_size = region_size or report["region_size"]
        write_index(folder, shards)
        dtype, views = fingerprint["dtype"], fingerprint["views"]
        write_whole(folder / STORE_FILE, describe_store(dtype, region_size, views, shards, fingerprint, skipped))
    # from here on the description is what says that nothing is missing
    shutil.rmtree(folder / REPORTS, ignore_errors=True)
    (folder / PLAN_FILE).unlink(missing_ok=True)
    install(folder, path)


def pairs_of(images: Dataset | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of image id and path; raises if an id occurs twice."""
    if isinstance(images, Dataset):
        images = list(zip(images["image_id"], images["image"], strict=True))
    pairs = [(str(image_id), str(path)) for image_id, path in images]
    if len({image_id for image_id, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        twice = next(image_id for image_id, _ in pairs if image_id in seen or seen.add(image_id))
        raise DuplicateImageError(f"Image id {twice!r} occurs more than once: regions are stored by image id.")
    return pairs
