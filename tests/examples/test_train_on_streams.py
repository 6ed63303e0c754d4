# SPDX-License-Identifier: Apache-2.0
"""Captioners trained on shards: what they learn from, how often they fall over, and that they go on all the same."""

import io
import json
import runpy
import signal
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from butd_hf.training.checkpoints import latest_state


HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "train_captioning.py"
TRAIN = runpy.run_path(str(HERE / "runs_in_a_row.py"))["train"]
MODEL = [
    *("--backbone", "test_efficientnet", "--image_size", "64", "--num_regions", "8", "--min_frequency", "1"),
    *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
]
SHORT = [
    *("--captions_per_image", "2", "--max_new_tokens", "4", "--num_beams", "1", "--num_workers", "0"),
    *("--num_threads", "1", "--logging_steps", "1", "--learning_rate", "0.01", "--metric_for_best", "loss"),
    *("--batch_size", "1", "--epochs", "2", "--shuffle_buffer", "3", "--checkpoint_steps", "1"),
    *("--dropout", "0.1", "--evaluate_every", "2"),
]


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(caption_data, tmp_path_factory):
    """Two shards of three pictures with captions, of which the second is broken."""
    folder = tmp_path_factory.mktemp("shards")
    lines = [json.loads(line) for line in (caption_data / "captions.jsonl").read_text().splitlines()]
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard}.tar", "w") as archive:
            for number in range(3 * shard, 3 * shard + 3):
                picture = (caption_data / "images" / f"{number}.png").read_bytes()
                add(archive, f"{number:03d}.png", b"nothing" if number == 1 else picture)
                add(archive, f"{number:03d}.json", json.dumps({"captions": lines[number]["captions"]}).encode())
    return folder


def options_of(shards, table, folder):
    """Three quarters of shards, a quarter of a table, in two epochs of two steps."""
    mixture = ["--data", shards, table, "--data_weights", 3, 1, "--eval_data", table, "--steps_per_epoch", 2]
    return list(map(str, [*mixture, *MODEL, *SHORT, "--output_dir", folder]))


def test_two_killed_processes_go_on_with_their_streams(shards, caption_data, tmp_path, fork):
    """They share shards with a broken picture and a table, and end up with the weights of a run that nobody killed."""

    def codes(rows):
        """Exit codes of two processes that train as the rows say."""
        copies = fork(2, tmp_path / "log.txt", TRAIN, rows)
        for copy in copies:
            copy.join(300)
        return [copy.exitcode for copy in copies]

    whole, killed = (options_of(shards, caption_data, tmp_path / name) for name in ("whole", "killed"))
    # in the save after the first step of the second epoch
    died = codes([[None, *whole], [4, *killed]])
    assert died[0] == -signal.SIGKILL and died[1] != 0, (tmp_path / "log.txt").read_text()
    assert latest_state(tmp_path / "killed" / "last").name == "step-000000002"
    assert codes([[None, *killed, "--resume"]]) == [0, 0], (tmp_path / "log.txt").read_text()

    states = [latest_state(tmp_path / name / "last") for name in ("whole", "killed")]
    assert [state.name for state in states] == ["step-000000004"] * 2
    places = [torch.load(state / "custom_checkpoint_2.pkl") for state in states]
    assert places[0] == places[1] and len(places[0]["processes"]) == 2
    expected, found = (torch.load(state / "pytorch_model.bin") for state in states)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    settings = json.loads((tmp_path / "whole" / "arguments.json").read_text())["task"]
    assert settings["learned_from"] == "a stream of images with captions"
    card = (tmp_path / "whole" / "best" / "README.md").read_text()
    assert f"{shards.name}, {caption_data.name}" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--eval_data must name captions to score"),
        (["--eval_data", "captions.json", "--self_critical"], "--self_critical goes through all images before"),
        (["--eval_data", "captions.json", "--freeze", "all", "--cache", "cache"], "--cache goes through all images"),
        (["--data", "one.json", "other.json", "--images", "images"], "--images is the folder of one --data, got 2"),
    ],
)
def test_what_streams_cannot_do_is_said(shards, monkeypatch, options, message):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--data", str(shards), "--output_dir", "run", *options])
    with pytest.raises(ValueError, match=message):
        runpy.run_path(str(EXAMPLE), run_name="__main__")
