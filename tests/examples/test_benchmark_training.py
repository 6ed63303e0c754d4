# SPDX-License-Identifier: Apache-2.0
import runpy
from pathlib import Path

import pytest

from butd_hf.metrics import CiderD


EXAMPLE = Path(__file__).parents[2] / "examples" / "benchmark_training.py"


def test_rewards_of_both_scorers_are_timed():
    example = runpy.run_path(str(EXAMPLE))
    speeds = example["time_rewards"](example["BenchmarkArguments"](images=4, samples=2, rounds=2))
    assert set(speeds) == {"butd_hf", "butd_hf, images seen before", "pycocoevalcap"}
    assert all(speed > 0 for speed in speeds.values())


def test_what_is_timed_gives_the_same_rewards():
    """Where both count the same documents."""
    example = runpy.run_path(str(EXAMPLE))
    references = example["references_of"](example["BenchmarkArguments"]())[:20]
    said = [captions[0][: len(captions[0]) // 2] for captions in references]
    theirs = example["CiderScorer"](n=4, sigma=6.0)
    for caption, captions in zip(said, references, strict=True):
        theirs += (caption, captions)
    _, scores = theirs.compute_score()
    assert CiderD(references).score(said).tolist() == pytest.approx(scores.tolist(), abs=1e-6)
