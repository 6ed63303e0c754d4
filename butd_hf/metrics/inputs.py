# SPDX-License-Identifier: Apache-2.0
"""What a caption metric accepts, and what it says about anything else."""

from collections.abc import Sequence


def check_captions(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Checks one caption per image against at least one reference per image. An empty caption is legal.

    Raises:
        TypeError: when an argument or one of its items has the wrong type.
        ValueError: when there is nothing to score, the lengths differ, or an image has no reference.
    """
    _check_sequence("predictions", predictions, "one caption per image")
    _check_sequence("references", references, "a list of captions per image")
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references must have the same length, got {len(predictions)} predictions "
            f"and {len(references)} lists of references"
        )
    if len(predictions) == 0:
        raise ValueError("predictions is empty: expected at least one caption")
    for index, prediction in enumerate(predictions):
        if not isinstance(prediction, str):
            raise TypeError(f"predictions[{index}] must be a str, got {type(prediction).__name__}: {prediction!r}")
    for index, captions in enumerate(references):
        check_references(f"references[{index}]", captions)


def check_references(name: str, captions: Sequence[str]) -> None:
    """Checks the references of one image, called `name` in the error."""
    _check_sequence(name, captions, "the image's captions")
    if len(captions) == 0:
        raise ValueError(f"{name} is empty: expected at least one caption per image")
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"{name}[{index}] must be a str, got {type(caption).__name__}: {caption!r}")


def _check_sequence(name: str, value: object, content: str) -> None:
    # a str is a sequence too, and scoring it letter by letter would go unnoticed
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__getitem__"):
        raise TypeError(f"{name} must be a list ({content}), got {type(value).__name__}: {value!r}")
