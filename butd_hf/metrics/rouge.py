# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L (Lin, 2004) as coco-caption computes it: the best precision and the best recall over the references."""

from collections.abc import Sequence

import numpy as np

from .inputs import check_captions


BETA = 1.2  # weight of recall against precision, coco-caption's


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-L of captions whose tokens are separated by spaces.

    Returns:
        One score in 0..1 per caption (num_captions,); their mean is the figure that is reported.
    """
    check_captions(predictions, references)
    scores = np.zeros(len(predictions))
    for index, (prediction, captions) in enumerate(zip(predictions, references, strict=True)):
        words = prediction.split()
        lengths = [(longest_common_subsequence(words, other), len(other)) for other in map(str.split, captions)]
        precision = max(common / max(len(words), 1) for common, _ in lengths)
        recall = max(common / max(length, 1) for common, length in lengths)
        if precision and recall:
            scores[index] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    Bit-parallel (Hyyrö, 2004): bit i of `unmatched` is 0 where the subsequence grows at word i of `first`, so that one
    whole row of the dynamic programme is one integer.
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    unmatched = full = (1 << len(first)) - 1
    for word in second:
        matches = unmatched & positions.get(word, 0)
        unmatched = (unmatched + matches | unmatched - matches) & full
    return (full ^ unmatched).bit_count()
