# SPDX-License-Identifier: Apache-2.0
"""ROUGE-L (Lin, 2004) as coco-caption computes it: the best precision and the best recall over the references."""

from collections.abc import Sequence

import numpy as np

from .inputs import check_captions


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.2) -> np.ndarray:
    """ROUGE-L of captions whose tokens are separated by spaces.

    Args:
        beta: weight of recall against precision; 1.2 is coco-caption's.

    Returns:
        One score in 0..1 per caption (num_captions,); their mean is the figure that is reported.
    """
    check_captions(predictions, references)
    scores = np.zeros(len(predictions))
    for index, (prediction, captions) in enumerate(zip(predictions, references, strict=True)):
        words = prediction.split()
        precision = recall = 0.0
        for caption in captions:
            reference = caption.split()
            common = longest_common_subsequence(words, reference)
            precision = max(precision, common / max(len(words), 1))
            recall = max(recall, common / max(len(reference), 1))
        if precision and recall:
            scores[index] = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    return scores


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two lists of words.

    Bit-parallel (Hyyrö, 2004): bit i of `unmatched` is 0 where the subsequence grows at word i of `first`, so that one
    whole row of the dynamic programme is one integer.
    """
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    full = (1 << len(first)) - 1
    unmatched = full
    for word in second:
        matches = unmatched & positions.get(word, 0)
        unmatched = (unmatched + matches | unmatched - matches) & full
    return (full ^ unmatched).bit_count()
