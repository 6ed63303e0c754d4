# SPDX-License-Identifier: Apache-2.0
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


EXAMPLE = Path(__file__).parents[2] / "examples" / "extract_regions.py"
SECONDS = 300


@pytest.fixture
def photos(tmp_path):
    """Sixty small images of two shapes."""
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(60):
        shape = (40, 64, 3) if index % 3 else (64, 40, 3)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index:02d}.png")
    return tmp_path / "photos"


def extract(options):
    """The example."""
    sys.argv = [str(EXAMPLE), *map(str, options)]
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_two_killed_processes_give_the_bytes_that_one_gives(photos, tiny_checkpoint, tmp_path, fork):
    options = ["--model", tiny_checkpoint, "--shard-size", 2, "--batch-size", 2, "--device", "cpu"]
    shards = tmp_path / "two.unfinished"
    log = tmp_path / "log.txt"
    processes = fork(2, log, extract, [photos, "--out", tmp_path / "two", *options])
    deadline = time.monotonic() + SECONDS
    while len(list(shards.glob("regions-*.arrow"))) < 3:
        assert all(each.is_alive() for each in processes) and time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)
    for process in processes:
        process.kill()
    for process in processes:
        process.join(60)
    assert not (tmp_path / "two").exists()
    done = {file.name: file.stat().st_mtime_ns for file in shards.glob("reports/*.json")}
    assert len(done) < 30

    (one,) = fork(1, tmp_path / "one.txt", extract, [photos, "--out", tmp_path / "one", *options])
    one.join(SECONDS)
    assert one.exitcode == 0, (tmp_path / "one.txt").read_text()
    processes = fork(2, log, extract, [photos, "--out", tmp_path / "two", *options])
    for process in processes:
        process.join(SECONDS)
        assert process.exitcode == 0, log.read_text()
    assert content(tmp_path / "two") == content(tmp_path / "one")
    assert len(content(tmp_path / "two")) == 30 + 2  # shards, index and description
    for name, written in done.items():
        shard = tmp_path / "two" / name.removesuffix(".json")
        assert shard.stat().st_mtime_ns <= written  # not written a second time
    assert log.read_text().count("regions of 60 images") == 1  # said by one of them
