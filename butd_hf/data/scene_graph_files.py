# SPDX-License-Identifier: Apache-2.0
"""The layouts that scene graphs are published in, read as they are."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


EXPECTED = (
    'a list of {"image", "objects": [{"label", "bbox"}], "relations": [{"subject", "predicate", "object"}]}, the '
    "public VRD's {image: [{subject, predicate, object}]}, Visual Genome's relationships.json, VG-SGG.h5, Open "
    "Images' relations as CSV, or PSG's {data, thing_classes, stuff_classes, predicate_classes}"
)
SPLITS = ("train", "val", "test")
PATTERNS = {  # what a folder is recognised by, in this order
    "vg150": "VG-SGG*.h5",
    "visual_genome": "relationships.json",
    "psg": "psg*.json",
    "open_images": "*vrd*.csv",
    "vrd": "annotations*.json",
}
CORRUPTED = frozenset({1592, 1722, 4616, 4617})  # images of Visual Genome that VG-SGG.h5 leaves out
VG150_SPLITS = {0: "train", 1: "val", 2: "test"}
VG150_VALIDATION = 5000  # of the training images, the first with relations, since Zellers et al. 2018
VG150_SIDE = 1024  # of the longer side of images, in the unit of the boxes


class SceneGraphDataError(ValueError):
    """Annotations that cannot be used: the message names the place, what came and what was expected."""


@dataclass
class AnnotatedGraph:
    """
    The graph of an image as its file has it, in words.

    Attributes:
        place: Where it is in its file, for messages.
        image: Names that the image file may have.
        size: Width and height in the unit of the boxes, if the annotations tell.
        objects: Label and box `x0, y0, x1, y1` of each.
        relations: Subject, object and predicate of each.
    """

    place: str
    image: list[str]
    image_id: str
    split: str
    size: tuple[float, float] | None = None
    objects: list[tuple[str, list[float]]] = field(default_factory=list)
    relations: list[tuple[int, int, str]] = field(default_factory=list)


# graphs, and the names that the data set lists, if it does
Found = tuple[list[AnnotatedGraph], list[str] | None, list[str] | None]


def read_graphs(
    path: str | Path, format: str
) -> tuple[list[AnnotatedGraph], list[str] | None, list[str] | None, Path]:
    """
    Graphs of all files at `path`, the labels and predicates that the data set lists, and the folder of the files.

    Raises:
        SceneGraphDataError: The format is unknown, or a file is not what its format looks like.
        FileNotFoundError: There are no annotations.
    """
    if format not in ("auto", *FORMATS):
        raise SceneGraphDataError(f"format must be 'auto' or one of {sorted(FORMATS)}, got {format!r}.")
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
        except SceneGraphDataError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise SceneGraphDataError(
                f"{file}: not what {name} looks like ({type(error).__name__}: {error}), expected {EXPECTED}."
            ) from error
        graphs.extend(found)
    return graphs, labels, predicates, files[0].parent


def format_of(file: Path) -> str:
    """The format of a file, by its name or, where that says nothing, its content."""
    for name, pattern in PATTERNS.items():
        if file.match(pattern):
            return name
    if file.suffix in (".h5", ".hdf5", ".csv"):
        return "open_images" if file.suffix == ".csv" else "vg150"
    content = read_json(file)
    if isinstance(content, dict) and "predicate_classes" in content:
        return "psg"
    if isinstance(content, list) and content and isinstance(content[0], dict) and "relationships" in content[0]:
        return "visual_genome"
    return "vrd"


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise SceneGraphDataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}), expected {EXPECTED}."
        ) from error


def split_of(name: str) -> str:
    """The split that a file is named for, `train` if it is for none."""
    name = name.lower().replace("validation", "val")
    return next((split for split in SPLITS if split in name), "train")


def listed(file: Path) -> list[str] | None:
    """The names in a text file with one a line, or in a JSON list; None if it isn't there."""
    if not file.is_file():
        return None
    if file.suffix == ".json":
        return [str(name) for name in read_json(file)]
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def corners(left: float, top: float, width: float, height: float) -> list[float]:
    return [float(left), float(top), float(left) + float(width), float(top) + float(height)]


def read_vrd(file: Path) -> Found:
    """A list of images with objects and relations, or the public files of VRD (Lu et al. 2016)."""
    content = read_json(file)
    if isinstance(content, dict):
        return read_public_vrd(file, content)
    if not isinstance(content, list):
        raise SceneGraphDataError(f"{file}: found {content!r:.60}, expected {EXPECTED}.")
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
            raise SceneGraphDataError(
                f"{place}: expected image, objects with label and bbox, and relations ({type(error).__name__}: "
                f"{error}), got {entry!r:.120}."
            ) from error
        check_places(graph)
        graphs.append(graph)
    return graphs, listed(file.with_name("objects.txt")), listed(file.with_name("predicates.txt"))


def check_places(graph: AnnotatedGraph) -> None:
    """Raises `SceneGraphDataError` if a relation is about an object that isn't there."""
    for number, (subject, target, _) in enumerate(graph.relations):
        if not (0 <= subject < len(graph.objects) and 0 <= target < len(graph.objects)):
            raise SceneGraphDataError(
                f"{graph.place}: relations[{number}] is about the objects {subject} and {target}, expected 0 to "
                f"{len(graph.objects) - 1}."
            )


class ObjectPlaces:
    """Objects of an image that are told only as ends of relations: each label and box is one object."""

    def __init__(self, graph: AnnotatedGraph):
        self.graph = graph
        self.places: dict[tuple, int] = {}

    def find(self, label: str, box: Sequence[float]) -> int:
        """The place of an object, which is added if it wasn't met yet."""
        key = (label, *box)
        if key not in self.places:
            self.places[key] = len(self.graph.objects)
            self.graph.objects.append((label, list(box)))
        return self.places[key]


def read_public_vrd(file: Path, content: dict[str, list[dict[str, Any]]]) -> Found:
    """`annotations_train.json` of VRD, whose boxes are `y0, y1, x0, x1`; labels are numbers of the lists beside it."""
    labels, predicates = listed(file.with_name("objects.json")), listed(file.with_name("predicates.json"))
    if labels is None or predicates is None:
        raise SceneGraphDataError(f"{file}: the public VRD needs objects.json and predicates.json beside it.")
    graphs = []
    split = split_of(file.stem)
    for image, relations in content.items():
        graph = AnnotatedGraph(f"{file}, {image}", [image, f"sg_{split}_images/{image}"], image, split)
        places = ObjectPlaces(graph)
        for each in relations:
            ends = []
            for end in ("subject", "object"):
                y0, y1, x0, x1 = map(float, each[end]["bbox"])
                ends.append(places.find(labels[each[end]["category"]], (x0, y0, x1, y1)))
            graph.relations.append((*ends, predicates[each["predicate"]]))
        graphs.append(graph)
    return graphs, labels, predicates


def read_visual_genome(file: Path) -> Found:
    """
    `relationships.json` of Visual Genome (Krishna et al. 2017), with all objects of the `objects.json` beside it.

    Names are lower case, of several the first. Objects that were merged with another are that one; those that only a
    relation mentions are added.
    """
    sizes = {each["image_id"]: each for each in optional_list(file.with_name("image_data.json"))}
    listed_objects = {each["image_id"]: each["objects"] for each in optional_list(file.with_name("objects.json"))}
    graphs = []
    for image in read_json(file):
        number = image["image_id"]
        name = f"{number}.jpg"
        size = sizes.get(number)
        graph = AnnotatedGraph(
            f"{file}, image {number}",
            [name, f"VG_100K/{name}", f"VG_100K_2/{name}"],
            str(number),
            "train",
            (float(size["width"]), float(size["height"])) if size is not None else None,
        )
        places: dict[int, int] = {}
        for each in listed_objects.get(number, []):
            add_genome_object(graph, places, each)
        for each in image["relationships"]:
            for end in ("subject", "object"):
                if each[end]["object_id"] not in places:
                    add_genome_object(graph, places, each[end])
            subject, target = (places[each[end]["object_id"]] for end in ("subject", "object"))
            graph.relations.append((subject, target, " ".join(str(each["predicate"]).lower().split())))
        graphs.append(graph)
    return graphs, None, None


def add_genome_object(graph: AnnotatedGraph, places: dict[int, int], each: dict[str, Any]) -> None:
    """Adds an object, and remembers by which numbers relations call it."""
    for number in (each["object_id"], *each.get("merged_object_ids", ())):
        places[number] = len(graph.objects)
    name = each["names"][0] if each.get("names") else each["name"]
    label = " ".join(str(name).lower().split())
    graph.objects.append((label, corners(each["x"], each["y"], each["w"], each["h"])))


def optional_list(file: Path) -> list[dict[str, Any]]:
    return read_json(file) if file.is_file() else []


def read_vg150(file: Path) -> Found:
    """
    `VG-SGG.h5` (Xu et al. 2017): 150 labels and 50 predicates of Visual Genome, whose names are in
    `VG-SGG-dicts.json` and whose images in `image_data.json`. Without the latter, images are numbered.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{file} needs h5py: pip install h5py, or butd_hf[hdf5].") from error
    dicts = next(iter(sorted(file.parent.glob("VG-SGG-dicts*.json"))), None)
    if dicts is None:
        raise SceneGraphDataError(f"{file}: VG-SGG-dicts.json with the names must be beside it.")
    names = read_json(dicts)
    labels, predicates = (
        [names[which][str(number + 1)] for number in range(len(names[which]))]  # 0 is the background
        for which in ("idx_to_label", "idx_to_predicate")
    )
    with h5py.File(file, "r") as opened:
        wanted = ("split", "labels", "predicates", "relationships", f"boxes_{VG150_SIDE}")
        ranges = [f"img_to_{end}_{what}" for what in ("box", "rel") for end in ("first", "last")]
        found = {name: opened[name][:] for name in (*wanted, *ranges)}
    about = [each for each in optional_list(file.with_name("image_data.json")) if each["image_id"] not in CORRUPTED]
    if about and len(about) != len(found["split"]):
        raise SceneGraphDataError(
            f"{file}: has {len(found['split'])} images, but image_data.json beside it {len(about)} without the "
            "corrupted ones."
        )
    splits = vg150_splits(found)
    centre, side = found[f"boxes_{VG150_SIDE}"][:, :2], found[f"boxes_{VG150_SIDE}"][:, 2:]
    low = centre - side / 2
    graphs = []
    for number in range(len(splits)):
        size, scale = None, 1.0
        name = str(number)
        if about:
            size = (float(about[number]["width"]), float(about[number]["height"]))
            scale, name = max(size) / VG150_SIDE, str(about[number]["image_id"])
        images = [f"{name}.jpg", f"VG_100K/{name}.jpg", f"VG_100K_2/{name}.jpg"] if about else []
        graph = AnnotatedGraph(f"{file}, image {name}", images, name, splits[number], size)
        first, last = (int(found[f"img_to_{end}_box"][number]) for end in ("first", "last"))
        for row in range(first, last + 1) if first >= 0 else ():
            box = [*(low[row] * scale), *((low[row] + side[row]) * scale)]
            graph.objects.append((labels[int(found["labels"][row, 0]) - 1], list(map(float, box))))
        start, end = (int(found[f"img_to_{end}_rel"][number]) for end in ("first", "last"))
        for row in range(start, end + 1) if start >= 0 else ():
            subject, target = (int(place) - first for place in found["relationships"][row])
            graph.relations.append((subject, target, predicates[int(found["predicates"][row, 0]) - 1]))
        check_places(graph)
        graphs.append(graph)
    return graphs, labels, predicates


def vg150_splits(found: dict[str, Any]) -> list[str]:
    """The split of each image; where there are enough, the first training images with relations are `val`."""
    splits = [VG150_SPLITS[int(split)] for split in found["split"]]
    related = [row for row, split in enumerate(splits) if split == "train" and found["img_to_first_rel"][row] >= 0]
    if len(related) > VG150_VALIDATION and "val" not in splits:
        for row in related[:VG150_VALIDATION]:
            splits[row] = "val"
    return splits


def read_open_images(file: Path) -> Found:
    """
    Relations of Open Images (Kuznetsova et al. 2020), `oidv6-train-annotations-vrd.csv` and its like. Boxes are in
    [0, 1]. What an object `is` is an attribute and no relation: such lines tell of an object, and nothing else.
    """
    names: dict[str, str] = {}
    for descriptions in sorted(file.parent.glob("*class-descriptions*.csv")):
        with open(descriptions, newline="", encoding="utf-8") as opened:
            names.update({line[0]: line[1] for line in csv.reader(opened) if len(line) >= 2})
    graphs: dict[str, tuple[AnnotatedGraph, ObjectPlaces]] = {}
    split = split_of(file.stem)
    with open(file, newline="", encoding="utf-8") as opened:
        for number, line in enumerate(csv.DictReader(opened), start=2):
            image = line["ImageID"]
            if image not in graphs:
                place = f"{file}, image {image}"
                graph = AnnotatedGraph(place, [f"{image}.jpg", f"{split}/{image}.jpg"], image, split, (1.0, 1.0))
                graphs[image] = (graph, ObjectPlaces(graph))
            graph, places = graphs[image]
            predicate = line.get("RelationshipLabel") or line.get("RelationLabel")
            if not predicate:
                raise SceneGraphDataError(f"{file}, line {number}: no RelationshipLabel, got {sorted(line)}.")
            ends = []
            for end in ("1",) if predicate == "is" else ("1", "2"):
                label = line[f"LabelName{end}"]
                box = [float(line[f"{side}{end}"]) for side in ("XMin", "YMin", "XMax", "YMax")]
                ends.append(places.find(names.get(label, label), box))
            if len(ends) == 2:
                graph.relations.append((*ends, predicate))
    return [graph for graph, _ in graphs.values()], None, None


def read_psg(file: Path) -> Found:
    """`psg.json` (Yang et al. 2022, "Panoptic Scene Graph Generation"): boxes of things and stuff, and relations."""
    content = read_json(file)
    labels = [*content["thing_classes"], *content["stuff_classes"]]
    predicates = list(content["predicate_classes"])
    held_back = {split: set(content.get(f"{split}_image_ids", ())) for split in ("val", "test")}
    graphs = []
    for number, entry in enumerate(content["data"]):
        image_id = entry["image_id"]
        graph = AnnotatedGraph(
            f"{file}, data[{number}]",
            [entry["file_name"], Path(entry["file_name"]).name],
            str(image_id),
            next((split for split, ids in held_back.items() if image_id in ids), "train"),
            (float(entry["width"]), float(entry["height"])),
            [(labels[each["category_id"]], list(map(float, each["bbox"]))) for each in entry["annotations"]],
            [(subject, target, predicates[predicate]) for subject, target, predicate in entry["relations"]],
        )
        check_places(graph)
        graphs.append(graph)
    return graphs, labels, predicates


FORMATS: dict[str, Callable[[Path], Found]] = {
    "vrd": read_vrd,
    "visual_genome": read_visual_genome,
    "vg150": read_vg150,
    "open_images": read_open_images,
    "psg": read_psg,
}


__all__ = ["FORMATS", "AnnotatedGraph", "SceneGraphDataError", "read_graphs"]
