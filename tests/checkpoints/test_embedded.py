# SPDX-License-Identifier: Apache-2.0
"""What the embedded checkpoints are there for: the first thing that a newcomer tries works, offline."""

from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

import butd_hf


IMAGES = Path(__file__).parents[2] / "examples" / "images"


@pytest.mark.parametrize("task", ["object-detection", "image-segmentation"])
def test_the_stock_pipelines_find_the_cat(task):
    found = pipeline(task, model=butd_hf.default_checkpoint(task))(str(IMAGES / "cat.jpg"))
    best = max(found, key=lambda each: each["score"])
    assert best["label"] == "cat" and best["score"] > 0.8
    if task == "image-segmentation":
        mask = np.array(best["mask"]) > 0
        assert 0.1 < mask.mean() < 0.9


def test_a_photograph_without_known_things_has_none():
    detector = pipeline("object-detection", model=butd_hf.default_checkpoint("object-detection"))
    assert detector(str(IMAGES / "temple.jpg")) == []
