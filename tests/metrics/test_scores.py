# SPDX-License-Identifier: Apache-2.0
"""BLEU, ROUGE-L and CIDEr against pycocoevalcap on the same tokens, and their properties."""

import math
import random

import numpy as np
import pytest

from butd_hf.metrics import Cider, CiderD, DocumentFrequencies, bleu, rouge_l
from butd_hf.metrics.rouge import longest_common_subsequence


SEEDS = [0, 1, 2]
Captions = tuple[list[str], list[list[str]]]


def random_captions(seed: int, num_images: int = 40) -> Captions:
    """Captions of few words, so that n-grams of every length match; some are empty, repeated or perfect."""
    rng = random.Random(seed)
    words = ["a", "man", "dog", "on", "the", "street", "red", "runs", "with", "ball", "two", "of"]

    def caption(shortest: int) -> str:
        return " ".join(rng.choices(words, weights=range(len(words), 0, -1), k=rng.randint(shortest, 12)))

    references = [[caption(1) for _ in range(rng.randint(1, 5))] for _ in range(num_images)]
    predictions = [caption(0) for _ in range(num_images)]
    predictions[:4] = ["", "a", "a a a a a a a a", references[3][0]]
    return predictions, references


def as_dicts(predictions: list[str], references: list[list[str]]) -> tuple[dict, dict]:
    return dict(enumerate(references)), {index: [caption] for index, caption in enumerate(predictions)}


@pytest.mark.parametrize("seed", SEEDS)
def test_bleu_equals_pycocoevalcap(seed: int) -> None:
    module = pytest.importorskip("pycocoevalcap.bleu.bleu")
    captions = random_captions(seed)
    corpus, per_caption = module.Bleu(4).compute_score(*as_dicts(*captions), verbose=0)
    scores = bleu(*captions)
    np.testing.assert_allclose(scores.corpus, corpus, atol=1e-6)
    np.testing.assert_allclose(scores.captions, np.array(per_caption).T, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_rouge_equals_pycocoevalcap(seed: int) -> None:
    module = pytest.importorskip("pycocoevalcap.rouge.rouge")
    captions = random_captions(seed)
    mean, per_caption = module.Rouge().compute_score(*as_dicts(*captions))
    np.testing.assert_allclose(rouge_l(*captions), per_caption, atol=1e-6)
    assert rouge_l(*captions).mean() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_cider_d_equals_pycocoevalcap(seed: int) -> None:
    module = pytest.importorskip("pycocoevalcap.cider.cider")
    predictions, references = random_captions(seed)
    mean, per_caption = module.Cider().compute_score(*as_dicts(predictions, references))
    scores = CiderD(references).score(predictions)
    np.testing.assert_allclose(scores, per_caption, atol=1e-6)
    assert scores.mean() == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_original_cider_equals_pycocoevalcap_without_its_modifications(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("pycocoevalcap.cider.cider_scorer")
    # `min` is only called for the clipping there; an endless sigma makes the length weight 1
    monkeypatch.setattr(module, "min", lambda candidate, reference: candidate, raising=False)
    predictions, references = random_captions(seed)
    scorer = module.CiderScorer(sigma=math.inf)
    for prediction, captions in zip(predictions, references, strict=True):
        scorer += (prediction, captions)
    _, per_caption = scorer.compute_score()
    scores = Cider(references).score(predictions)
    np.testing.assert_allclose(scores, per_caption, atol=1e-6)
    assert np.abs(scores - CiderD(references).score(predictions)).max() > 0.1


def test_cider_matches_the_definition() -> None:
    # "dog" and "cat" weigh log 2, "a" weighs log 2/2 = 0; unigrams and bigrams match in full, longer ones are absent
    scores = Cider([["a dog"], ["a cat"]]).score(["a dog", "a dog"])
    np.testing.assert_allclose(scores, [10 * 2 / 4, 0])


def test_cider_scores_any_captions_of_any_images() -> None:
    predictions, references = random_captions(0)
    named = {f"image-{index}": captions for index, captions in enumerate(references)}
    scorer = CiderD(named, max_cached_images=3)
    expected = CiderD(references).score(predictions)
    order = random.Random(0).choices(range(len(predictions)), k=100)
    scores = scorer.score([predictions[index] for index in order], [f"image-{index}" for index in order])
    np.testing.assert_allclose(scores, expected[order])


def test_cider_takes_document_frequencies_of_another_set() -> None:
    predictions, references = random_captions(0)
    frequencies = DocumentFrequencies.from_references(references)
    part = CiderD(references[:10], frequencies)
    np.testing.assert_allclose(part.score(predictions[:10]), CiderD(references).score(predictions)[:10])


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_stay_in_their_range(seed: int) -> None:
    predictions, references = random_captions(seed)
    for scores, largest in [
        (bleu(predictions, references).captions, 1),
        (rouge_l(predictions, references), 1),
        (Cider(references).score(predictions), 10),
        (CiderD(references).score(predictions), 10),
    ]:
        assert np.isfinite(scores).all()
        assert scores.min() >= 0
        assert scores.max() <= largest + 1e-9
        assert np.abs(scores[0]).max() < 1e-6  # the empty caption


@pytest.mark.parametrize("prediction", ["a dog", "", "cat"])
@pytest.mark.parametrize("reference", ["a dog", ""])
def test_one_image_gives_numbers(prediction: str, reference: str) -> None:
    assert np.isfinite(bleu([prediction], [[reference]]).corpus).all()
    assert np.isfinite(rouge_l([prediction], [[reference]])).all()
    assert CiderD([[reference]]).score([prediction]).tolist() == [0]


def test_longest_common_subsequence_equals_the_dynamic_programme() -> None:
    rng = random.Random(0)
    for _ in range(200):
        first, second = (rng.choices("abcde", k=rng.randint(0, 80)) for _ in range(2))
        row = [0] * (len(second) + 1)
        for letter in first:
            previous = row
            row = [0]
            for index, other in enumerate(second):
                row.append(previous[index] + 1 if letter == other else max(previous[index + 1], row[index]))
        assert longest_common_subsequence(first, second) == row[-1]


def test_cider_names_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="references is empty"):
        CiderD([])
    with pytest.raises(ValueError, match=r"references\['x'\] is empty"):
        CiderD({"x": []})
    with pytest.raises(TypeError, match=r"references\[0\] must be a list"):
        CiderD(["a dog"])
    with pytest.raises(ValueError, match="an n-gram occurs in 3 of 2 documents"):
        CiderD([["a dog"]], DocumentFrequencies({("a",): 3}, num_documents=2))
    scorer = CiderD([["a dog"], ["a cat"]])
    with pytest.raises(ValueError, match="1 candidates and 2 ids"):
        scorer.score(["a dog"])
    with pytest.raises(KeyError, match="no references for image 7"):
        scorer.score(["a dog"], [7])
    with pytest.raises(TypeError, match="candidates must be str, got int for image 0"):
        scorer.score([3], [0])
