# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from butd_hf.commands import app


runner = CliRunner()


def call(*arguments, code=0):
    result = runner.invoke(app, ["graph", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_json_and_drawings(tiny_grapher, image_paths, tmp_path):
    options = ["--model", tiny_grapher, "--threshold", 0, "--top", 4, "--json", "--draw", tmp_path / "out.png"]
    results = json.loads(call(*image_paths, *options).stdout)
    assert [result["image"] for result in results] == image_paths
    for number, result in enumerate(results, start=1):
        assert len(result["relations"]) == 4 and result["objects"][0]["label"] in ("square", "disc", "dog")
        assert result["drawing"].endswith(f"out-{number}.png") and Image.open(result["drawing"]).width > 500


def test_table_and_dot(tiny_grapher, image_paths):
    options = ["--model", tiny_grapher, "--threshold", 0, "--top", 3]
    table = call(image_paths[0], *options).stdout
    assert "predicate" in table and table.count("picture_0.png") == 3
    dot = call(*image_paths[:2], *options, "--dot").stdout
    assert dot.count("digraph") == 2 and dot.count("->") == 6
    nothing = call(image_paths[0], "--model", tiny_grapher, "--threshold", 1).stdout
    assert "no relations" in nothing


def test_one_thing_found_twice_has_no_relation_to_itself(tiny_grapher, image_paths):
    def relations(*options):
        options = ["--model", tiny_grapher, "--threshold", 0, "--top", 1000, "--json", *options]
        (result,) = json.loads(call(image_paths[0], *options).stdout)
        labels = [each["label"] for each in result["objects"]]
        return {(each["subject"], each["object"]) for each in result["relations"]}, labels

    everything, labels = relations("--twin-overlap", 1)
    told, _ = relations("--twin-overlap", 0)  # any two of one label, wherever they are
    assert told == {pair for pair in everything if labels[pair[0]] != labels[pair[1]]}
    assert told < everything


def test_unreadable_picture_is_named_and_the_rest_is_done(tiny_grapher, image_paths, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    result = call(broken, image_paths[0], "--model", tiny_grapher, "--threshold", 0, "--json", code=1)
    first, second = json.loads(result.stdout)
    assert "error" in first and second["relations"]
    assert "broken.png" in result.stderr


@pytest.mark.parametrize("options", [["--json", "--dot"], ["--threshold", "2"]])
def test_wrong_options(image_paths, options):
    call(image_paths[0], *options, code=2)


def test_other_checkpoints_are_refused(tiny_checkpoint, image_paths):
    result = call(image_paths[0], "--model", tiny_checkpoint, code=2)
    assert "ButdForSceneGraphGeneration" in result.stderr
