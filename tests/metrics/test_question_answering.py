# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers, exact match and WUPS."""

import sys
from types import ModuleType
from unittest.mock import Mock

import pytest

from butd_hf.metrics import VqaMetric, load
from butd_hf.metrics.names import metric_name
from butd_hf.metrics.question_answering import WordNetUnavailableError, score_answers
from butd_hf.metrics.wups import wup_similarity


TEN = ["red"] * 2 + ["dark red"] * 7 + ["Pink."]


@pytest.mark.parametrize(
    ("prediction", "official", "simplified", "exact"),
    [
        ("dark red", 1.0, 1.0, 1.0),
        ("the red", 0.6, 2 / 3, 0.0),
        ("pink", 0.3, 1 / 3, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_official_accuracy(prediction, official, simplified, exact):
    scores = score_answers([prediction], [TEN])
    assert scores["vqa_accuracy"] == pytest.approx(100 * official)
    assert scores["vqa_accuracy_simplified"] == pytest.approx(100 * simplified)
    assert scores["exact_match"] == pytest.approx(100 * exact)
    assert "exact_match_single" not in scores


def test_sets_match_as_wholes():
    predictions = ["lamp, books", "books", "garbage bin", "2"]
    references = [["books", "lamp"], ["books", "lamp"], ["garbage_bin"], ["3"]]
    scores = score_answers(predictions, references, together=True)
    assert scores == {"exact_match": 50.0, "exact_match_single": 50.0}


def test_table_of_types():
    scores = score_answers(
        ["2", "3", "yes"],
        [["two"], ["2"], ["yes"]],
        answer_types=["number", "number", "yes/no"],
        question_types=["how many", "how many", "is"],
    )
    assert scores["accuracy_answer_type_number"] == 50.0 and scores["accuracy_answer_type_yes/no"] == 100.0
    assert list(scores)[-2:] == ["accuracy_question_type_how many", "accuracy_question_type_is"]
    assert metric_name("accuracy_answer_type_yes/no") == "accuracy, answer type 'yes/no'"
    with pytest.raises(ValueError, match=r"question_types must have one item per prediction \(1\), got 2"):
        score_answers(["2"], [["2"]], question_types=["a", "b"])


def test_behind_evaluate():
    metric = load("vqa")
    assert isinstance(metric, VqaMetric)
    metric.add_batch(predictions=["2"], references=[["two"]])
    metric.add_batch(predictions=["red"], references=[TEN])
    assert metric.compute()["vqa_accuracy"] == pytest.approx(80.0)
    assert metric.compute(predictions=["lamp"], references=[["lamp", "book"]], together=True)["exact_match"] == 0.0
    with pytest.raises(ValueError, match="predictions is empty"):
        metric.compute()
    with pytest.raises(ValueError, match=r"references\[0\] is empty"):
        metric.compute(predictions=["a"], references=[[]])


class Meaning:
    """As much of a WordNet synset as the metric asks for."""

    def __init__(self, depth):
        self.depth = depth

    def wup_similarity(self, other):
        return min(self.depth, other.depth) / max(self.depth, other.depth)


class TinyWordNet:
    def ensure_loaded(self):
        pass

    def synsets(self, word, pos):
        assert pos == "n"
        return {"garbage_bin": [Meaning(2), Meaning(10)], "trash": [Meaning(8)], "can": [Meaning(9.5)]}.get(word, [])


@pytest.fixture
def wordnet(monkeypatch):
    corpus = ModuleType("nltk.corpus")
    corpus.wordnet = TinyWordNet()
    monkeypatch.setitem(sys.modules, "nltk", ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    wup_similarity.cache_clear()
    yield corpus.wordnet
    wup_similarity.cache_clear()


@pytest.mark.parametrize(
    ("predicted", "right", "near", "any_distance"),
    [
        ("stone", ["stone"], 100.0, 100.0),  # not in WordNet, and the same word
        ("can", ["garbage_bin"], 95.0, 95.0),
        ("trash", ["garbage_bin"], 8.0, 80.0),  # below the threshold a tenth counts
        ("garbage_bin, stone", ["garbage_bin"], 0.0, 0.0),  # one wrong answer makes the product zero
        ("garbage_bin", ["garbage_bin", "trash"], 8.0, 80.0),  # so does one that is missing, as far as it is
    ],
)
def test_wups_of_sets(wordnet, predicted, right, near, any_distance):
    scores = score_answers([predicted], [right], together=True, wups=None)
    assert (scores["wups_90"], scores["wups_0"]) == pytest.approx((near, any_distance))


def test_without_wordnet_wups_is_left_out_or_an_error(wordnet, monkeypatch):
    monkeypatch.setattr(wordnet, "ensure_loaded", Mock(side_effect=LookupError("Resource wordnet not found.")))
    assert "wups_0" not in score_answers(["a b"], [["lamp"]], together=True, wups=None)
    with pytest.raises(WordNetUnavailableError, match=r"python -m nltk.downloader wordnet"):
        score_answers(["a b"], [["lamp"]], together=True, wups=True)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    with pytest.raises(WordNetUnavailableError, match="pip install nltk"):
        score_answers(["a b"], [["lamp"]], together=True, wups=True)
