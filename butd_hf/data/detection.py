# SPDX-License-Identifier: Apache-2.0
"""Detection data sets: COCO-format JSON files as one table of images, their boxes and their masks."""

import math
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from faster_coco_eval.core import mask as coco_masks

from .data_errors import DataError, ErrorCounter, require_files
from .json_files import field, read_json
from .splits import select_split, split_of


EXPECTED = 'COCO\'s {"images": [{"id", "file_name", "width", "height"}], "categories", "annotations"}'


def load_detections(
    path: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    strict: bool = False,
    require_images: bool = True,
) -> Dataset:
    """Reads images and their annotated objects.

    Boxes are clipped to the image. Boxes without area in it, objects of categories that the file doesn't list and
    polygons of fewer than three points are left out; the log counts them and names the first. Polygons and
    uncompressed run lengths become compressed ones; an object without `segmentation`, or with an empty one, has the
    mask None, which means unknown. Category ids become contiguous labels, in the order of the ids.

    Args:
        path: A COCO-format JSON file, or a folder that holds `annotations.json`, or COCO's `instances_*.json`, also in
            its `annotations/`. An image's `split` counts, else a split in the name of the file, else `train`.
        split: Keep only this split; all of them by default.
        images: Folder of the image files. By default `images/` beside the file, or COCO's `train2017/` and the like.
        strict: Raise an error for what would be left out.
        require_images: Whether every image file must exist. Otherwise a warning names those that are missing.

    Returns:
        A table with the columns `image` (absolute path), `image_id`, `width`, `height`, `split` and `objects`: a list
        of `id`, `label` (with the categories' names), `box` (`x0, y0, x1, y1` in pixels), `area` in pixels, `iscrowd`,
        `attribute` (-1 where there is none) and `mask` (compressed run lengths, or None).

    Raises:
        DataError: A file is malformed, an image file is missing, or the split does not exist.
        FileNotFoundError: There is no annotation file at `path`, or no images folder.
    """
    errors = ErrorCounter(strict)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for file in annotation_files(Path(path)):
        document = read_json(file, EXPECTED)
        for name in ("images", "categories", "annotations"):
            if not isinstance(document, dict) or not isinstance(document.get(name), list):
                found = sorted(document) if isinstance(document, dict) else type(document).__name__
                raise DataError(f"{file}: no list {name!r}, found {found}, expected {EXPECTED}.")
        categories = read_categories(file, document["categories"])
        if names and list(categories.values()) != names:
            raise DataError(f"{file}: its categories differ from those of the files before.")
        names = list(categories.values())
        rows.extend(read_rows(file, document, list(categories), errors))
    rows = select_split(rows, split, path, EXPECTED)
    for file in dict.fromkeys(row["file"] for row in rows):
        of_file = [row for row in rows if row["file"] == file]
        folder = find_images(file, of_file[0]["image"], Path(images) if images is not None else None)
        for row in of_file:
            row["image"] = str(folder / row["image"])
        require_files((row["image"] for row in of_file), file, require_images)
    errors.log()
    rows = [{name: row[name] for name in row if name != "file"} for row in rows]
    return Dataset.from_list(rows, features=detection_features(names))


def detection_features(names: list[str]) -> Features:
    """Columns of the table, for categories of these names."""
    text, number, pixels, real = (Value(kind) for kind in ("string", "int64", "int32", "float32"))
    detected = {"id": number, "label": ClassLabel(names=names), "box": List(real), "area": real}
    detected.update(iscrowd=Value("bool"), attribute=number, mask=text)
    image = {"image": text, "image_id": number, "width": pixels, "height": pixels, "split": text}
    return Features({**image, "objects": List(detected)})


def label_names(table: Dataset) -> list[str]:
    """Names of the classes of a table that `load_detections` returned."""
    return table.features["objects"].feature["label"].names


def coco_annotations(row: dict[str, Any]) -> dict[str, Any]:
    """A row of what `load_detections` returns, as `ButdImageProcessor` takes its `annotations`.

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
    for pattern in ("annotations.json", "instances_*.json", "annotations/instances_*.json"):
        if found := sorted(path.glob(pattern)):
            return found
    raise FileNotFoundError(
        f"No annotations at {path}: expected a JSON file, or a folder that holds annotations.json or "
        f"instances_*.json, with {EXPECTED}."
    )


def read_categories(file: Path, entries: list[Any]) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    try:
        categories = {int(category["id"]): str(category["name"]) for category in entries}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: a category lacks 'id' (int) or 'name' (str): {error!r}.") from error
    if len(categories) < len(entries) or len(set(categories.values())) < len(categories):
        raise DataError(f"{file}: ids and names of categories must be unique.")
    if not categories:
        raise DataError(f"{file}: no categories, expected at least one.")
    return dict(sorted(categories.items()))


def read_rows(
    file: Path, document: dict[str, Any], categories: list[int], errors: ErrorCounter
) -> list[dict[str, Any]]:
    """Rows of the table, with `image` as the file names it, and beside its columns the `file`."""
    labels = {str(category): label for label, category in enumerate(categories)}
    rows: dict[str, dict[str, Any]] = {}
    for number, image in enumerate(document["images"]):
        place = f"{file}, images[{number}]"
        try:
            row = {
                "image": str(image["file_name"]),
                "image_id": int(image["id"]),
                "width": int(image["width"]),
                "height": int(image["height"]),
                "split": str(image.get("split", split_of(file.stem))),
                "objects": [],
                "file": file,
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: expected id, file_name, width and height, got {image!r:.120}.") from error
        if str(row["image_id"]) in rows:
            raise DataError(f"{place}: the id {row['image_id']} occurs twice.")
        if min(row["width"], row["height"]) < 1:
            raise DataError(f"{place} ({row['image']}): width and height must be positive.")
        rows[str(row["image_id"])] = row
    for number, annotation in enumerate(document["annotations"]):
        place = f"{file}, annotations[{number}]"
        row = rows.get(str(field(annotation, "image_id", (int, str), place)))
        if row is None:
            raise DataError(f"{place}: its image_id is not in `images`: {annotation!r:.120}.")
        place = f"{place} (id {annotation.get('id')}) of image {row['image']}"
        category = annotation.get("category_id")
        if str(category) not in labels:
            errors.count("objects whose category isn't in `categories`", f"{place}: category_id {category!r}")
            continue
        try:
            read = read_object(annotation, row["height"], row["width"], place, errors)
        except DataError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: {error}, got {annotation!r:.200}.") from error
        if read is not None:
            annotation_id = str(annotation.get("id", number))
            read["id"] = int(annotation_id) if annotation_id.isdecimal() else number
            read["label"] = labels[str(category)]
            row["objects"].append(read)
    return list(rows.values())


def read_object(
    annotation: dict[str, Any], height: int, width: int, place: str, errors: ErrorCounter
) -> dict[str, Any] | None:
    """An annotated object without its label; None if its box has no area in the image."""
    try:
        left, top, box_width, box_height = map(float, annotation["bbox"])
        right, bottom = left + box_width, top + box_height
        if not math.isfinite(left + top + right + bottom):
            raise ValueError("not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: 'bbox' must be four finite numbers x, y, width, height, got {annotation.get('bbox')!r}."
        ) from error
    sides = zip((left, top, right, bottom), (width, height, width, height), strict=True)
    box = [min(max(value, 0.0), float(most)) for value, most in sides]
    if box[2] <= box[0] or box[3] <= box[1]:
        errors.count("boxes without area in the image", place)
        return None
    if box != [left, top, right, bottom]:
        errors.count("boxes that cross the border", place, "clipped", harmless=True)
    area, attribute = annotation.get("area"), annotation.get("attribute_id")
    area = math.nan if area is None else float(area)
    return {
        "box": box,
        "area": area if math.isfinite(area) else (box[2] - box[0]) * (box[3] - box[1]),
        "iscrowd": bool(int(annotation.get("iscrowd") or 0)),
        "attribute": -1 if attribute is None else int(attribute),
        "mask": compressed(annotation.get("segmentation"), height, width, place, errors),
    }


def compressed(segmentation: Any, height: int, width: int, place: str, errors: ErrorCounter) -> str | None:
    """A segmentation as compressed run lengths; None where there is none, or nothing in it."""
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            polygons = [list(map(float, polygon)) for polygon in segmentation]
            whole = [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0]
            if len(whole) < len(polygons):
                errors.count("segmentations with polygons of fewer than three points", place, "which are left out")
            if not whole:
                return None
            rle = coco_masks.merge(coco_masks.frPyObjects(whole, height, width))
        else:
            if [int(side) for side in segmentation["size"]] != [height, width]:
                raise ValueError(f"the image has height and width {[height, width]}")
            is_list = isinstance(segmentation["counts"], list)
            rle = coco_masks.frPyObjects(segmentation, height, width) if is_list else segmentation
        if not coco_masks.decode({"size": [height, width], "counts": rle["counts"]}).any():  # checks the runs, too
            return None
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{place}: cannot read the segmentation {segmentation!r:.120} ({error}), expected polygons "
            "[[x0, y0, x1, y1, ...]], run lengths {'size': [height, width], 'counts': ...}, or None."
        ) from error
    counts = rle["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def find_images(file: Path, image: str, images: Path | None) -> Path:
    """The folder of the images of an annotation file, by its first image. Raises if there is none."""
    set_name = file.stem.removeprefix("instances_")  # COCO's images of instances_train2017 are in train2017
    roots = (file.parent, file.parent.parent)
    usual = [root / name for root in roots for name in ("images", set_name, f"images/{set_name}")]
    candidates = [images] if images is not None else [*usual, file.parent]
    folder = next((each for each in candidates if (each / image).is_file()), None)
    folder = folder or next((each for each in candidates[:-1] or candidates if each.is_dir()), None)
    if folder is None:
        tried = ", ".join(map(str, candidates))
        raise FileNotFoundError(f"No images folder for {file}, tried {tried}: pass the folder of the image files.")
    return folder.resolve()


__all__ = ["coco_annotations", "label_names", "load_detections"]
