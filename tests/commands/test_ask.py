# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

import butd_hf
from butd_hf.commands import app


runner = CliRunner()


def ask(*arguments, code=0):
    result = runner.invoke(app, ["ask", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_help_and_wrong_usage(tmp_path):
    assert "ask" in runner.invoke(app, ["--help"]).output
    assert "--top-k" in ask("--help").output
    assert ask("photo.jpg", code=2)
    assert "no such file" in ask("missing.jpg", "what is it", code=2).stderr


def test_json_is_what_the_pipeline_says(tiny_oracle, image_paths):
    result = ask(image_paths[0], "what is it", "--model", tiny_oracle, "--json", "--top-k", 2)
    (entry,) = json.loads(result.stdout)
    assert entry["image"] == image_paths[0] and entry["question"] == "what is it"
    from transformers import pipeline

    said = pipeline("vqa", model=tiny_oracle, device="cpu")(image_paths[0], "what is it", top_k=2)
    assert [each["answer"] for each in entry["answers"]] == [each["answer"] for each in said]
    assert [each["score"] for each in entry["answers"]] == pytest.approx([each["score"] for each in said], abs=1e-4)


def test_table_and_drawing(tiny_oracle, image_paths, tmp_path):
    figure = tmp_path / "figure.png"
    output = ask(image_paths[0], "what is it", "--model", tiny_oracle, "--draw", figure, "--top-k", 3).stdout
    assert "what is it" in output
    assert sum(line.rstrip().endswith("%") for line in output.splitlines()) == 3
    with Image.open(figure) as drawn:
        assert drawn.width > 600


def test_folder_with_an_unreadable_picture(tiny_oracle, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    result = ask(tmp_path, "what is it", "--model", tiny_oracle, "--json", "--top-k", 1, code=1)
    first, second = json.loads(result.stdout)
    assert len(first["answers"]) == 1
    assert "cannot read" in second["error"] and "b.jpg" in result.stderr


def test_models_that_cannot_answer_are_refused(tiny_checkpoint, image_paths, tmp_path, tiny_tokenizer):
    refusal = ask(image_paths[0], "what is it", "--model", tiny_checkpoint, code=2).stderr
    assert "ButdForConditionalGeneration" in refusal
    config = butd_hf.ButdConfig(
        bottom_up_config={"selector": "given", "region_size": 8},
        top_down_config={"hidden_size": 32, "vocab_size": 60, "num_hidden_layers": 1},
    )
    butd_hf.ButdForQuestionAnswering(config).save_pretrained(tmp_path)
    butd_hf.ButdProcessor(butd_hf.ButdImageProcessor(), tiny_tokenizer).save_pretrained(tmp_path)
    assert "sees no pictures" in ask(image_paths[0], "what is it", "--model", tmp_path, code=2).stderr
