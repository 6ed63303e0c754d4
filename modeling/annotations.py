# SPDX-License-Identifier: Apache-2.0
"""Labels of the detection models from annotations in COCO's format."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_convert
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms


SEGMENTATIONS = "polygons [[x0, y0, x1, y1, ...]], run lengths {'size': [height, width], 'counts': ...}, or None"
DETECTION = "{'image_id': ..., 'annotations': [{'bbox': [x, y, width, height], 'category_id': ...}]}"


def build_labels(
    class_labels: torch.Tensor,  # (num_objects,)
    boxes: torch.Tensor,  # (num_objects, 4): `x0, y0, x1, y1` in pixels
    size: tuple[int, int],  # height and width that boxes and masks refer to
    *,
    masks: torch.Tensor | None = None,  # (num_objects, height, width): not zero on each object
    processed_size: tuple[int, int] | None = None,  # height and width, without padding, that the model sees
    **others: torch.Tensor,  # whatever else belongs to the objects or to the image; passed on
) -> dict[str, torch.Tensor]:
    """Labels of one image, as the detection and segmentation models take them: `class_labels`, `boxes` as `centre x,
    centre y, width, height` in [0, 1], `masks` of shape `(num_objects, *processed_size)` and dtype uint8 if there are
    any, and the others.
    """
    height, width = size
    scale = boxes.new_tensor([width, height, width, height])
    labels = {"class_labels": class_labels, "boxes": box_convert(boxes / scale, "xyxy", "cxcywh")}
    if masks is not None:
        masks = (masks != 0).to(torch.uint8)
        if processed_size is not None and tuple(masks.shape[-2:]) != tuple(processed_size):
            if len(masks):
                masks = transforms.resize(masks, list(processed_size), interpolation=InterpolationMode.NEAREST_EXACT)
            else:
                masks = masks.new_zeros((0, *processed_size))
        labels["masks"] = masks  # (num_objects, processed_height, processed_width)
    return {**labels, **others}


def labels_of_annotation(
    target: Mapping[str, Any],
    size: tuple[int, int],  # height and width of the image as annotated
    processed_size: tuple[int, int],  # height and width that the model sees, without padding
    return_segmentation_masks: bool = False,  # whether to add `masks` and `has_mask`
    name: str = "annotations",  # what error messages call the annotation
) -> dict[str, torch.Tensor]:
    """Labels of an image annotated in COCO's detection format: an `image_id` and its `annotations`, each with `bbox`
    (`x, y, width, height` in pixels) and `category_id` (the class label, from 0), optional `segmentation`, `iscrowd`
    and `attribute_id`.

    Boxes are clipped to the image; those without area in it are left out. Unlike transformers' DETR, crowds stay,
    marked by `iscrowd`, because nothing found in them is wrong; and an object whose `segmentation` is missing or None
    stays as a box, marked by `has_mask`.
    """
    if not isinstance(target, Mapping) or not isinstance(target.get("annotations"), Sequence):
        raise ValueError(f"{name}: got {target!r:.200}, expected {DETECTION}.")
    height, width = size
    objects, corners = [], []
    for index, annotation in enumerate(target["annotations"]):
        place = f"{name}['annotations'][{index}] of image {target.get('image_id')}"
        corner = clipped_corners(annotation.get("bbox"), height, width, place)
        if not isinstance(annotation.get("category_id"), (int, np.integer)):
            raise ValueError(f"{place}: 'category_id' must be an integer, got {annotation.get('category_id')!r}.")
        if corner[2] > corner[0] and corner[3] > corner[1]:
            objects.append((annotation, place))
            corners.append(corner)

    others = {
        "iscrowd": torch.tensor([int(each.get("iscrowd", 0)) for each, _ in objects], dtype=torch.int64),
        "orig_size": torch.tensor([height, width]),
    }
    if target.get("image_id") is not None:
        others["image_id"] = torch.tensor([int(target["image_id"])])
    if any(each.get("attribute_id") is not None for each, _ in objects):
        attributes = [-1 if each.get("attribute_id") is None else each["attribute_id"] for each, _ in objects]
        others["attribute_labels"] = torch.tensor(attributes, dtype=torch.int64)  # -1: nobody said
    masks = None
    if return_segmentation_masks:
        found = [decode_segmentation(each.get("segmentation"), height, width, place) for each, place in objects]
        others["has_mask"] = torch.tensor([mask is not None for mask in found], dtype=torch.bool)
        stacked = [np.zeros((height, width), dtype=np.uint8) if mask is None else mask for mask in found]
        masks = torch.from_numpy(np.stack(stacked) if stacked else np.zeros((0, height, width), dtype=np.uint8))
    return build_labels(
        torch.tensor([int(each["category_id"]) for each, _ in objects], dtype=torch.int64),
        torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),  # (num_objects, 4)
        size,
        masks=masks,
        processed_size=processed_size,
        **others,
    )


def unpadded_sizes(features: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Height and width of each image in `pixel_values`, without the padding that `pixel_mask` tells."""
    if "pixel_mask" in features:
        return [(int(mask[:, 0].sum()), int(mask[0].sum())) for mask in features["pixel_mask"]]
    return [tuple(pixels.shape[-2:]) for pixels in features["pixel_values"]]


def clipped_corners(bbox: Any, height: float, width: float, name: str) -> list[float]:
    """Corners of COCO's `x, y, width, height`, clipped to the image. Raises `ValueError` unless all are finite."""
    try:
        left, top, box_width, box_height = (float(value) for value in bbox)
        if not np.isfinite([left, top, box_width, box_height]).all():
            raise ValueError("not finite")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: 'bbox' must be four finite numbers x, y, width, height, got {bbox!r}.") from error
    corners = zip((left, top, left + box_width, top + box_height), (width, height) * 2, strict=True)
    return [min(max(corner, 0.0), side) for corner, side in corners]


def decode_segmentation(segmentation: Any, height: int, width: int, name: str = "segmentation") -> np.ndarray | None:
    """The mask `(height, width)` of COCO's polygons or run lengths, compressed or not, by faster-coco-eval: uint8, 1
    on the object; None where the segmentation is None or empty. `ValueError` if it has another form or size.
    """
    if segmentation is None or (isinstance(segmentation, (list, tuple)) and len(segmentation) == 0):
        return None
    from faster_coco_eval.core import mask as coco_mask  # only for masks, and compiled

    try:
        if isinstance(segmentation, Mapping):
            if [int(side) for side in segmentation["size"]] != [height, width]:
                raise ValueError(f"the image has height and width {[height, width]}")
            if not isinstance(segmentation["counts"], (str, bytes)):
                runs = [int(count) for count in segmentation["counts"]]
                if min(runs, default=0) < 0 or sum(runs) != height * width:
                    raise ValueError(f"its runs cover {sum(runs)} pixels of {height * width}")
                segmentation = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
            return coco_mask.decode(segmentation)
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        if any(len(points) < 6 or len(points) % 2 for points in polygons):
            raise ValueError("a polygon has at least three points of two coordinates")
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    except Exception as error:  # the library raises many kinds of errors
        raise ValueError(
            f"{name}: cannot read the segmentation {segmentation!r:.120} ({error}), expected {SEGMENTATIONS}."
        ) from error
