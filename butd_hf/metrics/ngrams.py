# SPDX-License-Identifier: Apache-2.0
"""Counting n-grams of a tokenised caption."""

from collections.abc import Sequence


Ngram = tuple[str, ...]


def count_ngrams(words: Sequence[str], max_order: int) -> dict[Ngram, int]:
    """How often each n-gram of 1 to `max_order` words occurs, shorter ones first."""
    counts: dict[Ngram, int] = {}
    for order in range(1, max_order + 1):
        # zip over shifted copies yields the tuples in C, twice as fast as slicing
        for ngram in zip(*(words[start:] for start in range(order)), strict=False):
            counts[ngram] = counts.get(ngram, 0) + 1
    return counts
