# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from butd_hf.commands import app
from butd_hf.metrics import CaptionMetrics


runner = CliRunner()


@pytest.fixture
def data(tmp_path):
    """A captions folder: two images to train on, three to evaluate on."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(5):
        name = f"{number}.png"
        Image.new("RGB", (40 + 8 * number, 48), (50 * number, 80, 200)).save(folder / "images" / name)
        captions = [f"a dog runs on grass {number}", "two dogs play in the water"]
        lines.append({"image": name, "split": "train" if number < 2 else "dev", "captions": captions})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluate(*arguments, code=0):
    result = runner.invoke(app, ["evaluate", "captioning", "--no-meteor", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_json_has_the_scores_of_the_predictions(tiny_checkpoint, data, tmp_path):
    file = tmp_path / "said" / "predictions.jsonl"
    options = ["--data", data, "--split", "dev", "--json", "--predictions", file, "--batch-size", 2]
    result = json.loads(evaluate("--model", tiny_checkpoint, *options).stdout)
    assert (result["split"], result["num_images"], result["model"]) == ("dev", 3, str(tiny_checkpoint))

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["image"] for line in lines] == ["2.png", "3.png", "4.png"]
    assert lines[0]["references"] == ["a dog runs on grass 2", "two dogs play in the water"]
    scores = CaptionMetrics().compute([line["caption"] for line in lines], [line["references"] for line in lines])
    assert result["metrics"] == pytest.approx(scores, abs=1e-3)
    assert list(file.parent.iterdir()) == [file]


def test_table(tiny_checkpoint, data):
    result = evaluate("--model", tiny_checkpoint, "--data", data, "--num-beams", 1, "--max-new-tokens", 4)
    assert "BLEU-4" in result.stdout and "CIDEr-D" in result.stdout
    assert "num images 5" in result.stdout and "num beams 1" in result.stdout


def test_unreadable_picture_is_named_and_the_rest_is_scored(tiny_checkpoint, data):
    (data / "images" / "3.png").write_bytes(b"nothing")
    result = evaluate("--model", tiny_checkpoint, "--data", data, "--json", "--max-new-tokens", 4, code=1)
    assert "3.png" in result.stderr
    assert json.loads(result.stdout)["num_images"] == 4


def test_unknown_split_lists_those_there_are(data):
    error = evaluate("--data", data, "--split", "val", code=2).stderr
    assert "'dev'" in error and "'train'" in error


def test_data_must_be_there(tmp_path):
    assert "captions" in evaluate("--data", tmp_path / "nothing", code=2).stderr
    assert "--data" in evaluate(code=2).stderr
