# SPDX-License-Identifier: Apache-2.0
"""WUPS (Malinowski and Fritz, NIPS 2014): how near answers are in WordNet, for sets of answers."""

import math
from collections.abc import Collection, Sequence
from functools import cache


FAR = 0.1  # similarities below the threshold count a tenth: in WordNet nearly everything is somewhat alike


class WordNetUnavailableError(RuntimeError):
    """WUPS is wanted where there is no WordNet."""


def wordnet_unavailable_reason() -> str | None:
    """Why WUPS cannot be computed here, or `None` when it can."""
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except ImportError:
        return "WUPS reads WordNet through nltk, which is not installed (`pip install nltk`)"
    except (LookupError, OSError):
        return "nltk has no WordNet, which is data of its own (`python -m nltk.downloader wordnet`)"
    return None


@cache
def wup_similarity(one: str, other: str) -> float:
    """Wu-Palmer similarity of two answers in [0, 1]: of their nearest meanings as nouns, 0 for words not in WordNet.

    Words of an answer may be separated by spaces or underscores.
    """
    if one == other:
        return 1.0
    from nltk.corpus import wordnet

    meanings, others = (wordnet.synsets(answer.replace(" ", "_"), pos="n") for answer in (one, other))
    return max((mine.wup_similarity(theirs) or 0.0 for mine in meanings for theirs in others), default=0.0)


def wups(predictions: Sequence[Collection[str]], references: Sequence[Collection[str]], threshold: float) -> float:
    """The mean score, in 0..100, of sets of answers against sets of right answers; thresholds 0.9 and 0 give WUPS@0.9
    and WUPS@0.0.

    Of each question it is the smaller of two products: how near each predicted answer is to its nearest right one, and
    each right one to its nearest predicted one.

    Raises:
        WordNetUnavailableError: Without nltk or WordNet; the message says which.
    """
    if reason := wordnet_unavailable_reason():
        raise WordNetUnavailableError(reason)

    def product(answers: Collection[str], others: Collection[str]) -> float:
        nearest = [max((wup_similarity(answer, other) for other in others), default=0.0) for answer in answers]
        return math.prod(each if each >= threshold else FAR * each for each in nearest)

    pairs = zip(predictions, references, strict=True)
    return 100.0 * sum(min(product(*pair), product(*reversed(pair))) for pair in pairs) / len(references)
