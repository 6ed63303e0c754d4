# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

import butd_hf


EXAMPLE = Path(__file__).parents[2] / "examples" / "benchmark_faster_rcnn.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_faster_rcnn_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_is_measured(benchmark, tmp_path, capsys):
    settings = {
        "selector": "faster_rcnn_c4",
        "backbone": "resnet50",
        "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 16]},
        "rpn_size": 8,
        "num_proposals": 20,
        "num_region_labels": 5,
    }
    butd_hf.ButdRegionModel(butd_hf.ButdConfig(bottom_up_config=settings)).save_pretrained(tmp_path / "model")
    Image.radial_gradient("L").save(tmp_path / "photo.png")
    options = ["--model", str(tmp_path / "model"), "--image", str(tmp_path / "photo.png"), "--rounds", "2"]
    options += ["--height", "64", "--width", "80"]
    benchmark.main([*options, "--json"])
    results = json.loads(capsys.readouterr().out)
    rows = results["rows"]
    assert list(rows) == ["plain", "fast", "approximate"] and results["image_size"] == [64, 80]
    assert all(row["seconds"] > 0 and row["regions"] > 0 for row in rows.values())
    assert rows["plain"]["largest_difference"] == 0 and rows["plain"]["same_boxes"]
    assert rows["fast"]["largest_difference"] < 1e-4 and rows["fast"]["same_boxes"]
    assert rows["approximate"]["largest_difference"] > rows["fast"]["largest_difference"]
    benchmark.show(results)
    table = capsys.readouterr().out
    assert all(way in table for way in ("plain", "fast", "approxi")) and "same" in table


def test_rounds_must_be_positive(benchmark):
    with pytest.raises(ValueError, match="rounds"):
        benchmark.main(["--rounds", "0"])
