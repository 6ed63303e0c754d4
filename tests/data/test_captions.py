# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image

from butd_hf.data.captions import load_captions
from butd_hf.data.data_errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path


def lines(*entries):
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


LINES = (
    {"image": "a.jpg", "split": "train", "captions": ["a  dog\u2028", "two dogs", " "]},
    {"image": "b.jpg", "split": "dev", "captions": ["a cat"]},
    {"image": "sub/c.jpg", "captions": [" "]},
)
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}, {"id": 11, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 9, "caption": "a cat"},
        {"image_id": 7, "caption": "a  dog\u0085"},
        {"image_id": "7", "caption": "two dogs"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "restval", "imgid": 0, "sentences": [{"raw": "a dog"}, {"raw": "two dogs"}]},
        {"filename": "b.jpg", "split": "dev", "cocoid": 5, "sentences": [{"raw": "a cat"}]},
        {"filename": "c.jpg", "filepath": "sub", "split": "dev", "imgid": 2, "sentences": []},
    ]
}


@pytest.mark.parametrize(
    ("name", "content", "ids", "splits"),
    [
        ("captions.jsonl", "\ufeff" + lines(*LINES), ["a.jpg", "b.jpg"], ["train", "dev"]),
        ("captions_val2017.json", json.dumps(COCO), ["7", "9"], ["val", "val"]),
        ("captions_val2017.json", json.dumps(COCO, indent=2, ensure_ascii=False), ["7", "9"], ["val", "val"]),
        ("dataset.json", json.dumps(KARPATHY), ["0", "5"], ["train", "dev"]),
    ],
)
def test_layouts_are_recognised_and_images_without_captions_left_out(folder, caplog, name, content, ids, splits):
    (folder / name).write_text(content, encoding="utf-8")
    table = load_captions(folder / name)
    assert table["captions"][:] == [["a dog", "two dogs"], ["a cat"]]  # white space is cleaned
    assert table["image_id"][:] == ids and table["split"][:] == splits
    assert table["image"][0] == str((folder / "images" / "a.jpg").resolve())
    assert load_captions(folder / name, split=splits[-1])["image_id"][-1] == ids[-1]
    assert ("1 images without a caption" in caplog.text) == (name != "captions_val2017.json")


def test_images_are_found_in_subfolders_and_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("captions")
    entry = {**KARPATHY["images"][2], "sentences": [{"raw": "a cow"}]}
    (elsewhere / "dataset.json").write_text(json.dumps({"images": [entry]}))
    with pytest.raises(FileNotFoundError, match="No images folder"):
        load_captions(elsewhere / "dataset.json")
    assert load_captions(elsewhere / "dataset.json", images=folder / "images")["image"][0].endswith("sub/c.jpg")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.jsonl", lines(LINES[0]) + '{"image": "b.jpg", \n', r"line 2: not JSON"),
        ("captions.jsonl", lines({"image": "a.jpg", "title": "a"}), r"line 1: no 'captions' \(list or str\)"),
        ("captions.jsonl", lines({"image": 3, "captions": ["a"]}), r"line 1: 'image' must be str, got 3"),
        ("captions.jsonl", lines({"image": "a.jpg", "captions": [4]}), r"line 1: a caption must be a string"),
        ("captions.jsonl", lines(*LINES, {"image": "gone.jpg", "captions": ["a"]}), r"1 of 3 image(.|\n)*gone\.jpg"),
        ("captions.jsonl", "", r"nothing in it, expected JSON Lines"),
        ("captions.json", '{"images": [\n1,\n}', r"line 3: not JSON"),
        ("captions.json", "[1, 2]", r"found list, expected JSON Lines"),
        ("captions.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', r"annotations\[0\]: no 'cap"),
        ("captions.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}', r"not in `images`.*1"),
        ("captions.json", '{"images": [{"filename": "a.jpg", "split": "val"}]}', r"images\[0\]: no 'sentences'"),
    ],
)
def test_errors_name_the_place(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        load_captions(folder / name)
    assert str(folder / name) in str(raised.value)


def test_missing_files_and_splits(folder):
    with pytest.raises(FileNotFoundError, match=r"captions\.jsonl"):
        load_captions(folder)
    with pytest.raises(FileNotFoundError, match="No captions at"):
        load_captions(folder / "none.json")
    (folder / "captions.jsonl").write_text(lines(*LINES))
    with pytest.raises(DataError, match=r"no split 'test', there are \['dev', 'train'\]"):
        load_captions(folder, split="test")


@pytest.mark.parametrize("column", ["text", "captions"])
def test_an_imagefolder_of_datasets(tmp_path, column):
    for split, count in (("train", 2), ("validation", 1)):
        (tmp_path / split).mkdir()
        entries = []
        for index in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / split / f"{index}.png")
            caption = f"a {split} image {index}"
            entries.append({"file_name": f"{index}.png", column: [caption] if column == "captions" else caption})
        (tmp_path / split / "metadata.jsonl").write_text(lines(*entries))
    table = load_captions(tmp_path)
    assert table["split"] == ["train", "train", "validation"] and table["image_id"][0] == "train/0.png"
    assert table["captions"][2] == ["a validation image 0"]
    assert table["image"][1] == str(tmp_path.resolve() / "train" / "1.png")
    only = load_captions(tmp_path / "train" / "metadata.jsonl")
    assert only["split"] == ["train", "train"] and only["image"][1] == table["image"][1]
