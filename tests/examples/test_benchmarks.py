# SPDX-License-Identifier: Apache-2.0
"""Each benchmark runs on tiny models."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


def run(monkeypatch, name, *options):
    monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


def test_speed_of_captions(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    Image.radial_gradient("L").save(tmp_path / "photo.png")
    options = ["--model", tiny_checkpoint, "--image", tmp_path / "photo.png", "--rounds", 2, "--new_tokens", 3]
    run(monkeypatch, "speed.py", *options, "--json")
    results = json.loads(capsys.readouterr().out)
    assert results["new_tokens"] == 3 and results["rounds"] == 2 and results["ratios"]["backbone"] == 1
    assert list(results["milliseconds"]) == ["backbone", "image to caption", "preprocessing", "regions", "decoding"]
    assert all(value > 0 for value in results["milliseconds"].values())
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        run(monkeypatch, "speed.py", "--rounds", 0)


def test_rows_take_turns():
    calls = []
    rows = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = runpy.run_path(str(BENCHMARKS / "speed.py"))["interleave"](rows, rounds=6)
    assert {name: len(each) for name, each in times.items()} == {"a": 6, "b": 6, "c": 6}
    timed = calls[-18:]
    assert all(sorted(timed[start : start + 3]) == ["a", "b", "c"] for start in range(0, 18, 3))
    assert {timed[start] for start in range(0, 18, 3)} == {"a", "b", "c"}  # each of them comes first at times


def test_speed_of_regions(monkeypatch, capsys):
    options = ["--regions", "--backbone", "test_efficientnet", "--image_size", 128, "--rounds", 1]
    run(monkeypatch, "speed.py", *options)
    printed = capsys.readouterr().out
    assert "num_regions 36" in printed
    assert all(name in printed for name in ("image to regions", "320_fpn", "rt_detr_r18"))


def test_region_recall(tiny_detector, detection_data, tmp_path, monkeypatch, capsys):
    options = ["--model", tiny_detector, "--data", detection_data, "--split", "val", "--num_regions", 5]
    run(monkeypatch, "region_recall.py", *options, "--skip", "selective_search", "--json", tmp_path / "recall.json")
    recalls = json.loads((tmp_path / "recall.json").read_text())["recall"]
    assert list(recalls) == ["rpn", "saliency", "spread_windows"]
    assert all(0 <= recall <= 100 for recall in recalls.values())
    assert "of 4 objects in 2 images by the best 5 regions" in capsys.readouterr().out


def test_windows_are_spread_over_the_image_and_missing_opencv_is_explained(monkeypatch):
    example = runpy.run_path(str(BENCHMARKS / "region_recall.py"))
    windows = example["spread_windows"]()
    assert windows.shape == (36, 4) and len(np.unique(windows, axis=0)) == 36
    covered = [(windows[1:, axis].min(), windows[1:, axis + 2].max()) for axis in (0, 1)]
    assert np.allclose(covered, [(0, 1), (0, 1)])
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="opencv-contrib-python-headless"):
        example["selective_search"](Image.new("RGB", (8, 8)), 3)


def test_embedding_halves_the_weights_and_leaves_the_code_out(tiny_checkpoint, tmp_path):
    embed = runpy.run_path(str(BENCHMARKS / "embed_checkpoint.py"))["embed"]
    embed(Path(tiny_checkpoint), tmp_path / "embedded")
    names = {file.name for file in (tmp_path / "embedded").iterdir()}
    assert {"config.json", "model.safetensors"} <= names and not any(name.endswith(".py") for name in names)
    assert "auto_map" not in json.loads((tmp_path / "embedded" / "config.json").read_text())
    sizes = [Path(folder, "model.safetensors").stat().st_size for folder in (tmp_path / "embedded", tiny_checkpoint)]
    assert sizes[0] < 0.6 * sizes[1]
