# SPDX-License-Identifier: Apache-2.0
"""The layouts that scene graphs are published in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .data_errors import DataError
from .json_files import read_json
from .splits import split_of


EXPECTED = (
    'a list of {"image", "objects": [{"label", "bbox"}], "relations": [{"subject", "predicate", "object"}]}, the '
    "public VRD's {image: [{subject, predicate, object}]}, or VG-SGG.h5"
)
PATTERNS = {"vg150": "VG-SGG*.h5", "vrd": "annotations*.json"}  # what a folder is recognised by, in this order
CORRUPTED = frozenset({1592, 1722, 4616, 4617})  # images of Visual Genome that VG-SGG.h5 leaves out
VG150_SPLITS = {0: "train", 1: "val", 2: "test"}
VG150_VALIDATION = 5000  # of the training images, the first with relations, since Zellers et al. 2018
VG150_SIDE = 1024  # of the longer side of images, in the unit of the boxes


@dataclass
class AnnotatedGraph:
    """The graph of an image as its file has it, in words."""

    place: str  # where it is in its file, for messages
    image: list[str]  # names that the image file may have
    image_id: str
    split: str
    size: tuple[float, float] | None = None  # width and height in the unit of the boxes, if known
    objects: list[tuple[str, list[float]]] = field(default_factory=list)  # label and box `x0, y0, x1, y1`
    relations: list[tuple[int, int, str]] = field(default_factory=list)  # subject, object and predicate

    def place_of(self, label: str, box: Sequence[float]) -> int:
        """The place of an object that is given only as an end of relations: equal label and box are one object."""
        if (label, list(box)) not in self.objects:
            self.objects.append((label, list(box)))
        return self.objects.index((label, list(box)))


# graphs, and the names that the data set lists, if it does
Found = tuple[list[AnnotatedGraph], list[str] | None, list[str] | None]


def read_graphs(
    path: str | Path, format: str
) -> tuple[list[AnnotatedGraph], list[str] | None, list[str] | None, Path]:
    """Graphs of all files at `path`, the labels and predicates that the data set lists, and the files' folder."""
    if format not in ("auto", *FORMATS):
        raise DataError(f"format must be 'auto' or one of {sorted(FORMATS)}, got {format!r}.")
    path = Path(path)
    if path.is_file():
        files = [path]
    else:
        patterns = PATTERNS.values() if format == "auto" else [PATTERNS[format]]
        files = next((found for pattern in patterns if (found := sorted(path.glob(pattern)))), [])
        if not files:
            raise FileNotFoundError(f"No scene graphs at {path}: expected a file or its folder, with {EXPECTED}.")
    graphs: list[AnnotatedGraph] = []
    labels, predicates = None, None
    for file in files:
        name = format if format != "auto" else format_of(file)
        try:
            found, labels, predicates = FORMATS[name](file)
        except DataError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise DataError(
                f"{file}: not what {name} looks like ({type(error).__name__}: {error}), expected {EXPECTED}."
            ) from error
        graphs.extend(found)
    for graph in graphs:
        for number, (subject, target, _) in enumerate(graph.relations):
            if not (0 <= subject < len(graph.objects) and 0 <= target < len(graph.objects)):
                raise DataError(
                    f"{graph.place}: relations[{number}] is between the objects {subject} and {target}, expected 0 to "
                    f"{len(graph.objects) - 1}."
                )
    return graphs, labels, predicates, files[0].parent


def format_of(file: Path) -> str:
    """The format of a file, by its name."""
    return "vg150" if file.suffix in (".h5", ".hdf5") else "vrd"


def optional_list(file: Path) -> list[Any] | None:
    """A JSON list, or the lines of a text file; None if it doesn't exist."""
    if not file.is_file():
        return None
    if file.suffix == ".json":
        return list(read_json(file, "a list"))
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


def corners(left: float, top: float, width: float, height: float) -> list[float]:
    return [float(left), float(top), float(left) + float(width), float(top) + float(height)]


def read_vrd(file: Path) -> Found:
    """A list of images with objects and relations, or the public files of VRD (Lu et al. 2016)."""
    content = read_json(file, EXPECTED)
    if isinstance(content, dict):
        return read_public_vrd(file, content)
    if not isinstance(content, list):
        raise DataError(f"{file}: found {content!r:.60}, expected {EXPECTED}.")
    graphs = []
    for number, entry in enumerate(content):
        place = f"{file}, [{number}]"
        try:
            graph = AnnotatedGraph(
                place,
                [str(entry["image"])],
                str(entry["image"]),
                str(entry.get("split", split_of(file.stem))),
                (entry["width"], entry["height"]) if "width" in entry else None,
                [(str(each["label"]), corners(*each["bbox"])) for each in entry["objects"]],
                [(int(each["subject"]), int(each["object"]), each["predicate"]) for each in entry["relations"]],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{place}: expected image, objects with label and bbox, and relations ({type(error).__name__}: "
                f"{error}), got {entry!r:.120}."
            ) from error
        graphs.append(graph)
    return graphs, optional_list(file.with_name("objects.txt")), optional_list(file.with_name("predicates.txt"))


def read_public_vrd(file: Path, content: dict[str, list[dict[str, Any]]]) -> Found:
    """`annotations_train.json` of VRD, whose boxes are `y0, y1, x0, x1`; labels are numbers of the lists beside it."""
    labels, predicates = (optional_list(file.with_name(f"{name}.json")) for name in ("objects", "predicates"))
    if labels is None or predicates is None:
        raise DataError(f"{file}: the public VRD needs objects.json and predicates.json beside it.")
    graphs = []
    split = split_of(file.stem)
    for image, relations in content.items():
        graph = AnnotatedGraph(f"{file}, {image}", [image, f"sg_{split}_images/{image}"], image, split)
        for each in relations:
            ends = []
            for end in ("subject", "object"):
                y0, y1, x0, x1 = map(float, each[end]["bbox"])
                ends.append(graph.place_of(labels[each[end]["category"]], (x0, y0, x1, y1)))
            graph.relations.append((*ends, predicates[each["predicate"]]))
        graphs.append(graph)
    return graphs, labels, predicates


def read_vg150(file: Path) -> Found:
    """`VG-SGG.h5` (Xu et al. 2017): 150 labels and 50 predicates of Visual Genome, whose names are in
    `VG-SGG-dicts.json` and whose images in `image_data.json`. Without the latter, images are numbered.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{file} needs h5py: pip install h5py, or butd_hf[hdf5].") from error
    dicts = next(iter(sorted(file.parent.glob("VG-SGG-dicts*.json"))), None)
    if dicts is None:
        raise DataError(f"{file}: VG-SGG-dicts.json with the names must be beside it.")
    names = read_json(dicts, "names by number")
    labels, predicates = (
        [names[which][str(number + 1)] for number in range(len(names[which]))]  # 0 is the background
        for which in ("idx_to_label", "idx_to_predicate")
    )
    with h5py.File(file, "r") as opened:
        found = {name: opened[name][:] for name in opened if isinstance(opened[name], h5py.Dataset)}
    images = [
        each for each in optional_list(file.with_name("image_data.json")) or () if each["image_id"] not in CORRUPTED
    ]
    if images and len(images) != len(found["split"]):
        raise DataError(
            f"{file}: has {len(found['split'])} images, but image_data.json beside it {len(images)} without the "
            "corrupted ones."
        )
    centre, side = np.split(found[f"boxes_{VG150_SIDE}"], 2, axis=1)
    boxes = np.concatenate([centre - side / 2, centre - side / 2 + side], axis=1)  # (num_boxes, 4)
    graphs = []
    for number, split in enumerate(vg150_splits(found)):
        size, scale, name, places = None, 1.0, str(number), []
        if images:
            size = (float(images[number]["width"]), float(images[number]["height"]))
            scale, name = max(size) / VG150_SIDE, str(images[number]["image_id"])
            places = [f"{name}.jpg", f"VG_100K/{name}.jpg", f"VG_100K_2/{name}.jpg"]
        graph = AnnotatedGraph(f"{file}, image {name}", places, name, split, size)
        first = int(found["img_to_first_box"][number])
        for row in rows_of(found, "box", number):
            graph.objects.append((labels[int(found["labels"][row, 0]) - 1], (boxes[row] * scale).tolist()))
        for row in rows_of(found, "rel", number):
            subject, target = (int(place) - first for place in found["relationships"][row])
            graph.relations.append((subject, target, predicates[int(found["predicates"][row, 0]) - 1]))
        graphs.append(graph)
    return graphs, labels, predicates


def rows_of(found: dict[str, np.ndarray], what: str, number: int) -> Sequence[int]:
    """The rows of an image's boxes (`box`) or relations (`rel`) in VG-SGG.h5; -1 says that there are none."""
    first, last = (int(found[f"img_to_{end}_{what}"][number]) for end in ("first", "last"))
    return range(first, last + 1) if first >= 0 else ()


def vg150_splits(found: dict[str, Any]) -> list[str]:
    """The split of each image; where there are enough, the first training images with relations are `val`."""
    splits = [VG150_SPLITS[int(split)] for split in found["split"]]
    related = [row for row, split in enumerate(splits) if split == "train" and found["img_to_first_rel"][row] >= 0]
    if len(related) > VG150_VALIDATION and "val" not in splits:
        for row in related[:VG150_VALIDATION]:
            splits[row] = "val"
    return splits


FORMATS: dict[str, Callable[[Path], Found]] = {
    "vrd": read_vrd,
    "vg150": read_vg150,
}


__all__ = ["FORMATS", "AnnotatedGraph", "read_graphs"]
