# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


EXAMPLE = Path(__file__).parents[2] / "examples" / "region_recall.py"


def test_windows_are_spread_over_the_image():
    windows = runpy.run_path(str(EXAMPLE))["spread_windows"]()
    assert windows.shape == (36, 4) and len(np.unique(windows, axis=0)) == 36
    assert windows.min() >= 0 and windows.max() <= 1 + 1e-9
    covered = [(windows[1:, axis].min(), windows[1:, axis + 2].max()) for axis in (0, 1)]
    assert np.allclose(covered, [(0, 1), (0, 1)])


def test_one_table(tiny_detector, detection_data, tmp_path, monkeypatch, capsys):
    options = ["--model", tiny_detector, "--data", detection_data, "--split", "val", "--num_regions", 5]
    options += ["--skip", "selective_search", "--json", tmp_path / "recall.json"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    table = capsys.readouterr().out
    recalls = json.loads((tmp_path / "recall.json").read_text())["recall"]
    assert list(recalls) == ["rpn", "saliency", "spread_windows"]
    assert all(0 <= recall <= 100 for recall in recalls.values())
    assert "of 4 objects in 2 images by the best 5 regions" in table and "| spread windows |" in table


def test_selective_search_finds_a_square_or_says_what_is_missing():
    search = runpy.run_path(str(EXAMPLE))["selective_search"]
    picture = Image.new("RGB", (80, 60), "navy")
    picture.paste("orange", (10, 10, 50, 40))
    try:
        boxes = search(picture, 36)
    except ImportError as error:
        assert "opencv-contrib-python-headless" in str(error)
    else:
        assert np.abs(boxes - [10 / 80, 10 / 60, 50 / 80, 40 / 60]).max(axis=1).min() < 0.06


def test_missing_opencv_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="opencv-contrib-python-headless"):
        runpy.run_path(str(EXAMPLE))["selective_search"](Image.new("RGB", (8, 8)), 3)
