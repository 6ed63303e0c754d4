# SPDX-License-Identifier: Apache-2.0
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from butd_hf.commands import app
from butd_hf.data.region_store import RegionStore


runner = CliRunner()


def call(*arguments, code=0):
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def plain(text):
    return " ".join(text.replace("│", "").split())


@pytest.fixture
def photos(image_paths, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in image_paths:
        shutil.copy(path, folder)
    return folder


def test_pictures_in_a_store_out_and_on_to_features(photos, tiny_checkpoint, tmp_path):
    options = ["--out", tmp_path / "STORE", "--model", tiny_checkpoint, "--ids", "stem", "--dtype", "float32"]
    result = call("extract", photos, *options)
    assert "regions of 3 pictures" in result.stdout and "images/s" in result.stderr
    store = RegionStore.open(tmp_path / "STORE")
    assert (store["picture_0"].width, store["picture_0"].height) == (96, 64)
    assert 2 <= len(store["picture_1"].features) <= 6

    assert "3 pictures as tsv" in call("features", tmp_path / "STORE", "--to", tmp_path / "a.tsv").stdout
    assert "3 pictures as store" in call("features", tmp_path / "a.tsv", "--to", tmp_path / "back").stdout
    back = RegionStore.open(tmp_path / "back")["picture_2"]
    assert np.array_equal(back.features, store["picture_2"].features)
    names = "image_id,image_h,image_w,num_boxes,boxes,features"
    wrong = call("features", tmp_path / "a.tsv", "--to", tmp_path / "c", "--columns", names, code=1).stderr
    assert "a.tsv:1: column 5 (boxes)" in wrong and "changed places" in wrong
    assert "expected at least image_id" in plain(
        call("features", tmp_path / "a.tsv", "--to", tmp_path / "c", "--columns", "a,b", code=2).stderr
    )


def test_unreadable_pictures(photos, tiny_checkpoint, tmp_path):
    (photos / "broken.png").write_bytes(b"nothing")
    options = ["--out", tmp_path / "STORE", "--model", tiny_checkpoint]
    stopped = call("extract", photos, *options, "--strict", code=1)
    assert "broken.png" in stopped.stderr and not (tmp_path / "STORE").exists()
    left_out = call("extract", photos, *options)
    assert "broken.png" in left_out.stderr and "1 of 4 pictures could not be read" in left_out.stderr
    assert "regions of 3 pictures" in left_out.stdout

    shutil.copy(photos / "picture_0.png", photos / "broken.png")  # mended
    assert "is a store of other images" in call("extract", photos, *options, code=1).stderr
    assert "regions of 4 pictures" in call("extract", photos, *options, "--overwrite").stdout


def test_given_boxes(photos, tiny_checkpoint, tmp_path):
    boxes = {f"picture_{index}.png": [[1, 2, 31, 42]] * index for index in range(3)}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    options = ["--model", tiny_checkpoint, "--boxes", tmp_path / "boxes.json", "--box-format", "xywh"]
    call("extract", photos, "--out", tmp_path / "STORE", *options)
    store = RegionStore.open(tmp_path / "STORE")
    assert [len(store[name].boxes) for name in boxes] == [0, 1, 2]
    assert store["picture_1.png"].boxes[0] == pytest.approx([1 / 60, 2 / 120, 32 / 60, 44 / 120])
    (tmp_path / "boxes.json").write_text("{}")
    assert "no boxes of 3 of 3 images" in call("extract", photos, "--out", tmp_path / "B", *options, code=1).stderr


def test_wrong_commands(photos, tiny_checkpoint, tmp_path):
    out = ["--out", tmp_path / "STORE"]
    assert "no such file" in plain(call("extract", "missing.jpg", *out, code=2).stderr)
    assert "only files" in plain(call("extract", "https://example.org/a.jpg", *out, code=2).stderr)
    assert "expected auto or cpu" in plain(call("extract", photos, *out, "--device", "tpu", code=2).stderr)
    assert "cannot load" in plain(call("extract", photos, *out, "--model", tmp_path, code=2).stderr)
    error = call("features", tmp_path / "nothing", "--to", tmp_path / "a.tsv", code=1).stderr
    assert "expected a TSV file, a region store" in error
    assert not Path(tmp_path / "a.tsv").exists()
