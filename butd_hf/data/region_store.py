"""Regions of a frozen bottom-up model, computed once and read many times."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from torch import nn
from torch.utils.data import DataLoader

from ..progress import images_progress
from .views import VIEWS, load_image


STORE_FILE = "store.json"  # written last: a folder without it is not a store
STORE_VERSION = 1

PIXEL_INPUTS = ("pixel_values", "pixel_mask")

# rows per Arrow batch: large enough to write fast, far below the 2 GiB that offsets of one batch can address
ROWS_PER_BATCH = 64

# raw bytes read without conversion: a row costs microseconds, which nested lists do not allow
STORE_FEATURES = Features(
    {
        "image_id": Value("string"),
        "view": Value("string"),
        "num_regions": Value("int32"),
        "features": Value("binary"),
        "boxes": Value("binary"),
        "saliency": Value("binary"),
    }
)


class RegionStoreError(ValueError):
    """A region store that does not exist, is not finished, or lacks what was asked for."""


@dataclass
class StoredRegions:
    """
    The regions of one view of one image, as arrays.

    Args:
        features: `(num_regions, region_size)`, in the dtype of the store.
        boxes: `(num_regions, 4)` float32, `x0, y0, x1, y1` in [0, 1] of the view.
        saliency: `(num_regions,)` float32, highest first.
        mask: `(num_regions,)` bool, all True: rows without a region are not stored.
    """

    features: np.ndarray
    boxes: np.ndarray
    saliency: np.ndarray
    mask: np.ndarray


class RegionStore:
    """
    Random access to stored regions by image and view.

    ```python
    store = RegionStore.open("regions/train")
    regions = store["1000268201_693b08cb0e.jpg", "flip"]
    ```
    """

    def __init__(self, path: Path, description: dict[str, Any], table: Dataset):
        self.path = path
        self.fingerprint: dict[str, Any] = description["fingerprint"]
        self.views: tuple[str, ...] = tuple(description["views"])
        self.dtype = np.dtype(description["dtype"])
        self.region_size: int = description["region_size"]
        self.table = table
        arrow = table.data
        ids = arrow.column("image_id").to_pylist()
        views = arrow.column("view").to_pylist()
        self.rows = {key: row for row, key in enumerate(zip(ids, views, strict=True))}
        # Arrow's chunks are kept apart: looking a row up through the whole column would search them every time
        self.chunks = {name: arrow.column(name).chunks for name in ("features", "boxes", "saliency")}
        self.ends = np.cumsum([len(chunk) for chunk in self.chunks["features"]])

    @classmethod
    def open(cls, path: str | Path) -> "RegionStore":
        """Opens a finished store; the features stay on disk. Raises `RegionStoreError` if there is none."""
        path = Path(path)
        if not (path / STORE_FILE).is_file():
            raise RegionStoreError(f"No finished region store at {path}: {STORE_FILE} is not there.")
        description = json.loads((path / STORE_FILE).read_text(encoding="utf-8"))
        if description.get("version") != STORE_VERSION:
            raise RegionStoreError(
                f"{path} is a region store of version {description.get('version')}, expected {STORE_VERSION}."
            )
        shards = [Dataset.from_file(str(path / shard)) for shard in description["shards"]]
        return cls(path, description, concatenate_datasets(shards))

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self.rows

    def __getitem__(self, key: tuple[str, str]) -> StoredRegions:
        """The regions of `(image_id, view)`. The arrays are read-only views of the file."""
        row = self.rows.get(key)
        if row is None:
            raise KeyError(f"No regions of image {key[0]!r} in view {key[1]!r} in {self.path} (views: {self.views}).")
        chunk = int(np.searchsorted(self.ends, row, side="right"))
        within = row - (int(self.ends[chunk - 1]) if chunk else 0)
        features = self._array("features", chunk, within, self.dtype).reshape(-1, self.region_size)
        boxes = self._array("boxes", chunk, within, np.float32).reshape(-1, 4)
        saliency = self._array("saliency", chunk, within, np.float32)
        return StoredRegions(features, boxes, saliency, mask=np.ones(len(boxes), dtype=bool))

    def _array(self, name: str, chunk: int, within: int, dtype: Any) -> np.ndarray:
        return np.frombuffer(self.chunks[name][chunk][within].as_buffer(), dtype=dtype)


class ImageViews(torch.utils.data.Dataset):
    """Every view of every image, each image decoded in the loader's workers."""

    def __init__(self, images: Sequence[tuple[str, str]], views: Sequence[str]):
        self.images = images
        self.views = views

    def __len__(self) -> int:
        return len(self.images) * len(self.views)

    def __getitem__(self, index: int) -> tuple[str, str, Any]:
        image_id, path = self.images[index // len(self.views)]
        view = self.views[index % len(self.views)]
        return image_id, view, VIEWS[view](load_image(path))


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
) -> RegionStore:
    """
    Runs the bottom-up half of a model over images and stores the regions. A store that is already there is used if
    nothing that its regions depend on has changed, and extracted anew otherwise.

    The store is written beside `store_path` and renamed when it is complete. Several processes share the work.

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

    Raises:
        RegionStoreError: An unknown view or dtype, or an image id that occurs twice.
    """
    store_path = Path(store_path)
    accelerator = accelerator or Accelerator()
    pairs = pairs_of(images)
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views or dtype not in ("float16", "float32"):
        raise RegionStoreError(f"Expected views among {sorted(VIEWS)} and float16 or float32, got {views}, {dtype!r}.")

    bottom_up = model if not hasattr(model, "base_model") else model.base_model.bottom_up
    fingerprint = fingerprint_of(bottom_up, processor, pairs, views, dtype)
    if is_current(store_path, fingerprint):
        return RegionStore.open(store_path)

    unfinished = store_path.with_name(f"{store_path.name}.unfinished")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    accelerator.wait_for_everyone()

    shard = unfinished / f"regions-{accelerator.process_index:05d}.arrow"
    with accelerator.split_between_processes(pairs) as own_pairs:
        region_size = write_shard(
            bottom_up, processor, own_pairs, shard, batch_size, views, np.dtype(dtype), num_workers, accelerator
        )
    flush_to_disk(shard)
    accelerator.wait_for_everyone()
    region_size = broadcast_object_list([region_size])[0]
    if accelerator.is_main_process:
        description = {
            "version": STORE_VERSION,
            "fingerprint": fingerprint,
            "views": list(views),
            "dtype": dtype,
            "region_size": region_size,
            "num_images": len(pairs),
            "shards": sorted(file.name for file in unfinished.glob("regions-*.arrow")),
        }
        (unfinished / STORE_FILE).write_text(json.dumps(description, indent=2), encoding="utf-8")
        flush_to_disk(unfinished / STORE_FILE)
        shutil.rmtree(store_path, ignore_errors=True)
        unfinished.rename(store_path)
    accelerator.wait_for_everyone()
    return RegionStore.open(store_path)


@torch.no_grad()
def write_shard(
    bottom_up: nn.Module,
    processor: Any,
    pairs: Sequence[tuple[str, str]],
    shard: Path,
    batch_size: int,
    views: Sequence[str],
    dtype: np.dtype,
    num_workers: int,
    accelerator: Accelerator,
) -> int:
    """Extracts the regions of one process's images into an Arrow file and returns the feature size."""
    loader = DataLoader(
        ImageViews(pairs, views),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=partial(process_views, processor=processor),
    )
    was_training = bottom_up.training
    bottom_up.eval().to(accelerator.device, memory_format=torch.channels_last)
    region_size = 0
    with (
        images_progress(enabled=accelerator.is_main_process) as progress,
        ArrowWriter(path=str(shard), features=STORE_FEATURES, writer_batch_size=ROWS_PER_BATCH) as writer,
    ):
        task = progress.add_task("extracting regions", total=len(loader.dataset))
        for image_ids, names, inputs in loader:
            inputs = {name: value.to(accelerator.device) for name, value in inputs.items()}
            inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
            with accelerator.autocast():
                regions = bottom_up(**inputs)
            region_size = regions.features.shape[-1]
            writer.write_batch(rows_of(image_ids, names, regions, dtype))
            progress.advance(task, len(image_ids))
        writer.finalize()
    bottom_up.train(was_training)
    return region_size


def process_views(
    samples: list[tuple[str, str, Any]], processor: Any
) -> tuple[list[str], list[str], dict[str, torch.Tensor]]:
    """Image ids, view names and model inputs of a batch of views."""
    image_ids, views, pictures = zip(*samples, strict=True)
    inputs = processor(images=list(pictures), return_tensors="pt")
    return list(image_ids), list(views), {name: inputs[name] for name in PIXEL_INPUTS if name in inputs}


def rows_of(image_ids: list[str], views: list[str], regions: Any, dtype: np.dtype) -> dict[str, list[Any]]:
    """A batch of regions as columns of the store. Places without a region are dropped."""
    features = regions.features.float().cpu().numpy()  # (batch_size, num_regions, region_size)
    with np.errstate(over="ignore"):  # reported below, with the names of the images
        features = features.astype(dtype)
    if not np.isfinite(features).all():
        raise RegionStoreError(
            f"Features of {image_ids} are not finite in {dtype.name}; store them as float32, or check the weights."
        )
    boxes = regions.boxes.float().cpu().numpy()
    saliency = regions.saliency.float().cpu().numpy()
    masks = regions.mask.cpu().numpy()  # (batch_size, num_regions)
    return {
        "image_id": image_ids,
        "view": views,
        "num_regions": [int(mask.sum()) for mask in masks],
        "features": [rows[mask].tobytes() for rows, mask in zip(features, masks, strict=True)],
        "boxes": [rows[mask].tobytes() for rows, mask in zip(boxes, masks, strict=True)],
        "saliency": [rows[mask].tobytes() for rows, mask in zip(saliency, masks, strict=True)],
    }


def pairs_of(images: Dataset | Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of image id and path; raises if an id occurs twice."""
    if isinstance(images, Dataset):
        images = list(zip(images["image_id"], images["image"], strict=True))
    pairs = [(str(image_id), str(path)) for image_id, path in images]
    if len({image_id for image_id, _ in pairs}) != len(pairs):
        seen: set[str] = set()
        twice = next(image_id for image_id, _ in pairs if image_id in seen or seen.add(image_id))
        raise RegionStoreError(f"Image id {twice!r} occurs more than once: regions are stored by image id.")
    return pairs


def fingerprint_of(
    bottom_up: nn.Module, processor: Any, pairs: list[tuple[str, str]], views: Sequence[str], dtype: str
) -> dict[str, Any]:
    """All that stored regions depend on. Where images lie does not matter; their ids and sizes in bytes do."""
    weights = hashlib.sha256()
    for name, tensor in sorted(bottom_up.state_dict().items()):
        weights.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # any dtype, bfloat16 included
        weights.update(values.numpy().tobytes())
    listed = hashlib.sha256()
    for image_id, path in pairs:
        listed.update(f"{image_id}\t{os.path.getsize(path)}\n".encode())
    config = getattr(bottom_up, "config", None)
    image_processor = getattr(processor, "image_processor", processor)
    return {
        "bottom_up_config": comparable(config.to_dict()) if config is not None else None,
        "weights": weights.hexdigest(),
        "image_processor": comparable(image_processor.to_dict()) if hasattr(image_processor, "to_dict") else None,
        "images": listed.hexdigest(),
        "views": list(views),
        "dtype": dtype,
    }


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as they look after a trip through JSON, without what does not change regions."""
    content = {name: settings[name] for name in settings if not name.startswith("_") and name not in NOT_CONTENT}
    return json.loads(json.dumps(content, sort_keys=True, default=str))


# `dtype` is known only of loaded models, and the weights tell it
NOT_CONTENT = frozenset({"dtype", "transformers_version", "auto_map", "processor_class", "name_or_path"})


def is_current(path: Path, fingerprint: dict[str, Any]) -> bool:
    """Whether a finished store at `path` holds what would be extracted."""
    if not (path / STORE_FILE).is_file():
        return False
    try:
        return RegionStore.open(path).fingerprint == fingerprint
    except (RegionStoreError, KeyError, OSError, json.JSONDecodeError, pa.ArrowInvalid):
        return False


def flush_to_disk(file: Path) -> None:
    """Returns once the file's content is on disk, so that a rename never outruns it."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
