# SPDX-License-Identifier: Apache-2.0
"""METEOR (Denkowski and Lavie, 2014) through pycocoevalcap, which wraps the authors' Java program."""

import importlib.util
import shutil
from collections.abc import Sequence

import numpy as np

from .inputs import check_captions


class MeteorUnavailableError(RuntimeError):
    """METEOR is wanted where it cannot run."""


def meteor_unavailable_reason() -> str | None:
    """Why METEOR cannot run here, or `None` when it can."""
    if shutil.which("java") is None:
        return "METEOR is a Java program and there is no `java` on the path"
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "METEOR comes with pycocoevalcap, which is not installed (`pip install pycocoevalcap`)"
    return None


def meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, np.ndarray]:
    """METEOR, in 0..1, of captions whose tokens are separated by spaces: of all together, and of each (num_captions,).

    Raises:
        MeteorUnavailableError: Without Java or pycocoevalcap; the message says which.
    """
    check_captions(predictions, references)
    if reason := meteor_unavailable_reason():
        raise MeteorUnavailableError(reason)
    from pycocoevalcap.meteor.meteor import Meteor  # here, since it is an optional dependency

    captions = {index: [prediction] for index, prediction in enumerate(predictions)}
    score, scores = Meteor().compute_score(dict(enumerate(map(list, references))), captions)
    return float(score), np.array(scores)
