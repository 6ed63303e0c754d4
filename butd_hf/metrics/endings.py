"""Captions that break off: "a man in a" scores well word by word, and says nothing at its end."""

from collections.abc import Sequence


# determiners, prepositions, conjunctions, auxiliaries and possessives, after which English sentences go on. Words that
# end sentences too ("a dog jumps up", "two boys and others", "a picture of her") are not among them
FUNCTION_WORDS = frozenset(
    """
    a an the this these those his its their my your our whose which
    of in on at to from with by for into onto upon beside between among against toward towards during near next
    above under behind through over across while as than like
    and or but that who where when because if
    is are was were be been being am has have had
    very
    """.split()
)


def ends_degenerately(caption: str) -> bool:
    """Whether a tokenised caption has no words, or ends in one of `FUNCTION_WORDS`."""
    words = caption.split()
    return not words or words[-1] in FUNCTION_WORDS


def degenerate_share(captions: Sequence[str]) -> float:
    """Share, in [0, 1], of tokenised captions that break off."""
    return sum(map(ends_degenerately, captions)) / len(captions)


__all__ = ["FUNCTION_WORDS", "degenerate_share", "ends_degenerately"]
