# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from butd_hf.commands import app


runner = CliRunner()


def call(*arguments, code=0):
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


def command_of(checkpoint):
    return "segment" if checkpoint.endswith("segmentation") else "detect"


def test_objects_as_json_and_drawn(tiny_detector, detection_data, tmp_path):
    command = command_of(tiny_detector)
    options = ["--model", tiny_detector, "--threshold", 0.0, "--top", 3, "--json", "--draw", tmp_path / "out.png"]
    results = json.loads(call(command, detection_data / "images", *options).stdout)
    assert len(results) == 6
    assert (results[0]["width"], results[0]["height"]) == (56, 64)
    for number, result in enumerate(results, start=1):
        assert result["drawing"].endswith(f"out-{number}.png")
        assert Image.open(result["drawing"]).width > 100
        assert 0 < len(result["objects"]) <= 3
        scores = [found["score"] for found in result["objects"]]
        assert scores == sorted(scores, reverse=True)
        for found in result["objects"]:
            assert found["label"] in ("square", "disc")
            assert 0 <= found["box"][0] <= found["box"][2] <= result["width"]
            assert ("mask" in found) == (command == "segment")


def test_table_says_where_nothing_was_found(tiny_detector, detection_data):
    photo = detection_data / "images" / "0.png"
    output = call(command_of(tiny_detector), photo, "--model", tiny_detector, "--threshold", 1.0).stdout
    assert "no objects" in output and "0.png" in output


def test_regions_of_any_model(tiny_detector, tiny_checkpoint, detection_data, tmp_path):
    photo = detection_data / "images" / "0.png"
    options = ["--json", "--top", 2, "--draw", tmp_path / "regions.png"]
    (found,) = json.loads(call("regions", photo, "--model", tiny_detector, *options).stdout)
    (plain,) = json.loads(call("regions", photo, "--model", tiny_checkpoint, *options).stdout)
    assert [region["rank"] for region in found["regions"]] == [1, 2]
    assert found["regions"][0]["saliency"] >= found["regions"][1]["saliency"]
    assert found["regions"][0]["label"] in ("square", "disc") and 0 <= found["regions"][0]["attribute"] < 3
    assert set(plain["regions"][0]) == {"rank", "saliency", "box"}
    assert (tmp_path / "regions.png").is_file()
    assert "saliency" in call("regions", photo, "--model", tiny_detector).stdout


def test_unreadable_picture_is_named_and_the_rest_is_done(tiny_detector, detection_data, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    photo = detection_data / "images" / "0.png"
    options = ["--model", tiny_detector, "--json"]
    result = call(command_of(tiny_detector), broken, photo, *options, code=1)
    first, second = json.loads(result.stdout)
    assert "broken.png" in result.stderr and "error" in first and "objects" in second


def test_wrong_kind_of_model_is_refused(tiny_checkpoint, detection_data):
    photo = detection_data / "images" / "0.png"
    assert "expected a ButdForObjectDetection" in " ".join(
        call("detect", photo, "--model", tiny_checkpoint, code=2).stderr.replace("│", "").split()
    )
    assert "no such file" in call("segment", "missing.jpg", code=2).stderr


@pytest.fixture
def task(tiny_detector):
    return "segmentation" if tiny_detector.endswith("segmentation") else "detection"


def test_scores_and_predictions(tiny_detector, detection_data, tmp_path, task):
    file = tmp_path / "predictions.jsonl"
    options = ["--model", tiny_detector, "--data", detection_data, "--json", "--predictions", file, "--common", 1]
    result = json.loads(call("evaluate", task, *options, "--split", "val", "--batch-size", 1).stdout)
    assert (result["task"], result["split"], result["num_images"]) == (task, "val", 2)
    assert {"box_ap50", "box_ap50_common", "recall36"} <= set(result["metrics"])
    assert ("mask_ap50" in result["metrics"]) == (task == "segmentation")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["image"] for line in lines] == ["4.png", "5.png"]
    assert all(("mask" in found) == (task == "segmentation") for line in lines for found in line["objects"])
    output = call("evaluate", task, "--model", tiny_detector, "--data", detection_data).stdout
    assert "box AP50" in output and "num images 6" in output


def test_classes_must_be_those_of_the_model(tiny_detector, detection_data, tmp_path, task):
    document = json.loads((detection_data / "annotations.json").read_text())
    document["categories"][0]["name"] = "ball"
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    (tmp_path / "images").symlink_to(detection_data / "images")
    error = call("evaluate", task, "--model", tiny_detector, "--data", tmp_path, code=2).stderr
    assert "'ball'" in error
