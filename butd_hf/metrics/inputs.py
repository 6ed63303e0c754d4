# SPDX-License-Identifier: Apache-2.0
"""Checks of the texts that captions and answers are scored on."""

from collections.abc import Sequence


def check_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Checks one caption per image against at least one reference per image. An empty caption is legal.

    Raises:
        TypeError: An argument or one of its items has the wrong type.
        ValueError: There is nothing to score, the lengths differ, or an image has no reference.
    """
    _check_list("predictions", predictions, "one caption per image")
    _check_list("references", references, "a list of captions per image")
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must have the same length, got {len(predictions)} predictions "
            f"and {len(references)} lists of references"
        )
    if len(predictions) == 0:
        raise ValueError("predictions is empty: expected at least one caption")
    for index, prediction in enumerate(predictions):
        _check_text(f"predictions[{index}]", prediction)
    for index, captions in enumerate(references):
        check_references(f"references[{index}]", captions)


def check_references(name: str, captions: Sequence[str]) -> None:
    """Checks the references of one image, called `name` in the error."""
    _check_list(name, captions, "the image's captions")
    if len(captions) == 0:
        raise ValueError(f"{name} is empty: expected at least one caption per image")
    for index, caption in enumerate(captions):
        _check_text(f"{name}[{index}]", caption)


def _check_list(name: str, value: object, content: str) -> None:
    # a str is a sequence too, and scoring it letter by letter would go unnoticed
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise TypeError(f"{name} must be a list ({content}), got {type(value).__name__}: {value!r}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {type(value).__name__}: {value!r}")
