# SPDX-License-Identifier: Apache-2.0
import json

import datasets
import pytest
from PIL import Image

from butd_hf.data.captions import load_captions
from butd_hf.data.data_errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return path


LINES = [
    {"image": "a.jpg", "split": "train", "captions": ["a  dog ", "two dogs"]},
    {"image": "b.jpg", "split": "dev", "captions": ["a cat"]},
]
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}, {"id": 11, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 9, "caption": "a cat"},
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 7, "caption": "two dogs"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "train", "imgid": 0, "sentences": [{"raw": "a dog"}, {"raw": "two dogs"}]},
        {"filename": "b.jpg", "split": "val", "cocoid": 5, "sentences": [{"raw": "a cat"}]},
        {"filename": "c.jpg", "filepath": "", "split": "restval", "imgid": 2, "sentences": [{"raw": "a cow"}]},
    ]
}


def as_lines(entries):
    return "\n".join(json.dumps(entry) for entry in entries) + "\n"


def test_json_lines_in_a_folder(folder):
    write(folder / "captions.jsonl", as_lines(LINES))
    table = load_captions(folder)
    assert table["captions"][:] == [["a dog", "two dogs"], ["a cat"]]  # white space is cleaned
    assert table["split"][:] == ["train", "dev"]
    assert table["image"][0] == str((folder / "images" / "a.jpg").resolve())
    assert load_captions(folder, split="dev")["image_id"][:] == ["b.jpg"]


@pytest.mark.parametrize("indent", [None, 2])
def test_coco_groups_captions_and_leaves_out_undescribed_images(folder, indent):
    file = write(folder / "captions_val2017.json", json.dumps(COCO, indent=indent))
    table = load_captions(file)
    assert table["image_id"][:] == ["7", "9"]
    assert table["captions"][:] == [["a dog", "two dogs"], ["a cat"]]
    assert set(table["split"]) == {"val"}


@pytest.mark.parametrize("indent", [None, 2])
def test_karpathy_counts_restval_as_train(folder, indent):
    file = write(folder / "dataset.json", json.dumps(KARPATHY, indent=indent))
    table = load_captions(file)
    assert table["split"][:] == ["train", "val", "train"]
    assert table["image_id"][:] == ["0", "5", "2"]


def test_karpathy_joins_the_subfolder(folder):
    (folder / "images" / "sub").mkdir()
    (folder / "images" / "a.jpg").rename(folder / "images" / "sub" / "a.jpg")
    entry = {**KARPATHY["images"][0], "filepath": "sub"}
    table = load_captions(write(folder / "dataset.json", {"images": [entry]}))
    assert table["image"][0].endswith("sub/a.jpg")


def test_images_folder_can_be_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("captions")
    file = write(elsewhere / "captions.jsonl", as_lines(LINES))
    with pytest.raises(FileNotFoundError, match="No images folder"):
        load_captions(file)
    assert len(load_captions(file, images=folder / "images")) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.jsonl", as_lines(LINES[:1]) + '{"image": "b.jpg", \n', r"line 2: not JSON"),
        ("captions.jsonl", "{'image': 1}\n", r"line 1: not JSON"),
        ("captions.jsonl", as_lines([{"image": "a.jpg", "caption": "a"}]), r"line 1: no 'captions' \(list\)"),
        ("captions.jsonl", as_lines([{"image": 3, "captions": ["a"]}]), r"line 1: 'image' must be str, got 3"),
        ("captions.jsonl", as_lines([{"image": "a.jpg", "captions": []}]), r"line 1: expected at least one caption"),
        ("captions.jsonl", as_lines([{"image": "a.jpg", "captions": [4]}]), r"line 1: a caption must be a string"),
        ("captions.jsonl", "", r"no image with captions"),
        ("captions.json", '{"images": [\n1,\n}', r"line 3: not JSON"),
        ("captions.json", "[1, 2]", r"found list, expected JSON Lines"),
        ("captions.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', r"annotations\[0\]: no 'cap"),
        ("captions.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}', r"not in `images`.*1"),
        ("captions.json", '{"images": [{"filename": "a.jpg", "split": "val"}]}', r"images\[0\]: no 'sentences'"),
    ],
)
def test_errors_name_the_place(folder, name, content, message):
    file = write(folder / name, content)
    with pytest.raises(DataError, match=message) as raised:
        load_captions(file)
    assert str(file) in str(raised.value)


def test_missing_images_are_listed(folder):
    write(folder / "captions.jsonl", as_lines([*LINES, {"image": "gone.jpg", "captions": ["nothing"]}]))
    with pytest.raises(DataError, match=r"1 of 3 image files are missing(.|\n)*gone\.jpg"):
        load_captions(folder)


def test_unknown_split_names_the_known(folder):
    write(folder / "captions.jsonl", as_lines(LINES))
    with pytest.raises(DataError, match=r"'test', the file has \['dev', 'train'\]"):
        load_captions(folder, split="test")


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"captions\.jsonl"):
        load_captions(tmp_path)
    with pytest.raises(FileNotFoundError, match="No captions at"):
        load_captions(tmp_path / "none.json")


@pytest.mark.parametrize("column", ["text", "caption", "captions"])
def test_an_imagefolder(tmp_path, column):
    """As the library `datasets` reads it, too."""
    for split, count in (("train", 2), ("validation", 1)):
        (tmp_path / split).mkdir()
        lines = []
        for index in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / split / f"{index}.png")
            said = f"a {split} picture {index}"
            lines.append({"file_name": f"{index}.png", column: [said] if column == "captions" else said})
        (tmp_path / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = load_captions(tmp_path)
    assert table["split"] == ["train", "train", "validation"]
    assert table["captions"][2] == ["a validation picture 0"]
    assert table["image"][1] == str(tmp_path.resolve() / "train" / "1.png")
    assert table["image_id"][0] == "train/0.png"
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in theirs.items()} == {"train": 2, "validation": 1}


def test_an_imagefolder_of_one_file(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a square", "split": "dev"}\n')
    assert load_captions(tmp_path)["split"] == load_captions(tmp_path / "metadata.jsonl")["split"] == ["dev"]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "title": "a square"}\n')
    with pytest.raises(DataError, match=r"metadata.jsonl, line 1: no 'text' .* among .'file_name', 'title'"):
        load_captions(tmp_path)
