# SPDX-License-Identifier: Apache-2.0
"""Detection data sets: COCO-format JSON files as one table of images, their boxes and their masks."""

import json
import math
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from faster_coco_eval.core import mask as coco_masks

from ..modeling.annotations import clipped_corners, decode_segmentation
from .flaws import Flaws, require_files


EXPECTED = 'COCO\'s {"images": [{"id", "file_name", "width", "height"}], "categories", "annotations"}'
SPLITS = ("train", "val", "test")


class DetectionDataError(ValueError):
    """Annotations that cannot be used: the message names file, image and annotation."""


def load_detections(
    path: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    strict: bool = False,
    require_images: bool = True,
) -> Dataset:
    """
    Reads images and their annotated objects.

    Boxes are clipped to the image. Boxes without area in it and objects of categories that the file doesn't list are
    left out; the log counts them and names the first. Polygons and
    uncompressed run lengths become compressed ones; an object without `segmentation`, or with an empty one, has the
    mask None, which means that nobody drew it. Category ids become contiguous labels, in the order of the ids.

    Args:
        path: A COCO-format JSON file, or a folder that holds `annotations.json`, or COCO's `instances_*.json`, also in
            its `annotations/`. An image's `split` counts, else a split in the name of the file, else `train`.
        split: Keep only this split; all of them by default.
        images: Folder of the image files. By default `images/` beside the file, or COCO's `train2017/` and the like.
        strict: Raise an error for what would be left out.
        require_images: Whether every image file must be there. Otherwise a warning names those that are missing.

    Returns:
        A table with the columns `image` (absolute path), `image_id`, `width`, `height`, `split` and `objects`: a list
        of `id`, `label` (with the categories' names), `box` (`x0, y0, x1, y1` in pixels), `area` in pixels, `iscrowd`,
        `attribute` (-1 where there is none) and `mask` (compressed run lengths, or None).

    Raises:
        DetectionDataError: A file is malformed, an image file is missing, or the split does not exist.
        FileNotFoundError: There is no annotation file at `path`, or no images folder.
    """
    flaws = Flaws(DetectionDataError, strict)
    rows: list[dict[str, Any]] = []
    categories: dict[int, str] = {}
    splits: set[str] = set()
    files = annotation_files(Path(path))
    for file in files:
        document = read_document(file)
        found = read_categories(file, document)
        if categories and found != categories:
            raise DetectionDataError(f"{file}: its categories differ from those of {files[0]}.")
        categories = found
        of_file = read_rows(file, document, categories, flaws)
        splits.update(row["split"] for row in of_file)
        of_file = [row for row in of_file if split is None or row["split"] == split]
        locate(of_file, file, Path(images) if images is not None else None)
        require_files((row["image"] for row in of_file), file, DetectionDataError, require_images)
        rows.extend(of_file)
    if not rows:
        what = "no image in it" if split is None else f"no image in split {split!r}, there are {sorted(splits)}"
        raise DetectionDataError(f"{path}: {what}; expected {EXPECTED}.")
    flaws.report()
    features = detection_features(list(categories.values()))
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def detection_features(names: list[str]) -> Features:
    """Columns of the table, for categories of these names."""
    detected = {
        "id": Value("int64"),
        "label": ClassLabel(names=names),
        "box": List(Value("float32")),
        "area": Value("float32"),
        "iscrowd": Value("bool"),
        "attribute": Value("int64"),
        "mask": Value("string"),
    }
    image = {"image": Value("string"), "image_id": Value("int64"), "width": Value("int32"), "height": Value("int32")}
    return Features({**image, "split": Value("string"), "objects": List(detected)})


def label_names(table: Dataset) -> list[str]:
    """Names of the classes of a table that `load_detections` returned."""
    return table.features["objects"].feature["label"].names


def coco_annotations(row: dict[str, Any]) -> dict[str, Any]:
    """
    A row of what `load_detections` returns, as `ButdImageProcessor` takes its `annotations`.

    Returns:
        `image_id` and `annotations`, each with `bbox` (`x, y, width, height` in pixels), `category_id` (the label),
        `iscrowd` and `segmentation` (compressed run lengths, or None).
    """
    size = [row["height"], row["width"]]
    annotations = []
    for each in row["objects"]:
        x0, y0, x1, y1 = each["box"]
        mask = None if each["mask"] is None else {"size": size, "counts": each["mask"]}
        entry = {"bbox": [x0, y0, x1 - x0, y1 - y0], "category_id": each["label"], "iscrowd": int(each["iscrowd"])}
        annotations.append({**entry, "segmentation": mask})
    return {"image_id": row["image_id"], "annotations": annotations}


def annotation_files(path: Path) -> list[Path]:
    """The annotation files at `path`, which is one or a folder with some."""
    if path.is_file():
        return [path]
    if (path / "annotations.json").is_file():
        return [path / "annotations.json"]
    found = sorted(path.glob("instances_*.json")) or sorted(path.glob("annotations/instances_*.json"))
    if not found:
        raise FileNotFoundError(
            f"No annotations at {path}: expected a JSON file, or a folder that holds annotations.json or "
            f"instances_*.json, with {EXPECTED}."
        )
    return found


def read_document(file: Path) -> dict[str, Any]:
    """The content of an annotation file, checked to have the three lists."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DetectionDataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg}), expected {EXPECTED}."
        ) from error
    for name in ("images", "categories", "annotations"):
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            found = sorted(document) if isinstance(document, dict) else type(document).__name__
            raise DetectionDataError(f"{file}: no list {name!r}, found {found}, expected {EXPECTED}.")
    return document


def read_categories(file: Path, document: dict[str, Any]) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    try:
        categories = {int(category["id"]): str(category["name"]) for category in document["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DetectionDataError(f"{file}: a category lacks 'id' (int) or 'name' (str): {error!r}.") from error
    if len(categories) < len(document["categories"]) or len(set(categories.values())) < len(categories):
        raise DetectionDataError(f"{file}: ids and names of categories must be unique.")
    if not categories:
        raise DetectionDataError(f"{file}: no categories, expected at least one.")
    return dict(sorted(categories.items()))


def read_rows(file: Path, document: dict[str, Any], categories: dict[int, str], flaws: Flaws) -> list[dict[str, Any]]:
    """Rows of the table, with `image` as the file names it."""
    of_file = next((name for name in SPLITS if name in file.stem), "train")
    labels = {category: label for label, category in enumerate(categories)}
    rows: dict[int, dict[str, Any]] = {}
    for number, image in enumerate(document["images"]):
        place = f"{file}, images[{number}]"
        try:
            row = {
                "image": str(image["file_name"]),
                "image_id": int(image["id"]),
                "width": int(image["width"]),
                "height": int(image["height"]),
                "split": str(image.get("split", of_file)),
                "objects": [],
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DetectionDataError(
                f"{place}: expected id, file_name, width and height, got {image!r:.120}."
            ) from error
        if row["image_id"] in rows:
            raise DetectionDataError(f"{place}: the id {row['image_id']} occurs twice.")
        if min(row["width"], row["height"]) < 1:
            raise DetectionDataError(f"{place} ({row['image']}): width and height must be positive.")
        rows[row["image_id"]] = row
    for number, annotation in enumerate(document["annotations"]):
        place = f"{file}, annotations[{number}]"
        if not isinstance(annotation, dict) or annotation.get("image_id") not in rows:
            raise DetectionDataError(f"{place}: its image_id is not in `images`: {annotation!r:.120}.")
        row = rows[annotation["image_id"]]
        place = f"{place} (id {annotation.get('id')}) of image {row['image']}"
        if annotation.get("category_id") not in labels:
            category = annotation.get("category_id")
            flaws.note("objects whose category isn't in `categories`", f"{place}: category_id {category!r}")
            continue
        found = read_object(annotation, row["height"], row["width"], place, flaws)
        if found is not None:
            found.update(id=int(annotation.get("id", number)), label=labels[annotation["category_id"]])
            row["objects"].append(found)
    return list(rows.values())


def read_object(
    annotation: dict[str, Any], height: int, width: int, place: str, flaws: Flaws
) -> dict[str, Any] | None:
    """An annotated object without its label; None if its box has no area in the image."""
    try:
        box = clipped_corners(annotation.get("bbox"), height, width, place)
        mask = compressed(annotation.get("segmentation"), height, width, place)
    except ValueError as error:
        raise DetectionDataError(str(error)) from error
    box_area = (box[2] - box[0]) * (box[3] - box[1])
    if box[2] <= box[0] or box[3] <= box[1]:
        flaws.note("boxes without area in the image", place)
        return None
    left, top, box_width, box_height = annotation["bbox"]
    if left < 0 or top < 0 or left + box_width > width or top + box_height > height:
        flaws.note("boxes that cross the border", place, "clipped", harmless=True)
    area = float(annotation.get("area", box_area))
    return {
        "box": box,
        "area": area if math.isfinite(area) else box_area,
        "iscrowd": bool(annotation.get("iscrowd", 0)),
        "attribute": int(annotation.get("attribute_id", -1)),
        "mask": mask,
    }


def compressed(segmentation: Any, height: int, width: int, place: str) -> str | None:
    """A segmentation as compressed run lengths; None where there is none, or nothing in it."""
    is_polygons = isinstance(segmentation, list) and len(segmentation) > 0
    if decode_segmentation(segmentation, height, width, place) is None:  # checks it, too
        return None
    if is_polygons:  # COCO's own way to fill them
        rle = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco_masks.frPyObjects(segmentation, height, width)
    else:
        rle = {"size": [height, width], "counts": segmentation["counts"]}
    if coco_masks.area(rle) == 0:
        return None
    counts = rle["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def locate(rows: list[dict[str, Any]], file: Path, images: Path | None) -> None:
    """Makes the paths of images absolute. Raises if there is no folder."""
    if not rows:
        return
    set_name = file.stem.removeprefix("instances_")  # COCO's images of instances_train2017 are in train2017
    roots = (file.parent, file.parent.parent)
    candidates = [root / name for root in roots for name in ("images", set_name, f"images/{set_name}")]
    candidates = [images] if images is not None else [*candidates, file.parent]
    folder = next((each for each in candidates if (each / rows[0]["image"]).is_file()), None)
    folder = folder or next((each for each in candidates[:-1] or candidates if each.is_dir()), None)
    if folder is None:
        tried = ", ".join(map(str, candidates))
        raise FileNotFoundError(f"No images folder for {file}, looked at {tried}: pass the folder of the image files.")
    folder = folder.resolve()
    for row in rows:
        row["image"] = str(folder / row["image"])
