# SPDX-License-Identifier: Apache-2.0
"""METEOR (Denkowski and Lavie, 2014) through pycocoevalcap, which wraps the authors' Java program."""

import importlib.util
import shutil
from collections.abc import Sequence

import numpy as np

from .inputs import check_captions


class MeteorUnavailableError(RuntimeError):
    """METEOR was asked for where it cannot run."""


def meteor_unavailable_reason() -> str | None:
    """Why METEOR cannot run here, or `None` when it can."""
    if shutil.which("java") is None:
        return "METEOR is a Java program and there is no `java` on the path"
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "METEOR comes with pycocoevalcap, which is not installed (`pip install pycocoevalcap`)"
    return None


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """METEOR of captions whose tokens are separated by spaces.

    Returns:
        The corpus score, from the statistics of all captions together, and one score per caption (num_captions,), all
        in 0..1.

    Raises:
        MeteorUnavailableError: without Java or pycocoevalcap; the message says which.
    """
    check_captions(predictions, references)
    reason = meteor_unavailable_reason()
    if reason is not None:
        raise MeteorUnavailableError(reason)
    from pycocoevalcap.meteor.meteor import Meteor  # here, since it is an optional dependency

    score, scores = Meteor().compute_score(
        {index: list(captions) for index, captions in enumerate(references)},
        {index: [prediction] for index, prediction in enumerate(predictions)},
    )
    return float(score), np.array(scores)
