# SPDX-License-Identifier: Apache-2.0
"""The table of scores, and the same behind the interface of the `evaluate` library."""

import subprocess
import sys

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
TOKENS = tokenize_captions(PREDICTIONS), [tokenize_captions(captions) for captions in REFERENCES]
SCORES = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "cider_original"}

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
def metric(tmp_path):
    return load(cache_dir=str(tmp_path))


def test_scores_are_on_the_scale_of_the_literature() -> None:
    scores = CaptionMetrics().compute(PREDICTIONS, REFERENCES)
    assert set(scores) == SCORES and all(type(score) is float for score in scores.values())
    assert [scores[f"bleu_{order}"] for order in (1, 2, 3, 4)] == pytest.approx((100 * bleu(*TOKENS).corpus).tolist())
    assert scores["rouge_l"] == pytest.approx(100 * rouge_l(*TOKENS).mean())
    assert scores["cider"] == pytest.approx(100 * CiderD(TOKENS[1]).score(TOKENS[0]).mean())
    assert CaptionMetrics(tokenize=False).compute(*TOKENS) == scores


def test_metric_computes_the_same_at_once_and_in_batches(metric) -> None:
    expected = CaptionMetrics().compute(PREDICTIONS, REFERENCES)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == expected
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add(prediction=PREDICTIONS[2], reference=REFERENCES[2])
    assert metric.compute() == expected
    assert "CIDEr-D" in metric.inputs_description and "coco-caption" in metric.description


@pytest.mark.parametrize(("predictions", "references", "error", "message"), WRONG_INPUTS)
def test_wrong_input_is_named(metric, predictions, references, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        metric.compute(predictions=predictions, references=references)
    with pytest.raises(error, match=message):
        CaptionMetrics().compute(predictions, references)


def test_metric_is_usable_after_wrong_input(metric) -> None:
    with pytest.raises(ValueError, match="predictions is empty: give some"):
        metric.compute()
    with pytest.raises(TypeError, match=r"predictions\[0\] must be a str"):
        metric.add(prediction=None, reference=["a dog"])
    metric.add(prediction="a dog", reference=["a dog"])
    assert set(metric.compute()) == SCORES


def test_load_names_what_it_knows() -> None:
    with pytest.raises(ValueError, match=r"name must be one of \['captioning', .*got 'bleu'"):
        load("bleu")


def test_without_java_meteor_is_absent_and_never_invented(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert set(CaptionMetrics(meteor=None).compute(PREDICTIONS, REFERENCES)) == SCORES
    with pytest.raises(MeteorUnavailableError, match="no `java`"):
        CaptionMetrics(meteor=True).compute(PREDICTIONS, REFERENCES)


@pytest.mark.slow  # its Java program takes 10 s to start
def test_meteor_prefers_the_better_caption() -> None:
    if reason := meteor_unavailable_reason():
        pytest.skip(reason)
    corpus, scores = meteor(["a dog runs", "the cat", ""], [["a dog runs"], ["a dog runs"], ["a dog"]])
    assert scores[0] == pytest.approx(1) and 0 <= scores[1] < 0.5 and scores[2] == 0
    assert CaptionMetrics(meteor=None).compute(["a dog runs"], [["a dog runs"]])["meteor"] == pytest.approx(100)
    assert 0 < corpus < 1


@pytest.mark.slow  # a process of its own, which imports torch and transformers
def test_import_is_light() -> None:
    command = "import sys; import butd_hf.metrics; print([m for m in ('evaluate', 'datasets') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
