# SPDX-License-Identifier: Apache-2.0
"""BLEU, ROUGE-L and CIDEr against pycocoevalcap on the same tokens, and their properties."""

import math
import random

import numpy as np
import pytest

from butd_hf.metrics import Cider, CiderD, bleu, cider, rouge_l
from butd_hf.metrics.rouge import longest_common_subsequence


Captions = tuple[list[str], list[list[str]]]


@pytest.fixture
def captions() -> Captions:
    """Captions of few words, so that n-grams of every length match; some are empty, repeated or perfect."""
    rng = random.Random(0)
    words = ["a", "man", "dog", "on", "the", "street", "red", "runs", "with", "ball", "two", "of"]

    def caption(shortest: int) -> str:
        return " ".join(rng.choices(words, weights=range(len(words), 0, -1), k=rng.randint(shortest, 12)))

    references = [[caption(1) for _ in range(rng.randint(1, 5))] for _ in range(100)]
    predictions = ["", "a", "a a a a a a a a", references[3][0], *(caption(0) for _ in range(96))]
    return predictions, references


def as_dicts(predictions: list[str], references: list[list[str]]) -> tuple[dict, dict]:
    return dict(enumerate(references)), {index: [caption] for index, caption in enumerate(predictions)}


def test_bleu_equals_pycocoevalcap(captions: Captions) -> None:
    module = pytest.importorskip("pycocoevalcap.bleu.bleu")
    corpus, per_caption = module.Bleu(4).compute_score(*as_dicts(*captions), verbose=0)
    scores = bleu(*captions)
    np.testing.assert_allclose(scores.corpus, corpus, atol=1e-9)
    np.testing.assert_allclose(scores.captions, np.array(per_caption).T, atol=1e-9)


def test_rouge_equals_pycocoevalcap(captions: Captions) -> None:
    module = pytest.importorskip("pycocoevalcap.rouge.rouge")
    _, per_caption = module.Rouge().compute_score(*as_dicts(*captions))
    np.testing.assert_allclose(rouge_l(*captions), per_caption, atol=1e-9)


def test_cider_d_equals_pycocoevalcap(captions: Captions) -> None:
    module = pytest.importorskip("pycocoevalcap.cider.cider")
    _, per_caption = module.Cider().compute_score(*as_dicts(*captions))
    predictions, references = captions
    np.testing.assert_allclose(CiderD(references).score(predictions), per_caption, atol=1e-9)


def test_original_cider_equals_pycocoevalcap_without_its_modifications(
    captions: Captions, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    # `min` is only called for the clipping there; an endless sigma makes the length weight 1
    monkeypatch.setattr(module, "min", lambda candidate, reference: candidate, raising=False)
    scorer = module.CiderScorer(sigma=math.inf)
    for pair in zip(*captions, strict=True):
        scorer += pair
    _, per_caption = scorer.compute_score()
    predictions, references = captions
    np.testing.assert_allclose(Cider(references).score(predictions), per_caption, atol=1e-9)


def test_cider_matches_the_definition() -> None:
    # "dog" and "cat" weigh log 2, "a" weighs log 2/2 = 0; unigrams and bigrams match in full, longer ones are absent
    scores = Cider([["a dog"], ["a cat"]]).score(["a dog", "a dog"])
    np.testing.assert_allclose(scores, [10 * 2 / 4, 0])


def test_cider_scores_any_captions_of_any_images(captions: Captions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cider, "MAX_CACHED_IMAGES", 3)
    predictions, references = captions
    named = {f"image-{index}": texts for index, texts in enumerate(references)}
    order = random.Random(0).choices(range(len(predictions)), k=100)
    scores = CiderD(named).score([predictions[index] for index in order], [f"image-{index}" for index in order])
    np.testing.assert_allclose(scores, CiderD(references).score(predictions)[order])


def test_scores_stay_in_their_range(captions: Captions) -> None:
    predictions, references = captions
    for scores, largest in [
        (bleu(predictions, references).captions, 1),
        (rouge_l(predictions, references), 1),
        (Cider(references).score(predictions), 10),
        (CiderD(references).score(predictions), 10),
    ]:
        assert scores.min() >= 0 and scores.max() <= largest + 1e-9  # false for what is not a number
        assert np.abs(scores[0]).max() < 1e-6  # the empty caption


@pytest.mark.parametrize(("prediction", "reference"), [("a dog", "a dog"), ("", "a dog"), ("cat", ""), ("", "")])
def test_one_image_gives_numbers(prediction: str, reference: str) -> None:
    assert np.isfinite(bleu([prediction], [[reference]]).corpus).all()
    assert np.isfinite(rouge_l([prediction], [[reference]])).all()
    assert CiderD([[reference]]).score([prediction]).tolist() == [0]


def test_longest_common_subsequence() -> None:
    lengths = [
        ("abcbdab", "bdcaba", 4),
        ("abc", "abc", 3),
        ("abc", "cba", 1),
        ("", "abc", 0),
        ("ab" * 50, "ba" * 50, 99),
    ]
    assert [longest_common_subsequence(one, other) for one, other, _ in lengths] == [each[2] for each in lengths]


def test_cider_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="references is empty"):
        CiderD([])
    with pytest.raises(ValueError, match=r"references\['x'\] is empty"):
        CiderD({"x": []})
    scorer = CiderD([["a dog"], ["a cat"]])
    with pytest.raises(ValueError, match="1 candidates and 2 ids"):
        scorer.score(["a dog"])
    with pytest.raises(KeyError, match="no references for image 7"):
        scorer.score(["a dog"], [7])
    with pytest.raises(TypeError, match="candidates must be str, got int for image 0"):
        scorer.score([3], [0])
