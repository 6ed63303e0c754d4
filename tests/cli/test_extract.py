# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import numpy as np
import pytest

from butd_hf.data.region_store import RegionStore


@pytest.fixture
def images(image_paths, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in image_paths:
        shutil.copy(path, folder)
    return folder


def test_images_in_a_store_out_and_on_to_features(call, plain, images, tiny_checkpoint, tmp_path):
    options = ["--out", tmp_path / "STORE", "--model", tiny_checkpoint, "--ids", "stem", "--dtype", "float32"]
    result = call("extract", images, *options)
    assert "regions of 3 images" in result.stdout and "images/s" in result.stderr
    store = RegionStore.open(tmp_path / "STORE")
    assert (store["image_0"].width, store["image_0"].height) == (96, 64)
    assert 2 <= len(store["image_1"].features) <= 6

    table = tmp_path / "a.tsv"
    assert "3 images as tsv" in call("features", tmp_path / "STORE", "--to", table).stdout
    assert "3 images as store" in call("features", table, "--to", tmp_path / "back").stdout
    back = RegionStore.open(tmp_path / "back")["image_2"]
    assert np.array_equal(back.features, store["image_2"].features)
    swapped = "image_id,image_h,image_w,num_boxes,boxes,features"
    wrong = call("features", table, "--to", tmp_path / "c", "--columns", swapped, code=1).stderr
    assert "a.tsv:1: column 5 (boxes)" in wrong
    wrong = call("features", table, "--to", tmp_path / "c", "--columns", "a,b", code=2).stderr
    assert "expected at least image_id" in plain(wrong)
    wrong = call("features", tmp_path / "nothing", "--to", tmp_path / "b.tsv", code=1).stderr
    assert "expected a TSV file, a region store" in wrong and not (tmp_path / "b.tsv").exists()


def test_unreadable_images(call, images, tiny_checkpoint, tmp_path):
    (images / "broken.png").write_bytes(b"nothing")
    options = ["--out", tmp_path / "STORE", "--model", tiny_checkpoint]
    stopped = call("extract", images, *options, "--strict", code=1)
    assert "broken.png" in stopped.stderr and not (tmp_path / "STORE").exists()
    left_out = call("extract", images, *options)
    assert "broken.png" in left_out.stderr and "1 of 4 images could not be read" in left_out.stderr
    shutil.copy(images / "image_0.png", images / "broken.png")
    assert "is a store of other images" in call("extract", images, *options, code=1).stderr
    assert "regions of 4 images" in call("extract", images, *options, "--overwrite").stdout


def test_given_boxes(call, images, tiny_checkpoint, tmp_path):
    boxes = {f"image_{index}.png": [[1, 2, 31, 42]] * index for index in range(3)}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ["--model", tiny_checkpoint, "--boxes", tmp_path / "boxes.json", "--box-format", "xywh"]
    call("extract", images, "--out", tmp_path / "STORE", *options)
    store = RegionStore.open(tmp_path / "STORE")
    assert [len(store[name].boxes) for name in boxes] == [0, 1, 2]
    assert store["image_1.png"].boxes[0] == pytest.approx([1 / 60, 2 / 120, 32 / 60, 44 / 120])
    (tmp_path / "boxes.json").write_text("{}")
    assert "no boxes of 3 of 3 images" in call("extract", images, "--out", tmp_path / "B", *options, code=1).stderr


def test_wrong_commands(call, plain, images, tmp_path):
    out = ["--out", tmp_path / "STORE"]
    assert "no such file" in plain(call("extract", "missing.jpg", *out, code=2).stderr)
    assert "only files" in plain(call("extract", "https://example.org/a.jpg", *out, code=2).stderr)
    assert "expected auto or cpu" in plain(call("extract", images, *out, "--device", "tpu", code=2).stderr)
