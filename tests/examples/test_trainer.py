# SPDX-License-Identifier: Apache-2.0
"""transformers' own trainers, on every task model."""

import io
import json
import runpy
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import butd_hf


EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("trainer_*.py"))
SHORT = ["--max_steps", "2", "--use_cpu", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "True"]
SHORT += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--logging_steps", "1"]


def run(monkeypatch, example, *options) -> dict[str, float]:
    """An example in this process; returns what it prints."""
    monkeypatch.setattr(sys, "argv", [example, *map(str, options), *SHORT])
    return runpy.run_path(str(EXAMPLES / example))["main"]()


def code_lines(file: Path) -> int:
    """Lines that hold code: neither blank, nor comments or docstrings alone."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines, fresh = set(), True
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if not (token.type in nothing or (fresh and token.type == tokenize.STRING)):
            lines.update(range(token.start[0], token.end[0] + 1))
        fresh = token.type in nothing
    return len(lines)


def changed(before: str, after: Path, model_class) -> set[str]:
    """Names of the weights that differ between two checkpoints."""
    old, new = (model_class.from_pretrained(folder).state_dict() for folder in (before, after))
    return {name for name in old if old[name].shape == new[name].shape and not torch.equal(old[name], new[name])}


def write_lines(folder: Path, name: str, lines: list[dict]) -> Path:
    """Three noisy pictures, `0.png` to `2.png`, and JSON Lines about them."""
    (folder / "images").mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_an_example_has_fewer_than_forty_lines_of_code(file):
    assert 0 < code_lines(file) < 40


def test_captioning(tiny_checkpoint, tmp_path, monkeypatch):
    captions = ["a brown dog runs", "a dog on the grass"]
    lines = [
        {"image": f"{index}.png", "split": ("train", "train", "dev")[index], "captions": captions}
        for index in range(3)
    ]
    data = write_lines(tmp_path, "captions.jsonl", lines)
    metrics = run(
        monkeypatch,
        "trainer_captioning.py",
        "--data",
        data,
        "--model",
        tiny_checkpoint,
        "--output_dir",
        tmp_path / "run",
    )
    assert metrics["eval_loss"] > 0 and {"eval_cider", "eval_bleu_4"} <= set(metrics)
    weights = changed(tiny_checkpoint, tmp_path / "run", butd_hf.ButdForConditionalGeneration)
    assert "lm_head.weight" in weights and any(name.startswith("model.bottom_up.backbone") for name in weights)
    processor = butd_hf.ButdProcessor.from_pretrained(tmp_path / "run")
    assert (
        processor.image_processor.size == butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint).image_processor.size
    )


def test_question_answering(tiny_oracle, tmp_path, monkeypatch):
    lines = [
        {
            "image": f"{index}.png",
            "question": "what is it",
            "answers": [("a dog", "grass", "a dog")[index]],
            "split": ("train", "train", "val")[index],
        }
        for index in range(3)
    ]
    data = write_lines(tmp_path, "qa.jsonl", lines)
    metrics = run(
        monkeypatch, "trainer_vqa.py", "--data", data, "--model", tiny_oracle, "--output_dir", tmp_path / "run"
    )
    assert metrics["eval_exact_match"] in (0.0, 100.0) and metrics["eval_loss"] > 0
    model = butd_hf.ButdForQuestionAnswering.from_pretrained(tmp_path / "run")
    assert set(model.config.label2id) == {"dog", "grass"}


def test_detection_and_segmentation(tiny_detector, detection_data, tmp_path, monkeypatch):
    kind = Path(tiny_detector).name
    model_class = butd_hf.ButdForInstanceSegmentation if kind == "segmentation" else butd_hf.ButdForObjectDetection
    metrics = run(
        monkeypatch, f"trainer_{kind}.py", "--data", detection_data, "--model", tiny_detector, "--output_dir", tmp_path
    )
    prefix = "mask" if kind == "segmentation" else "box"
    assert 0 <= metrics[f"eval_{prefix}_ap50"] <= 100 and metrics["eval_loss"] > 0
    weights = changed(tiny_detector, tmp_path, model_class)
    assert any(name.startswith("bottom_up.backbone") for name in weights)
    assert any(name.startswith("mask_head") for name in weights) == (kind == "segmentation")


def test_scene_graphs(tiny_grapher, tmp_path, monkeypatch):
    rows = [
        {
            "split": ("train", "train", "val")[index],
            "objects": [{"label": "square", "bbox": [0, 0, 10, 10]}, {"label": "dog", "bbox": [5, 5 + index, 20, 20]}],
            "relations": [{"subject": 0, "predicate": "on", "object": 1}],
        }
        for index in range(3)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    config = butd_hf.ButdConfig.from_pretrained(tiny_grapher)
    config.relation_appearance = False
    butd_hf.ButdForSceneGraphGeneration(config).save_pretrained(tmp_path / "model")
    data = ["--data", tmp_path / "annotations.json", "--model", tmp_path / "model", "--output_dir", tmp_path / "run"]
    metrics = run(monkeypatch, "trainer_scene_graph.py", *data)
    assert metrics["eval_loss"] > 0
    weights = changed(tmp_path / "model", tmp_path / "run", butd_hf.ButdForSceneGraphGeneration)
    assert any(name.startswith("top_down") for name in weights)
