# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image

from butd_hf.training.arguments import LoopArguments
from butd_hf.training.curves import draw_curves, series_of
from butd_hf.training.loop import build_accelerator
from butd_hf.training.run_folder import RunFolder
from butd_hf.training.trackers import flat, wandb_id


def test_curves_are_drawn_from_whole_lines_and_finite_numbers(tmp_path):
    lines = [{"event": "training", "step": step, "loss": 1 / step, "learning_rate": 0.1} for step in (1, 2, 3)]
    lines += [{"event": "evaluation", "epoch": 1, "step": 3, "loss": 0.5, "cider": 0.7, "bleu_4": "nan"}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"event": "training", "st'
    (tmp_path / "metrics.jsonl").write_text(text)
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", "cider")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1260, 280)  # three panels: loss, learning rate, CIDEr
        assert len(picture.convert("RGB").getcolors(1 << 16)) > 10
    assert series_of(lines, "training")["loss"] == ([1, 2, 3], [1, 0.5, 1 / 3])
    assert set(series_of(lines, "evaluation")) == {"loss", "cider"}
    draw_curves(tmp_path / "none.jsonl", tmp_path / "empty.png")  # nothing happened yet
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "empty.png", "metrics.jsonl"]


def test_an_evaluation_done_again_is_logged_once(tmp_path):
    folder = RunFolder(tmp_path)
    for event, epoch, step in (("training", 0.5, 3), ("evaluation", 1, 6), ("training", 1.5, 6), ("evaluation", 2, 9)):
        folder.log(event, epoch=epoch, step=step)
    folder.forget_after(6, evaluations=0)  # saved at step 6, killed after the evaluation there
    kept = map(json.loads, folder.metrics_file.read_text().splitlines())
    assert [line["event"] for line in kept] == ["training", "training"]


def test_trackers_that_are_not_there_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"report_to must be some of .*tensorboard.*, got 'paper'"):
        build_accelerator(LoopArguments(str(tmp_path), report_to=["paper"]))
    monkeypatch.setattr("butd_hf.training.trackers.get_available_trackers", list)
    with pytest.raises(ImportError, match="pip install wandb"):
        build_accelerator(LoopArguments(str(tmp_path), report_to=["wandb"]))


def test_trackers_get_flat_settings_and_one_id(tmp_path):
    settings = {"loop": {"epochs": 3, "augment": ["flip"], "init_from": None}, "seed": 0}
    assert flat(settings) == {"loop.epochs": 3, "loop.augment": "['flip']", "loop.init_from": "None", "seed": 0}
    assert wandb_id(tmp_path / "one") == wandb_id(tmp_path / "one") != wandb_id(tmp_path / "two")
