# SPDX-License-Identifier: Apache-2.0
"""Captioners trained by one and by two processes, some of them killed: what is left, and what comes of it."""

import json
import runpy
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from butd_hf.training.checkpoints import latest_state


ROWS = Path(__file__).with_name("runs_in_a_row.py")
TRAIN = runpy.run_path(str(ROWS))["train"]
MODEL = [
    *("--backbone", "test_efficientnet", "--image_size", "64", "--num_regions", "8", "--min_frequency", "1"),
    *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
]
SHORT = [
    *("--captions_per_image", "2", "--max_new_tokens", "4", "--num_beams", "1", "--num_workers", "0"),
    *("--num_threads", "1", "--logging_steps", "1", "--learning_rate", "0.01", "--metric_for_best", "loss"),
]
# all that a resumed run could get wrong: dropout, drawn captions and views, averages, the best so far, patience
EVENTFUL = ["--augment", "flip", "crop", "--ema_decay", "0.9", "--early_stopping_patience", "3", "--epochs", "3"]
EVENTFUL += ["--checkpoint_steps", "1", "--dropout", "0.1", "--region_dropout", "0.2"]
CALM = ["--augment", "none", "--dropout", "0", "--attention_dropout", "0", "--region_dropout", "0", "--epochs", "2"]
KILLED_AT = {1: 7, 2: 5}  # by processes: the save after the first step of the second epoch


@pytest.fixture(scope="module")
def options(caption_data, tmp_path_factory):
    """What all runs share: four images to learn from and three to score, with captions of different lengths."""
    file = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    captions = [["a red picture", "all red and nothing but red on every side of it"], ["green"], ["blue", "very blue"]]
    lines = [
        {"image": f"{index % 6}.png", "image_id": str(index), "captions": captions[index % 3]} for index in range(7)
    ]
    for index, line in enumerate(lines):
        line["split"] = "train" if index < 4 else "dev"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["--data", str(file), "--images", str(caption_data / "images"), *MODEL, *SHORT]


def train_here(options, folder, *own):
    """A run of one process: this one."""
    before = sys.argv
    try:
        TRAIN([[None, *options, "--output_dir", str(folder), *own]])
    finally:
        sys.argv = before


def end(copies):
    """Waits until processes end; returns their exit codes."""
    for copy in copies:
        copy.join(300)
    return [copy.exitcode for copy in copies]


@pytest.fixture(scope="module")
def runs(options, fork, tmp_path_factory):
    """A folder of runs, `whole` and `killed` with one and with two processes, `shared` by two and `alone`; what died
    said."""
    folder = tmp_path_factory.mktemp("runs")
    common = [*options, *EVENTFUL, "--batch_size", "1"]
    calm = [*options, *CALM, "--output_dir"]
    log = folder / "log.txt"
    rows = [
        [None, *calm, str(folder / "shared"), "--batch_size", "1"],
        [None, *common, "--output_dir", str(folder / "whole2")],
        [KILLED_AT[2], *common, "--output_dir", str(folder / "killed2")],
    ]
    assert end(fork(2, log, TRAIN, rows)) == [-signal.SIGKILL, 1], log.read_text()
    said = log.read_text()
    rows = [[KILLED_AT[1], *common, "--output_dir", str(folder / "killed1")]]
    assert end(fork(1, log, TRAIN, rows)) == [-signal.SIGKILL], log.read_text()
    train_here(common, folder / "whole1")
    train_here([*options, *CALM, "--batch_size", "2"], folder / "alone")
    return folder, said


def lines_of(folder, event):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_resumes_to_the_same_weights(runs, options, fork, processes):
    folder, _ = runs
    killed, whole = folder / f"killed{processes}", folder / f"whole{processes}"
    unfinished = sorted(each.name for each in (killed / "last").iterdir())
    step = {1: 5, 2: 3}[processes]
    assert unfinished == [f"step-{step:09d}", f"step-{step + 1:09d}.unfinished"]  # it died while it wrote
    assert latest_state(killed / "last").name == unfinished[0]

    again = [*options, *EVENTFUL, "--batch_size", "1", "--output_dir", str(killed), "--resume"]
    log = folder / f"again{processes}.txt"
    assert end(fork(processes, log, TRAIN, [[None, *again]])) == [0] * processes, log.read_text()
    states = [latest_state(each / "last") for each in (killed, whole)]
    assert states[0].name == states[1].name == f"step-{12 // processes:09d}"
    models, averages = (
        [torch.load(state / name) for state in states] for name in ("pytorch_model.bin", "custom_checkpoint_2.pkl")
    )
    for resumed, uninterrupted in (
        models,
        averages,
        [load_file(each / "best" / "model.safetensors") for each in (killed, whole)],
    ):
        for name, weight in uninterrupted.items():
            assert torch.equal(torch.as_tensor(resumed[name]), torch.as_tensor(weight)), name
    evaluations = [[line["loss"] for line in lines_of(each, "evaluation")] for each in (killed, whole)]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 3


def test_who_is_left_says_what_to_do(runs):
    _, said = runs
    words = " ".join(said.split())
    assert "Another process of this run has died" in words
    assert "step-000000003: the same command with --resume goes on from there" in words


def test_two_processes_learn_what_one_learns(runs):
    folder, _ = runs
    alone, shared = ([line["loss"] for line in lines_of(folder / name, "training")] for name in ("alone", "shared"))
    assert len(alone) == 4 and alone == pytest.approx(shared, rel=1e-5)
    alone, shared = (lines_of(folder / name, "evaluation") for name in ("alone", "shared"))
    assert len(alone) == len(shared) == 2  # written once
    for first, second in zip(alone, shared, strict=True):
        scores = {name: value for name, value in first.items() if name not in ("time", "event", "seconds")}
        assert {name: second[name] for name in scores} == pytest.approx(scores, rel=1e-5)
    predictions = [
        json.loads(line) for line in (folder / "shared/predictions/epoch-002.jsonl").read_text().splitlines()
    ]
    assert [line["image_id"] for line in predictions] == ["4", "5", "6"]  # each once
