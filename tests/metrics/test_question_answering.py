# SPDX-License-Identifier: Apache-2.0
import pytest

from butd_hf.metrics import load
from butd_hf.metrics import wups as wups_module
from butd_hf.metrics.names import metric_name
from butd_hf.metrics.question_answering import VqaMetric, score_answers
from butd_hf.metrics.wups import WordNetUnavailableError, wups


TEN = ["red"] * 2 + ["dark red"] * 7 + ["Pink."]


@pytest.mark.parametrize(
    ("prediction", "official", "simplified", "exact"),
    [
        ("dark red", 1.0, 1.0, 1.0),
        ("the red", 0.6, 2 / 3, 0.0),
        ("pink", 0.3, 1 / 3, 0.0),
        ("blue", 0.0, 0.0, 0.0),
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


ALIKE = {frozenset(("sofa", "couch")): 0.95, frozenset(("sofa", "chair")): 0.8}


def similarity(one, other):
    return 1.0 if one == other else ALIKE.get(frozenset((one, other)), 0.0)


@pytest.mark.parametrize(
    ("found", "right", "near", "any_distance"),
    [
        (["sofa"], ["sofa"], 100.0, 100.0),
        (["couch"], ["sofa"], 95.0, 95.0),
        (["chair"], ["sofa"], 8.0, 80.0),  # below the threshold a tenth counts
        (["sofa", "lamp"], ["sofa"], 0.0, 0.0),  # a wrong answer more makes the product zero
        (["sofa"], ["sofa", "chair"], 8.0, 80.0),  # so does one that is missing, as far as it is
        ([], ["sofa"], 0.0, 0.0),
    ],
)
def test_wups_of_sets(found, right, near, any_distance):
    assert wups([found], [right], threshold=0.9, similarity=similarity) == pytest.approx(near)
    assert wups([found], [right], threshold=0.0, similarity=similarity) == pytest.approx(any_distance)


class Meaning:
    """As much of a WordNet synset as the metric asks for."""

    def __init__(self, depth):
        self.depth = depth

    def wup_similarity(self, other):
        return min(self.depth, other.depth) / max(self.depth, other.depth)


class TinyWordNet:
    def synsets(self, word, pos):
        assert pos == "n"
        return {"garbage_bin": [Meaning(2), Meaning(8)], "trash": [Meaning(10)]}.get(word, [])


@pytest.fixture
def wordnet(monkeypatch):
    wups_module.wup_similarity.cache_clear()
    monkeypatch.setattr(wups_module, "wordnet_unavailable_reason", lambda: None)
    monkeypatch.setattr(wups_module, "load_wordnet", TinyWordNet)
    yield
    wups_module.wup_similarity.cache_clear()


def test_wordnet_takes_the_nearest_meanings(wordnet):
    scores = score_answers(["trash", "stone"], [["garbage_bin"], ["stone"]], together=True, wups=True)
    assert scores["wups_0"] == pytest.approx(90.0)  # 8 / 10 and, although not in WordNet, the same word
    assert scores["wups_90"] == pytest.approx(54.0)


def no_wordnet():
    raise LookupError("Resource wordnet not found.")


@pytest.mark.parametrize(
    ("installed", "message"), [(None, "pip install nltk"), (object(), "python -m nltk.downloader wordnet")]
)
def test_without_wordnet_wups_is_left_out_or_an_error(monkeypatch, installed, message):
    monkeypatch.setattr(wups_module.importlib.util, "find_spec", lambda name: installed)
    monkeypatch.setattr(wups_module, "load_wordnet", no_wordnet)
    assert "wups_0" not in score_answers(["a b"], [["lamp"]], together=True, wups=None)
    with pytest.raises(WordNetUnavailableError, match=message):
        score_answers(["a b"], [["lamp"]], together=True, wups=True)


def test_wups_needs_pairs():
    with pytest.raises(ValueError, match="got 0 and 1"):
        wups([], [["a"]], similarity=similarity)
