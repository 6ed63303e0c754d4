"""What the embedded checkpoints are there for: the first thing that a newcomer tries works, offline."""

import numpy as np
import pytest
from transformers import pipeline

import butd_hf


CAT = "examples/images/cat.jpg"


@pytest.mark.parametrize("task", ["object-detection", "image-segmentation"])
def test_the_stock_pipelines_find_the_cat(task):
    found = pipeline(task, model=butd_hf.default_checkpoint(task))(CAT)
    best = max(found, key=lambda each: each["score"])
    assert best["label"] == "cat" and best["score"] > 0.8
    if task == "image-segmentation":
        mask = np.array(best["mask"]) > 0
        assert 0.1 < mask.mean() < 0.9


def test_a_photograph_without_known_things_has_none(tmp_path):
    detector = pipeline("object-detection", model=butd_hf.default_checkpoint("object-detection"))
    assert detector("examples/images/temple.jpg") == []
