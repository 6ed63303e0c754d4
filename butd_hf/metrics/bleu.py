# SPDX-License-Identifier: Apache-2.0
"""BLEU (Papineni et al., 2002) as coco-caption computes it.

What is particular to coco-caption: the brevity penalty uses the reference length closest to the caption's, the shorter
of two equally close ones, and the ratios are smoothed by constants that only keep zero from dividing zero.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .inputs import check_captions
from .ngrams import Ngram, count_ngrams


# coco-caption's: added to numerators, so that no n-gram at all scores 0, and to denominators
_TINY = 1e-15
_SMALL = 1e-9


class Bleu(NamedTuple):
    """BLEU in 0..1, for orders 1 to `max_order`."""

    corpus: np.ndarray  # (max_order,), from the counts of all captions together: the figure that is reported
    captions: np.ndarray  # (num_captions, max_order)


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4) -> Bleu:
    """BLEU of captions whose tokens are separated by spaces, one per image, each against its references."""
    check_captions(predictions, references)
    totals = np.zeros(2 + 2 * max_order)
    scores = []
    for prediction, captions in zip(predictions, references, strict=True):
        statistics = _statistics(prediction.split(), [caption.split() for caption in captions], max_order)
        totals += statistics
        scores.append(_score(statistics, max_order))
    return Bleu(_score(totals, max_order), np.stack(scores))


def _statistics(words: list[str], references: list[list[str]], max_order: int) -> np.ndarray:
    """Caption length, closest reference length, then per order the matched and the possible n-grams."""
    limits: dict[Ngram, int] = {}
    for reference in references:
        for ngram, count in count_ngrams(reference, max_order).items():
            limits[ngram] = max(limits.get(ngram, 0), count)
    matched = [0] * max_order
    for ngram, count in count_ngrams(words, max_order).items():
        matched[len(ngram) - 1] += min(count, limits.get(ngram, 0))
    possible = [max(0, len(words) - order) for order in range(max_order)]
    _, closest = min((abs(len(reference) - len(words)), len(reference)) for reference in references)
    return np.array([len(words), closest, *matched, *possible], dtype=float)


def _score(statistics: np.ndarray, max_order: int) -> np.ndarray:
    """Geometric means of the precisions up to each order, times the brevity penalty."""
    length, reference_length = statistics[:2]
    matched, possible = statistics[2 : 2 + max_order], statistics[2 + max_order :]
    precisions = (matched + _TINY) / (possible + _SMALL)
    scores = np.cumprod(precisions) ** (1 / np.arange(1, max_order + 1))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return scores * math.exp(1 - 1 / ratio) if ratio < 1 else scores
