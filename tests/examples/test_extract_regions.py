import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from butd_hf.commands import app


EXAMPLE = Path(__file__).parents[2] / "examples" / "extract_regions.py"
SECONDS = 300


@pytest.fixture
def photos(tmp_path):
    """Sixty small pictures of two shapes."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(60):
        shape = (40, 64, 3) if index % 3 else (64, 40, 3)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index:02d}.png")
    return tmp_path / "photos"


def launch(folder, options):
    """The example in two processes."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    log = open(folder / "log.txt", "a")  # noqa: SIM115, the process writes to it
    return subprocess.Popen(
        [*command, str(EXAMPLE), *map(str, options)], stdout=log, stderr=log, env=environment, cwd=folder
    )


def kill(process):
    """Kills a process with all that it started, without warning."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=60)
    process.wait(60)


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_two_killed_processes_give_the_bytes_that_one_gives(photos, tiny_checkpoint, tmp_path):
    options = ["--model", tiny_checkpoint, "--shard-size", 2, "--batch-size", 2, "--device", "cpu"]
    shards = tmp_path / "two.unfinished"
    process = launch(tmp_path, [photos, "--out", tmp_path / "two", *options])
    deadline = time.monotonic() + SECONDS
    while len(list(shards.glob("regions-*.arrow"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log.txt").read_text()
        time.sleep(0.005)
    kill(process)
    assert not (tmp_path / "two").exists()
    done = {file.name: file.stat().st_mtime_ns for file in shards.glob("reports/*.json")}
    assert len(done) < 30

    one = CliRunner().invoke(app, list(map(str, ["extract", photos, "--out", tmp_path / "one", *options])))
    assert one.exit_code == 0, one.output
    process = launch(tmp_path, [photos, "--out", tmp_path / "two", *options])
    assert process.wait(SECONDS) == 0, (tmp_path / "log.txt").read_text()
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert len(content(tmp_path / "two")) == 30 + 2  # shards, index and description
    for name, written in done.items():
        shard = tmp_path / "two" / name.removesuffix(".json")
        assert shard.stat().st_mtime_ns <= written  # not written a second time
    log = (tmp_path / "log.txt").read_text()
    assert log.count("regions of 60 pictures") == 1  # said by one of them
