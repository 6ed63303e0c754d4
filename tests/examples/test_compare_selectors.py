# SPDX-License-Identifier: Apache-2.0
import runpy
import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file


EXAMPLE = Path(__file__).parents[2] / "examples" / "compare_selectors.py"


def compare(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, options)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_rows_are_trained_once_and_measured(caption_data, tmp_path, monkeypatch, capsys):
    weights, runs = tmp_path / "weights.safetensors", tmp_path / "runs"
    save_file(timm.create_model("test_efficientnet").state_dict(), weights)
    options = ["--data", caption_data, "--output_dir", runs, "--backbone_weights", weights, "--rows", "grid"]
    options += ["--seeds", "0", "1", "--", "--backbone", "test_efficientnet", "--image_size", "64", "--epochs", "1"]
    options += ["--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"]
    options += ["--min_frequency", "1", "--batch_size", "2", "--num_beams", "1", "--max_new_tokens", "3"]
    compare(monkeypatch, *options)
    table = capsys.readouterr().out
    assert "CIDEr" in table and "decoder ms" in table
    assert sorted(path.name for path in runs.iterdir()) == ["grid-0", "grid-1", "regions-grid"]
    written = (runs / "grid-1" / "metrics.jsonl").read_bytes()

    compare(monkeypatch, *options)
    assert (runs / "grid-1" / "metrics.jsonl").read_bytes() == written  # complete runs are not done again


def test_rows_that_there_are_not_are_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        compare(monkeypatch, "--data", "none", "--output_dir", tmp_path, "--rows", "rpn, 36")  # wants a detector
    assert "--rows: unknown ['rpn, 36'], expected some of ['grid', 'saliency, 36']" in capsys.readouterr().err
