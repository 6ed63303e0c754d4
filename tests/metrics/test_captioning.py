# SPDX-License-Identifier: Apache-2.0
"""The table of scores, and the same behind the interface of the `evaluate` library."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from butd_hf.metrics import (
    CaptionMetrics,
    CiderD,
    MeteorUnavailableError,
    bleu,
    load,
    meteor,
    meteor_unavailable_reason,
    rouge_l,
    tokenize_captions,
)


PREDICTIONS = ["A dog runs.", "Two men on a street", ""]
REFERENCES = [
    ["A dog is running.", "The dog runs"],
    ["Two men stand on a street .", "Men, on the street!", "2 men"],
    ["A red ball."],
]
SCORES = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "cider_original", "degenerate_endings"}

WRONG_INPUTS = [
    ([], [], ValueError, "predictions is empty"),
    (["a"], [["a"], ["b"]], ValueError, "1 predictions and 2 lists of references"),
    (["a"], [[]], ValueError, r"references\[0\] is empty"),
    (["a", 3], [["a"], ["b"]], TypeError, r"predictions\[1\] must be a str, got int: 3"),
    (["a"], [["a", None]], TypeError, r"references\[0\]\[1\] must be a str, got NoneType"),
    (["a"], ["a"], TypeError, r"references\[0\] must be a list .*, got str: 'a'"),
    ("a", [["a"]], TypeError, "predictions must be a list .*, got str"),
    (["a"], None, TypeError, "references must be a list .*, got NoneType"),
]


@pytest.fixture
def metric(tmp_path: Path):
    return load(cache_dir=str(tmp_path))


def test_scores_are_on_the_scale_of_the_literature() -> None:
    scores = CaptionMetrics().compute(PREDICTIONS, REFERENCES)
    predictions, references = tokenize_captions(PREDICTIONS), [tokenize_captions(captions) for captions in REFERENCES]
    assert set(scores) == SCORES
    np.testing.assert_allclose(
        [scores[f"bleu_{order}"] for order in (1, 2, 3, 4)], 100 * bleu(predictions, references).corpus
    )
    assert scores["rouge_l"] == pytest.approx(100 * rouge_l(predictions, references).mean())
    assert scores["cider"] == pytest.approx(100 * CiderD(references).score(predictions).mean())
    assert all(type(score) is float for score in scores.values())


def test_tokens_can_be_given() -> None:
    predictions, references = tokenize_captions(PREDICTIONS), [tokenize_captions(captions) for captions in REFERENCES]
    expected = CaptionMetrics().compute(PREDICTIONS, REFERENCES)
    assert CaptionMetrics(tokenize=False).compute(predictions, references) == expected


def test_metric_computes_the_same_at_once_and_in_batches(metric) -> None:
    expected = CaptionMetrics().compute(PREDICTIONS, REFERENCES)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    assert metric.compute() == expected


def test_one_image_gives_numbers(metric) -> None:
    scores = metric.compute(predictions=["a dog runs"], references=[["a dog runs"]])
    assert all(math.isfinite(score) for score in scores.values())
    assert scores["rouge_l"] == pytest.approx(100)


@pytest.mark.parametrize(("predictions", "references", "error", "message"), WRONG_INPUTS)
def test_wrong_input_is_named(metric, predictions, references, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metric.compute(predictions=predictions, references=references)
    with pytest.raises(error, match=message):
        CaptionMetrics().compute(predictions, references)


def test_metric_is_usable_after_wrong_input(metric) -> None:
    with pytest.raises(ValueError, match="predictions is empty: give captions"):
        metric.compute()
    with pytest.raises(TypeError, match="prediction must be a str"):
        metric.add(prediction=None, reference=["a dog"])
    with pytest.raises(ValueError, match="reference is empty"):
        metric.add(prediction="a dog", reference=[])
    metric.add(prediction="a dog", reference=["a dog"])
    assert set(metric.compute()) == SCORES


def test_load_names_what_it_knows() -> None:
    with pytest.raises(ValueError, match=r"name must be one of \['captioning', .*got 'bleu'"):
        load("bleu")


def test_without_java_meteor_is_absent_and_never_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "no `java`" in meteor_unavailable_reason()
    assert set(CaptionMetrics(meteor=None).compute(PREDICTIONS, REFERENCES)) == SCORES
    with pytest.raises(MeteorUnavailableError, match="no `java`"):
        CaptionMetrics(meteor=True).compute(PREDICTIONS, REFERENCES)


def test_meteor_is_a_percentage_of_what_pycocoevalcap_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("pycocoevalcap.meteor.meteor")

    class FakeMeteor:
        def compute_score(self, references: dict, predictions: dict) -> tuple[float, list[float]]:
            assert predictions == {0: ["a dog runs"], 1: ["two men on a street"], 2: [""]}
            assert references[0] == ["a dog is running", "the dog runs"]
            return 0.25, [0.5, 0.25, 0.0]

    monkeypatch.setattr(module, "Meteor", FakeMeteor)
    monkeypatch.setattr("shutil.which", lambda name: name)
    for wanted in (True, None):
        assert CaptionMetrics(meteor=wanted).compute(PREDICTIONS, REFERENCES)["meteor"] == 25


@pytest.mark.skipif(not os.environ.get("RUN_SLOW"), reason="METEOR's Java program takes 10 s to start; set RUN_SLOW=1")
def test_meteor_prefers_the_better_caption() -> None:
    reason = meteor_unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    corpus, scores = meteor(["a dog runs", "the cat", ""], [["a dog runs"], ["a dog runs"], ["a dog"]])
    assert scores[0] == pytest.approx(1)
    assert 0 <= scores[1] < 0.5
    assert scores[2] == 0
    assert 0 < corpus < 1


def test_import_is_light() -> None:
    command = "import sys; import butd_hf.metrics; print([m for m in ('evaluate', 'datasets') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_captions_that_break_off_are_counted() -> None:
    broken = ["A man in a", "Two dogs and", "a girl with her hair and the .", ""]
    whole = ["A man in a hat.", "the crowd looks on", "a cat sits in front of a house behind"]
    shares = [
        CaptionMetrics().compute(captions, [["a man"]] * len(captions))["degenerate_endings"]
        for captions in (broken, whole, [*broken, *broken, *whole, "a dog runs ."])
    ]
    assert shares == pytest.approx([100.0, 0.0, 100 * 8 / 12])
