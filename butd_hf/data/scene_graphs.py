# SPDX-License-Identifier: Apache-2.0
"""Scene graph data sets: two file layouts, one table of images, their objects and the relations between them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image

from .data_errors import ErrorCounter, require_files
from .scene_graph_files import EXPECTED, AnnotatedGraph, read_graphs
from .splits import select_split


def load_scene_graphs(
    path: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    format: str = "auto",
    labels: Sequence[str] | int | None = None,
    predicates: Sequence[str] | int | None = None,
    strict: bool = True,
    require_images: bool = True,
) -> Dataset:
    """Reads images, their annotated objects and how these are related.

    What annotations contain but training can't use is left out, and the log counts it: repetitions of a
    relation (the same subject, predicate and object), relations of an object to itself, objects whose box has no area,
    and with objects their relations; the log names the first of each. Two objects related in several ways stay so.
    Images without relations, or without objects, stay: nothing was annotated there. Boxes are clipped where the
    size of the image is known.

    Args:
        path: An annotation file or the folder with it. In a folder, `vrd` is all `annotations*.json` (with
            `objects.txt` and `predicates.txt`, or the public `objects.json` and `predicates.json`), and `vg150` is
            `VG-SGG*.h5` (with `VG-SGG-dicts*.json` and `image_data.json`; needs h5py).
        split: Keep only this split; all of them by default. An image's own `split` counts, else the one that the file
            is named for, else `train`; VG150's first 5,000 training images with relations are `val`, as usual.
        images: Folder of the image files. By default `images/` and the like beside the annotations, or none at all
            where not a single image is there: labels and geometry are enough for much.
        format: One of `FORMATS`, or `auto` to recognise it from names and content.
        labels: Names of objects to keep; synonyms in one name are separated by commas. A number keeps the most
            frequent. By default all that the data set lists or, where it lists none, all that occur, the most
            frequent first.
        predicates: The same for predicates.
        strict: Raise an error for a label or predicate that the data set doesn't list, and for an image file that
            can't be read to learn its size, instead of leaving the label out or doing without the size.
        require_images: Whether every image file must exist, if any does. Otherwise a warning names those that are
            missing.

    Returns:
        A table with the columns `image` (absolute path, None where there are no images), `image_id`, `width`,
        `height` (in the unit of the boxes), `sized` (False where the size is unknown: it is then the extent of the
        boxes), `split`, `objects`: a list of `label` and `box` (`x0, y0, x1, y1` in pixels), and `relations`: a list
        of `subject`, `object` (places among the objects) and `predicate`.

    Raises:
        DataError: A file is malformed, some image files are missing, or the split or format does not exist.
        FileNotFoundError: There are no annotations at `path`.
        ImportError: VG150 is read without h5py.
    """
    graphs, known_labels, known_predicates, folder = read_graphs(path, format)
    label_names = vocabulary(labels, known_labels, (label for graph in graphs for label, _ in graph.objects), "labels")
    predicate_names = vocabulary(
        predicates, known_predicates, (each[2] for graph in graphs for each in graph.relations), "predicates"
    )
    rows = [{"graph": graph, "split": graph.split} for graph in graphs]
    graphs = [row["graph"] for row in select_split(rows, split, path, EXPECTED)]
    paths = image_paths(graphs, folder, Path(images) if images is not None else None)
    require_files((image for image in paths if image is not None), path, require_images)

    errors = ErrorCounter(strict)
    label_ids, predicate_ids = synonyms(label_names), synonyms(predicate_names)
    listed = (labels is None and known_labels is not None, predicates is None and known_predicates is not None)
    rows = [
        row_of(graph, image, label_ids, predicate_ids, listed, errors)
        for graph, image in zip(graphs, paths, strict=True)
    ]
    errors.log()
    features = scene_graph_features(label_names, predicate_names)
    return Dataset.from_list(rows, features=features)


def scene_graph_features(labels: list[str], predicates: list[str]) -> Features:
    """Columns of the table, for objects and predicates of these names."""
    text, real, place = (Value(kind) for kind in ("string", "float32", "int32"))
    of_object = {"label": ClassLabel(names=labels), "box": List(real)}
    of_relation = {"subject": place, "object": place, "predicate": ClassLabel(names=predicates)}
    image = {"image": text, "image_id": text, "width": real, "height": real, "sized": Value("bool"), "split": text}
    return Features({**image, "objects": List(of_object), "relations": List(of_relation)})


def label_names(table: Dataset) -> list[str]:
    """Names of the objects of a table that `load_scene_graphs` returned."""
    return table.features["objects"].feature["label"].names


def predicate_names(table: Dataset) -> list[str]:
    """Names of the predicates of a table that `load_scene_graphs` returned."""
    return table.features["relations"].feature["predicate"].names


def vocabulary(
    asked: Sequence[str] | int | None, known: list[str] | None, occurring: Iterable[str], argument: str
) -> list[str]:
    """Names to keep, see `labels` of `load_scene_graphs`; of equally frequent ones the first in the alphabet."""
    if isinstance(asked, str) or (isinstance(asked, int) and asked < 1):
        raise ValueError(f"{argument} must be a list of names or a positive number of them, got {asked!r}.")
    if asked is not None and not isinstance(asked, int):
        return [str(name) for name in asked]
    if asked is None and known is not None:
        return known
    counts = Counter(occurring)
    return sorted(counts, key=lambda name: (-counts[name], name))[:asked]


def synonyms(names: Sequence[str]) -> dict[str, int]:
    """The number of each name, and of each of the synonyms that a name lists with commas."""
    found = {part.strip(): number for number, name in enumerate(names) for part in name.split(",")}
    return {**found, **{name: number for number, name in enumerate(names)}}


def row_of(
    graph: AnnotatedGraph,
    image: str | None,
    label_ids: dict[str, int],
    predicate_ids: dict[str, int],
    listed: tuple[bool, bool],
    errors: ErrorCounter,
) -> dict[str, Any]:
    """The row of an image. `listed`: whether a label or predicate without a number is an error of the data."""
    size = graph.size
    if size is None and image is not None:
        size = size_of(image, graph.place, errors)
    objects, places = [], {}
    for number, (label, box) in enumerate(graph.objects):
        if label not in label_ids:
            what = "objects whose label isn't listed" if listed[0] else "objects whose label isn't wanted"
            errors.count(what, f"{graph.place}: objects[{number}] is {label!r}", harmless=not listed[0])
            continue
        if size is not None:
            box = [min(max(value, 0.0), size[side % 2]) for side, value in enumerate(box)]
        if not (box[2] > box[0] and box[3] > box[1]):
            errors.count("objects whose box has no area", f"{graph.place}: objects[{number}]", harmless=True)
            continue
        places[number] = len(objects)
        objects.append({"label": label_ids[label], "box": box})
    relations: dict[tuple[int, int, int], None] = {}
    for number, (subject, target, predicate) in enumerate(graph.relations):
        place = f"{graph.place}: relations[{number}]"
        if predicate not in predicate_ids:
            what = "relations whose predicate isn't listed" if listed[1] else "relations whose predicate isn't wanted"
            errors.count(what, f"{place} is {predicate!r}", harmless=not listed[1])
        elif subject not in places or target not in places:
            errors.count("relations of objects that were left out", place, harmless=True)
        elif subject == target:
            errors.count("relations of an object to itself", place, harmless=True)
        elif (key := (places[subject], places[target], predicate_ids[predicate])) in relations:
            errors.count("repeated relations", place, "kept once", harmless=True)
        else:
            relations[key] = None
    extent = [max((each["box"][side] for each in objects), default=1.0) for side in (2, 3)]
    width, height = size if size is not None else extent
    return {
        "image": image,
        "image_id": graph.image_id,
        "width": width,
        "height": height,
        "sized": size is not None,
        "split": graph.split,
        "objects": objects,
        "relations": [dict(zip(("subject", "object", "predicate"), each, strict=True)) for each in relations],
    }


def size_of(image: str, place: str, errors: ErrorCounter) -> tuple[int, int] | None:
    """Width and height of an image file when upright, None if it can't be read."""
    try:
        with Image.open(image) as opened:
            turned = opened.getexif().get(0x0112, 1) >= 5  # stored turned by a quarter
            return opened.size[::-1] if turned else opened.size
    except OSError as error:
        errors.count("images that can't be read", f"{place}: {error}", "their size is the extent of their boxes")
        return None


def image_paths(graphs: list[AnnotatedGraph], folder: Path, images: Path | None) -> list[str | None]:
    """Paths of the image files, all of them None if none exists and no folder was given."""
    roots = [images] if images is not None else [folder / "images", folder]
    candidates = [[str((root / name).resolve()) for root in roots for name in graph.image] for graph in graphs]
    found = [next((file for file in each if Path(file).is_file()), None) for each in candidates]
    if images is None and not any(found):
        return found
    return [file or next(iter(each), None) for file, each in zip(found, candidates, strict=True)]


__all__ = ["label_names", "load_scene_graphs", "predicate_names", "scene_graph_features"]
