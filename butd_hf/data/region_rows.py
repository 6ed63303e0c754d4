# SPDX-License-Identifier: Apache-2.0
"""A row of a region store: the regions of one view of one image, as arrays and as bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


# arrays are raw bytes, read without conversion: nested lists would take milliseconds a row
ARRAYS = {
    "boxes": np.dtype(np.float32),
    "saliency": np.dtype(np.float32),
    "labels": np.dtype(np.int32),
    "label_scores": np.dtype(np.float32),
    "attributes": np.dtype(np.int32),
    "attribute_scores": np.dtype(np.float32),
}
STORE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("image_id", "view")),
        *((name, pa.int32()) for name in ("width", "height", "num_regions")),
        *((name, pa.binary()) for name in ("features", *ARRAYS)),
    ]
)
DTYPES = ("float16", "float32")


class RegionStoreError(ValueError):
    """A region store that does not exist, is not finished, or lacks what was asked for."""


class DuplicateImageError(RegionStoreError):
    """An image id that occurs twice where regions are stored by it."""


@dataclass
class StoredRegions:
    """The regions of one view of one image, as arrays.

    Args:
        features: `(num_regions, region_size)`, in the dtype of the store.
        boxes: `(num_regions, 4)` float32, `x0, y0, x1, y1` in [0, 1] of the view.
        saliency: `(num_regions,)` float32, highest first; ones where it is unknown.
        mask: `(num_regions,)` bool, all True: rows without a region are not stored.
        width: Of the view, in pixels; 0 if unknown.
        height: Of the view, in pixels; 0 if unknown.
        labels: `(num_regions,)` int32, the most probable class of each, without background; None if the selector has
            no classes.
        label_scores: `(num_regions,)` float32 in [0, 1], the probability of that class.
        attributes: `(num_regions,)` int32, the most probable attribute of each.
        attribute_scores: `(num_regions,)` float32 in [0, 1].
    """

    features: np.ndarray
    boxes: np.ndarray
    saliency: np.ndarray
    mask: np.ndarray
    width: int = 0
    height: int = 0
    labels: np.ndarray | None = None
    label_scores: np.ndarray | None = None
    attributes: np.ndarray | None = None
    attribute_scores: np.ndarray | None = None


def rows_of_batch(regions: Any, sizes: Sequence[tuple[int, int]]) -> list[StoredRegions]:
    """The regions of a batch, image by image, without the places that `mask` says are empty.

    Args:
        regions: `ButdRegions` of the batch.
        sizes: Width and height of each view in pixels.
    """
    arrays = {name: regions[name].float().cpu().numpy() for name in ("features", "boxes", "saliency")}
    for logits, label, score in (
        (regions.class_logits, "labels", "label_scores"),
        (regions.attribute_logits, "attributes", "attribute_scores"),
    ):
        if logits is not None and logits.shape[-1] > 0:
            best = logits.float().softmax(dim=-1).max(dim=-1)  # (batch_size, num_regions)
            arrays[score] = best.values.cpu().numpy()
            arrays[label] = best.indices.cpu().numpy().astype(np.int32)
    masks = regions.mask.cpu().numpy().astype(bool)  # (batch_size, num_regions)
    return [
        StoredRegions(
            mask=np.ones(int(mask.sum()), dtype=bool),
            width=width,
            height=height,
            **{name: values[row][mask] for name, values in arrays.items()},
        )
        for row, (mask, (width, height)) in enumerate(zip(masks, sizes, strict=True))
    ]


def encode_row(image_id: str, view: str, regions: StoredRegions, dtype: np.dtype) -> dict[str, Any]:
    """A row as the store keeps it.

    Raises:
        RegionStoreError: Features or boxes that are not finite, or too large for the dtype; shapes that don't fit.
    """
    with np.errstate(over="ignore"):  # reported below, with the name of the image
        features = np.ascontiguousarray(regions.features, dtype=dtype)
    count = len(features)
    if features.ndim != 2 or regions.boxes.shape != (count, 4) or regions.saliency.shape != (count,):
        raise RegionStoreError(
            f"Regions of {image_id!r} have features {features.shape}, boxes {regions.boxes.shape} and saliency "
            f"{regions.saliency.shape}; expected (n, region_size), (n, 4) and (n,)."
        )
    if not np.isfinite(features).all():
        raise RegionStoreError(
            f"Features of {image_id!r} are not finite in {dtype.name}; store them as float32, or check the weights."
        )
    if not np.isfinite(regions.boxes).all():
        raise RegionStoreError(f"Boxes of {image_id!r} are not finite.")
    row = {"image_id": image_id, "view": view, "width": regions.width, "height": regions.height, "num_regions": count}
    row["features"] = features.tobytes()
    for name, kind in ARRAYS.items():
        values = getattr(regions, name)
        row[name] = None if values is None else np.asarray(values).astype(kind).tobytes()
    return row


def decode_row(row: Mapping[str, Any], dtype: np.dtype, region_size: int) -> StoredRegions:
    """The regions in a row of the store, as `datasets` or Arrow give it. Arrays are read-only views of its bytes.

    Args:
        row: Columns by name.
        dtype: Of the features, `RegionStore.dtype`.
        region_size: Likewise.
    """
    count = row["num_regions"]
    arrays = {
        name: None if row[name] is None else np.frombuffer(row[name], dtype=kind) for name, kind in ARRAYS.items()
    }
    arrays["boxes"] = arrays["boxes"].reshape(count, 4)
    return StoredRegions(
        features=np.frombuffer(row["features"], dtype=dtype).reshape(count, region_size),
        mask=np.ones(count, dtype=bool),
        width=row["width"],
        height=row["height"],
        **arrays,
    )
