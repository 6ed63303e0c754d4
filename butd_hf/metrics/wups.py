# SPDX-License-Identifier: Apache-2.0
"""WUPS (Malinowski and Fritz, NIPS 2014): how near answers are in WordNet, for sets of answers."""

import importlib.util
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any


Similarity = Callable[[str, str], float]

# similarities below the threshold count a tenth: in WordNet nearly everything is somewhat alike
FAR = 0.1


class WordNetUnavailableError(RuntimeError):
    """WUPS was asked for where there is no WordNet."""


def wordnet_unavailable_reason() -> str | None:
    """Why WUPS cannot be computed here, or `None` when it can."""
    if importlib.util.find_spec("nltk") is None:
        return "WUPS reads WordNet through nltk, which is not installed (`pip install nltk`)"
    try:
        load_wordnet()
    except (LookupError, OSError):
        return "nltk has no WordNet, which is data of its own (`python -m nltk.downloader wordnet`)"
    return None


@cache
def load_wordnet() -> Any:
    """WordNet from nltk's data. Raises `LookupError` if it isn't there."""
    from nltk.corpus import wordnet

    wordnet.ensure_loaded()
    return wordnet


@cache
def wup_similarity(one: str, other: str) -> float:
    """
    Wu-Palmer similarity of two answers in [0, 1]: of their nearest meanings as nouns, 0 for words not in WordNet.

    Words of an answer may be separated by spaces or underscores. WordNet 3.0 gives 0.94 for curtain and blinds as for
    carton and box, and 0.82 for stove and fire extinguisher.
    """
    if one == other:
        return 1.0
    wordnet = load_wordnet()
    meanings, others = (wordnet.synsets(answer.replace(" ", "_"), pos="n") for answer in (one, other))
    return max((mine.wup_similarity(theirs) or 0.0 for mine in meanings for theirs in others), default=0.0)


def wups(
    predictions: Sequence[Collection[str]],
    references: Sequence[Collection[str]],
    *,
    threshold: float = 0.9,
    similarity: Similarity | None = None,
) -> float:
    """
    The mean score of sets of answers against sets of right answers. With thresholds 0.9 and 0 these are WUPS@0.9 and
    WUPS@0.0 of the DAQUAR literature.

    Of each question it is the smaller of two products: how near each predicted answer is to its nearest right one, and
    each right one to its nearest predicted one.

    Args:
        predictions: The answers to each question.
        references: The right answers to each.
        threshold: Similarities below it count a tenth.
        similarity: Of two answers, in [0, 1]; by default that of WordNet.

    Returns:
        In 0..100.

    Raises:
        WordNetUnavailableError: Without nltk or WordNet; the message says which.
        ValueError: If there is nothing to score, or not one prediction for each question.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(f"expected as many predictions as references, got {len(predictions)} and {len(references)}.")
    if similarity is None:
        reason = wordnet_unavailable_reason()
        if reason is not None:
            raise WordNetUnavailableError(reason)
        similarity = wup_similarity

    def near(one: str, other: str) -> float:
        alike = similarity(one, other)
        return alike if alike >= threshold else FAR * alike

    total = 0.0
    for found, right in zip(predictions, references, strict=True):
        precise = complete = 1.0 if found and right else 0.0
        for answer in found:
            precise *= max((near(answer, other) for other in right), default=0.0)
        for answer in right:
            complete *= max((near(answer, other) for other in found), default=0.0)
        total += min(precise, complete)
    return 100.0 * total / len(references)


__all__ = ["WordNetUnavailableError", "load_wordnet", "wordnet_unavailable_reason", "wup_similarity", "wups"]
