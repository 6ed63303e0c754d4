# SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest
from PIL import Image

from butd_hf.data.data_errors import DataError
from butd_hf.data.scene_graphs import label_names, load_scene_graphs, predicate_names


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def in_words(table, row=0):
    """The relations of a row, as `subject predicate object`."""
    labels, predicates = label_names(table), predicate_names(table)
    names = [labels[each["label"]] for each in table[row]["objects"]]
    return [
        f"{names[each['subject']]} {predicates[each['predicate']]} {names[each['object']]}"
        for each in table[row]["relations"]
    ]


def entry(image, objects, relations, **others):
    return {
        "image": image,
        "objects": [{"label": label, "bbox": bbox} for label, bbox in objects],
        "relations": [dict(zip(("subject", "predicate", "object"), each, strict=True)) for each in relations],
        **others,
    }


OBJECTS = [("dog", [10, 20, 30, 40]), ("mat", [0, 40, 60, 30]), ("dog", [12, 21, 30, 40]), ("hat", [5, 5, 0, 9])]
RELATIONS = [(0, "on", 1), (0, "near", 1), (0, "on", 1), (1, "on", 1), (3, "on", 0), (2, "on", 1)]


@pytest.fixture
def vrd(tmp_path):
    write(
        tmp_path / "annotations_train.json",
        [
            entry("1.png", OBJECTS, RELATIONS, split="train"),
            entry("2.png", [], [], split="val"),
            entry("3.png", [("mat", [0, 0, 9, 9])], [], split="val"),
        ],
    )
    write(tmp_path / "objects.txt", "mat\ndog\nhat\n")
    write(tmp_path / "predicates.txt", "near\non\n")
    return tmp_path


def test_what_cannot_be_used_is_left_out_and_counted(vrd, caplog):
    table = load_scene_graphs(vrd)
    assert label_names(table) == ["mat", "dog", "hat"] and predicate_names(table) == ["near", "on"]
    # a repetition, a relation to itself, a box without area with its relation; two of a pair and copies of a dog stay
    assert in_words(table) == ["dog on mat", "dog near mat", "dog on mat"]
    assert [each["subject"] for each in table[0]["relations"]] == [0, 0, 2]
    for flaw in ("1 repeated", "1 relations of an object to itself", "1 objects whose box", "1 relations of objects"):
        assert flaw in caplog.text
    assert table[0]["objects"][0] == {"label": 1, "box": [10, 20, 40, 60]}
    assert list(table["split"]) == ["train", "val", "val"]
    assert [len(objects) for objects in table["objects"]] == [3, 0, 1]  # images without anything stay


def test_without_images_the_extent_is_the_size(vrd):
    table = load_scene_graphs(vrd)
    assert list(table["image"]) == [None] * 3 and not any(table["sized"])
    assert (table[0]["width"], table[0]["height"]) == (60, 70) and (table[1]["width"], table[1]["height"]) == (1, 1)


def test_images_give_the_size_and_boxes_are_clipped(vrd):
    for name in ("1.png", "2.png", "3.png"):
        (vrd / "images").mkdir(exist_ok=True)
        Image.new("RGB", (50, 64)).save(vrd / "images" / name)
    table = load_scene_graphs(vrd, split="train")
    assert table[0]["image"] == str((vrd / "images" / "1.png").resolve()) and table[0]["sized"]
    assert table[0]["objects"][1]["box"] == [0, 40, 50, 64]
    (vrd / "images" / "2.png").unlink()
    with pytest.raises(DataError, match="1 of 3 image files are missing"):
        load_scene_graphs(vrd)
    with pytest.raises(DataError, match="3 of 3 image files are missing"):
        load_scene_graphs(vrd, images=vrd)


def test_vocabularies_can_be_chosen(vrd):
    table = load_scene_graphs(vrd, labels=["animal,dog", "mat"], predicates=1)
    assert label_names(table) == ["animal,dog", "mat"] and predicate_names(table) == ["on"]
    assert in_words(table) == ["animal,dog on mat", "animal,dog on mat"]
    with pytest.raises(ValueError, match="labels must be a list of names or a positive number of them, got 0"):
        load_scene_graphs(vrd, labels=0)


def test_public_vrd(tmp_path):
    box = {"a": [20, 60, 10, 40], "b": [0, 9, 0, 9]}  # y0, y1, x0, x1
    relations = [
        {
            "subject": {"category": 1, "bbox": box["a"]},
            "predicate": 0,
            "object": {"category": 0, "bbox": box[other]},
        }
        for other in ("b", "a", "b")
    ]
    write(tmp_path / "annotations_test.json", {"1.jpg": relations, "2.jpg": []})
    write(tmp_path / "objects.json", ["mat", "dog"])
    write(tmp_path / "predicates.json", ["on"])
    table = load_scene_graphs(tmp_path)
    assert table[0]["split"] == "test" and in_words(table) == ["dog on mat", "dog on mat"]
    assert [each["box"] for each in table[0]["objects"]] == [[10, 20, 40, 60], [0, 0, 9, 9], [10, 20, 40, 60]]
    (tmp_path / "predicates.json").unlink()
    with pytest.raises(DataError, match=r"needs objects\.json and predicates\.json"):
        load_scene_graphs(tmp_path)


def test_vg150(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "VG-SGG.h5", "w") as file:
        file["split"] = [0, 2, 0]
        file["labels"] = [[1], [2], [2]]
        file["boxes_1024"] = [[100, 200, 50, 60], [512, 256, 512, 256], [50, 50, 20, 20]]
        file["predicates"] = [[1]]
        file["relationships"] = [[1, 0]]
        for name, places in (("box", [0, 2, -1]), ("rel", [0, -1, -1])):
            file[f"img_to_first_{name}"] = places
        file["img_to_last_box"], file["img_to_last_rel"] = [1, 2, -1], [0, -1, -1]
    names = {"idx_to_label": {"1": "cup", "2": "table"}, "idx_to_predicate": {"1": "under"}}
    write(tmp_path / "VG-SGG-dicts.json", names)
    table = load_scene_graphs(tmp_path)
    assert list(table["image_id"]) == ["0", "1", "2"] and not any(table["sized"])
    # the corrupted image is in none of its rows
    sizes = [{"image_id": number, "width": 512, "height": 256} for number in (4, 1592, 6, 8)]
    write(tmp_path / "image_data.json", sizes)
    table = load_scene_graphs(tmp_path)
    assert list(table["image_id"]) == ["4", "6", "8"] and list(table["split"]) == ["train", "test", "train"]
    assert in_words(table) == ["table under cup"] and in_words(table, 1) == []
    assert table[0]["objects"][0]["box"] == [37.5, 85, 62.5, 115]
    write(tmp_path / "image_data.json", sizes[:2])
    with pytest.raises(DataError, match=r"has 3 images, but image_data\.json beside it 1"):
        load_scene_graphs(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match="pip install h5py"):
        load_scene_graphs(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ("3", "found 3, expected a list"),
        ([entry("1", [("dog", [1, 2, 3])], [])], r"\[0\]: expected image, objects"),
        ([entry("1", OBJECTS, [(0, "on", 4)])], r"relations\[0\] is between the objects 0 and 4, expected 0 to 3"),
        ([entry("1", [("cat", [1, 2, 3, 4])], [])], r"objects\[0\] is 'cat': objects whose label isn't listed"),
        ([entry("1", OBJECTS, [(0, "over", 1)])], r"relations\[0\] is 'over': relations whose predicate isn't listed"),
        ([], "nothing in it"),
    ],
)
def test_broken_annotations_are_named(vrd, content, message):
    write(vrd / "annotations_train.json", content)
    with pytest.raises(DataError, match=message):
        load_scene_graphs(vrd)


def test_what_is_not_there(vrd):
    with pytest.raises(DataError, match=r"no split 'test', there are \['train', 'val'\]"):
        load_scene_graphs(vrd, split="test")
    with pytest.raises(FileNotFoundError, match="No scene graphs at"):
        load_scene_graphs(vrd / "nowhere")
    with pytest.raises(DataError, match="format must be"):
        load_scene_graphs(vrd, format="coco")
