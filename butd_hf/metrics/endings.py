# SPDX-License-Identifier: Apache-2.0
"""Captions that break off: "a man in a" scores well word by word, and says nothing at its end."""

from collections.abc import Sequence


# words after which English sentences go on. Left out are those that people end captions with: "looks on", "a house
# behind", "walks by", "from above", "falls over". Of the 35,000 captions of Flickr8k's training and development parts,
# one in a thousand ends in a word of this list
FUNCTION_WORDS = frozenset(
    word
    for group in (
        "a an the this these those his its their my your our whose which",
        "of in at to from with for into onto upon beside between among against toward towards during near next under",
        "through across while as than like and or but that who where when because if",
        "is are was were be been being am has have had",
    )
    for word in group.split()
)


def ends_degenerately(caption: str) -> bool:
    """Whether a tokenised caption has no words, or ends in one of `FUNCTION_WORDS`."""
    words = caption.split()
    return not words or words[-1] in FUNCTION_WORDS


def degenerate_share(captions: Sequence[str]) -> float:
    """Share, in [0, 1], of tokenised captions that break off."""
    return sum(map(ends_degenerately, captions)) / len(captions)


__all__ = ["FUNCTION_WORDS", "degenerate_share", "ends_degenerately"]
