# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from butd_hf.cli import app
from butd_hf.modeling.modeling_butd import ButdForConditionalGeneration
from butd_hf.modeling.processing_butd import ButdProcessor


EXAMPLE = Path(__file__).parents[2] / "examples" / "train_captioning.py"

TINY = [
    *("--backbone", "test_efficientnet", "--image_size", "64", "--num_regions", "8"),
    *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
]
SHORT = [
    *("--min_frequency", "1", "--captions_per_image", "2", "--max_new_tokens", "4", "--num_beams", "2"),
    *("--batch_size", "2", "--epochs", "1", "--num_workers", "0", "--num_threads", "1", "--logging_steps", "1"),
]


@pytest.fixture(scope="module")
def first_run(caption_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        run_here(patch, "--data", caption_data, "--output_dir", folder, *TINY, *SHORT)
    return folder


def run_here(monkeypatch, *options):
    """The example in this process, which has imported everything already."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def test_a_run_leaves_a_model_that_captions(first_run, caption_data):
    assert len(events(first_run, "training")) == 2
    assert {"cider", "bleu_4", "rouge_l", "loss"} <= set(events(first_run, "evaluation")[0])
    lines = (first_run / "predictions" / "epoch-001.jsonl").read_text().splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [line["image_id"] for line in predictions] == ["4.png", "5.png"]
    assert json.loads((first_run / "arguments.json").read_text())["task"]["backbone"] == "test_efficientnet"

    model = ButdForConditionalGeneration.from_pretrained(first_run / "best").eval()
    processor = ButdProcessor.from_pretrained(first_run / "best")
    inputs = processor(images=[caption_data / "images" / "4.png"], return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (64, 64)
    with torch.no_grad():
        caption = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0].strip()
    assert caption == predictions[0]["prediction"]  # inference sees what the evaluation saw


def test_a_run_leaves_a_card_and_can_be_pushed(first_run, caption_data, tmp_path):
    text = (first_run / "best" / "README.md").read_text()
    assert "4 images with 12 captions" in text and "scored by the run after epoch 1" in text
    assert "--epochs 1" in text and "| CIDEr-D |" in text and str(caption_data.parent) not in text
    out = tmp_path / "out"
    options = [str(first_run / "best"), "someone/captioner", "--dry-run", "--out", str(out)]
    result = CliRunner().invoke(app, ["push", *options])
    assert result.exit_code == 0, result.output
    assert (out / "README.md").read_text() == text and not (out / "complete.json").exists()


def test_resuming_goes_on_where_the_run_ended(first_run, caption_data, monkeypatch):
    run_here(monkeypatch, "--data", caption_data, "--output_dir", first_run, *TINY, *SHORT, "--epochs", 2, "--resume")
    assert [line["epoch"] for line in events(first_run, "evaluation")] == [1, 2]
    assert [line["step"] for line in events(first_run, "training")] == [1, 2, 3, 4]


def test_a_frozen_backbone_with_stored_regions(first_run, caption_data, tmp_path, monkeypatch):
    """Starts from another run, so that evaluations agree: stored regions are those of the pictures."""
    options = ["--data", caption_data, *SHORT, "--init_from", first_run / "best"]
    options += ["--learning_rate", "0", "--freeze", "all"]
    run_here(monkeypatch, *options, "--output_dir", tmp_path / "pictures")
    cached = [*options, "--cache", tmp_path / "cache", "--cache_dtype", "float32", "--augment", "flip", "crop"]
    run_here(monkeypatch, *cached, "--output_dir", tmp_path / "stored")
    pictures, stored = (events(tmp_path / name, "evaluation")[0] for name in ("pictures", "stored"))
    assert stored["loss"] == pytest.approx(pictures["loss"], rel=1e-4)
    assert (tmp_path / "cache" / "train" / "store.json").is_file()

    before = ButdForConditionalGeneration.from_pretrained(first_run / "best").state_dict()
    after = ButdForConditionalGeneration.from_pretrained(tmp_path / "stored" / "best").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_stored_stages_of_a_backbone_that_learns(first_run, caption_data, tmp_path, monkeypatch):
    """Its last stages learn from what the first ones computed once; without learning, it is what it was."""
    options = ["--data", caption_data, *SHORT, "--init_from", first_run / "best", "--freeze", 2, "--freeze_depthwise"]
    cached = [*options, "--cache", tmp_path / "cache", "--cache_dtype", "float32", "--augment", "flip", "crop"]
    run_here(monkeypatch, *options, "--output_dir", tmp_path / "pictures", "--learning_rate", "0")
    run_here(monkeypatch, *cached, "--output_dir", tmp_path / "stored", "--learning_rate", "0")
    pictures, stored = (events(tmp_path / name, "evaluation")[0] for name in ("pictures", "stored"))
    assert stored["loss"] == pytest.approx(pictures["loss"], rel=1e-4)

    run_here(monkeypatch, *cached, "--output_dir", tmp_path / "learned", "--learning_rate", "0.1")
    before = ButdForConditionalGeneration.from_pretrained(first_run / "best").state_dict()
    after = ButdForConditionalGeneration.from_pretrained(tmp_path / "learned" / "best").state_dict()
    backbone = "model.bottom_up.backbone._backbone."
    changed = {name.removeprefix(backbone) for name in before if not torch.equal(before[name], after[name])}
    assert "blocks.4.0.conv_pw.weight" in changed
    assert not any(name.startswith(("conv_stem", "blocks.0", "blocks.1")) for name in changed)


@pytest.mark.parametrize("decoder", ["lstm", "gru"])
def test_every_decoder_is_trained_alike(caption_data, tmp_path, monkeypatch, decoder):
    options = ["--data", caption_data, "--output_dir", tmp_path / "run", *TINY, *SHORT, "--decoder", decoder]
    run_here(monkeypatch, *options, "--attention_size", 8, "--freeze", "all", "--cache", tmp_path / "cache")
    assert len(events(tmp_path / "run", "training")) == 2
    model = ButdForConditionalGeneration.from_pretrained(tmp_path / "run" / "best")
    assert model.config.top_down_config.decoder == decoder
    run_here(
        monkeypatch, "--data", caption_data, "--output_dir", tmp_path / "critical", *SHORT, "--self_critical",
        "--init_from", tmp_path / "run" / "best", "--num_samples", 2,
    )  # fmt: skip
    assert "cider" in events(tmp_path / "critical", "evaluation")[0]


def test_impossible_options_are_refused(caption_data, tmp_path, monkeypatch):
    options = ["--data", caption_data, "--output_dir", tmp_path / "run", *TINY, *SHORT]
    with pytest.raises(ValueError, match="--cache needs frozen stages"):
        run_here(monkeypatch, *options, "--cache", tmp_path / "cache")
    with pytest.raises(ValueError, match="--freeze must be"):
        run_here(monkeypatch, *options, "--freeze", "some")
    with pytest.raises(ValueError, match="no split 'holdout'"):
        run_here(monkeypatch, *options, "--eval_split", "holdout")
