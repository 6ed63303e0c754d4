# SPDX-License-Identifier: Apache-2.0
import json
import logging
import sys
from types import SimpleNamespace

import pytest
from accelerate import Accelerator

from butd_hf.training.arguments import LoopArguments
from butd_hf.training.journal import Journal
from butd_hf.training.run_folder import RunFolder


class Tracker:
    """A stand-in of codecarbon's: each measurement finds another half kilogram."""

    def __init__(self, **settings):
        assert settings["save_to_file"] is False
        self.kilograms = None

    def start(self):
        self.kilograms = 0.0

    def flush(self):
        self.kilograms += 0.5
        return self.kilograms

    stop = flush


class Broken(Tracker):
    def flush(self):
        raise OSError("no sensor")


@pytest.fixture
def sit(tmp_path, monkeypatch):
    """A sitting of a run: two training lines, an evaluation and, unless it is killed, an end."""

    def sitting(tracker, *, is_killed=False):
        module = None if tracker is None else SimpleNamespace(OfflineEmissionsTracker=tracker)
        monkeypatch.setitem(sys.modules, "codecarbon", module)
        journal = Journal(RunFolder(tmp_path), Accelerator(cpu=True))
        journal.start(LoopArguments(str(tmp_path)), {}, step=0)
        for event in ("training", "training", "evaluation"):  # only the last wants to know how it is now
            journal.log(event, epoch=1, step=1, loss=0.5)
        if not is_killed:
            journal.end()
        file = tmp_path / "emissions.json"
        return json.loads(file.read_text())["kilograms_of_co2_equivalents"] if file.is_file() else None

    return sitting


def test_sittings_add_up(sit):
    assert sit(Tracker, is_killed=True) == 0.5
    assert sit(Tracker) == 0.5 + 1.0
    assert sit(Tracker) == 1.5 + 1.0


def test_without_codecarbon_nothing_happens(sit):
    assert sit(None) is None


def test_a_tracker_that_fails_ends_the_estimate_alone(sit, caplog):
    assert sit(Tracker) == 1.0
    with caplog.at_level(logging.WARNING):
        assert sit(Broken) == 1.0
    assert "no sensor" in caplog.text and len(caplog.records) == 1
