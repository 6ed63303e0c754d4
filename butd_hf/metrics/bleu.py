# SPDX-License-Identifier: Apache-2.0
"""BLEU (Papineni et al., 2002) as coco-caption computes it, and the n-grams that CIDEr counts too.

What is particular to coco-caption: the brevity penalty uses the reference length closest to the caption's, the shorter
of two equally close ones, and the ratios are smoothed by constants that only keep zero from dividing zero.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .inputs import check_captions


Ngram = tuple[str, ...]

# coco-caption's: added to numerators, so that no n-gram at all scores 0, and to denominators
_TINY, _SMALL = 1e-15, 1e-9


def count_ngrams(words: Sequence[str], max_order: int) -> dict[Ngram, int]:
    """How often each n-gram of 1 to `max_order` words occurs, shorter ones first."""
    counts: dict[Ngram, int] = {}
    for order in range(1, max_order + 1):
        # zip over shifted copies yields the tuples in C, twice as fast as slicing
        for ngram in zip(*(words[start:] for start in range(order)), strict=False):
            counts[ngram] = counts.get(ngram, 0) + 1
    return counts


class Bleu(NamedTuple):
    """BLEU in 0..1, for orders 1 to `max_order`."""

    corpus: np.ndarray  # (max_order,), from the counts of all captions together: the figure that is reported
    captions: np.ndarray  # (num_captions, max_order)


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4) -> Bleu:
    """BLEU of captions whose tokens are separated by spaces, one per image, each against its references."""
    check_captions(predictions, references)
    counts = np.array(
        [
            _counts(prediction.split(), [caption.split() for caption in captions], max_order)
            for prediction, captions in zip(predictions, references, strict=True)
        ],
        dtype=float,
    )  # (num_captions, 2 + 2 * max_order)
    return Bleu(_scores(counts.sum(axis=0, keepdims=True), max_order)[0], _scores(counts, max_order))


def _counts(words: list[str], references: list[list[str]], max_order: int) -> list[int]:
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
    return [len(words), closest, *matched, *possible]


def _scores(counts: np.ndarray, max_order: int) -> np.ndarray:
    """Geometric means of the precisions up to each order, times the brevity penalty: a row for each of `counts`."""
    precisions = (counts[:, 2 : 2 + max_order] + _TINY) / (counts[:, 2 + max_order :] + _SMALL)
    scores = np.cumprod(precisions, axis=1) ** (1 / np.arange(1, max_order + 1))
    ratio = (counts[:, :1] + _TINY) / (counts[:, 1:2] + _SMALL)
    return scores * np.exp(np.minimum(1 - 1 / ratio, 0))
