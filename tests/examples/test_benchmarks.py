# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image


EXAMPLE = Path(__file__).parents[2] / "examples" / "benchmarks" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def options(tiny_checkpoint, tmp_path):
    photo = tmp_path / "photo.png"
    Image.radial_gradient("L").save(photo)
    return ["--model", str(tiny_checkpoint), "--image", str(photo), "--rounds", "2", "--new_tokens", "3"]


def test_json(benchmark, options, capsys):
    benchmark.main([*options, "--json"])
    results = json.loads(capsys.readouterr().out)
    assert results["new_tokens"] == 3 and results["rounds"] == 2
    assert list(results["stages_ms"]) == ["preprocessing", "backbone", "selection", "memory", "decoding", "text"]
    times = [results["backbone_ms"], results["caption_ms"], results["ratio"], *results["stages_ms"].values()]
    assert all(value > 0 for value in times)


def test_table(benchmark, options, capsys):
    benchmark.main(options)
    output = capsys.readouterr().out
    assert "backbone alone" in output and "image → caption" in output


def test_regions_beside_other_detectors(benchmark, capsys):
    options = ["--regions", "--backbone", "test_efficientnet", "--image_size", "128", "--rounds", "1"]
    benchmark.main([*options, "--json"])
    results = json.loads(capsys.readouterr().out)
    assert results["num_regions"] == 36 and results["ratios"]["feature maps"] == 1
    assert list(results["milliseconds"]) == [
        *("feature maps", "regions", "fasterrcnn_mobilenet_v3_large_320_fpn"),
        *("fasterrcnn_mobilenet_v3_large_fpn", "rt_detr_r18"),
    ]
    benchmark.show_regions(results)
    assert "image → 36 regions" in capsys.readouterr().out


def test_rows_take_turns(benchmark):
    calls = []
    rows = {name: lambda name=name: calls.append(name) for name in "abc"}
    watch = benchmark.interleave(rows, rounds=6)
    timed = calls[-18:]
    assert {name: len(times) for name, times in watch.milliseconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert all(sorted(timed[start : start + 3]) == ["a", "b", "c"] for start in range(0, 18, 3))
    assert {timed[start] for start in range(0, 18, 3)} == {"a", "b", "c"}  # each of them comes first at times


def test_rounds_must_be_positive(benchmark):
    with pytest.raises(ValueError, match="rounds"):
        benchmark.main(["--rounds", "0"])


def test_embedding_halves_the_weights_and_leaves_the_code_out(tiny_checkpoint, tmp_path):
    spec = importlib.util.spec_from_file_location("embed_example", EXAMPLE.with_name("embed_checkpoint.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.embed(Path(tiny_checkpoint), tmp_path / "embedded")
    names = {file.name for file in (tmp_path / "embedded").iterdir()}
    assert {"config.json", "model.safetensors"} <= names and not any(name.endswith(".py") for name in names)
    assert "auto_map" not in json.loads((tmp_path / "embedded" / "config.json").read_text())
    sizes = [
        (folder / "model.safetensors").stat().st_size for folder in (tmp_path / "embedded", Path(tiny_checkpoint))
    ]
    assert sizes[0] < 0.6 * sizes[1]
