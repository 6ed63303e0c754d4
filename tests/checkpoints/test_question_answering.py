# SPDX-License-Identifier: Apache-2.0
"""The embedded checkpoint that answers questions."""

import json
from pathlib import Path

import pytest
from transformers import pipeline
from typer.testing import CliRunner

import butd_hf
from butd_hf.cli import app


IMAGES = sorted(str(file) for file in (Path(__file__).parents[2] / "examples" / "images").glob("*.jpg"))
QUESTIONS = ["what is on the table", "how many chairs are there", "", "word " * 200, "🙂"]


@pytest.fixture(scope="module")
def oracle():
    return pipeline("vqa", device="cpu")


def test_pipeline_without_a_model(oracle):
    assert oracle.model.name_or_path == butd_hf.default_checkpoint("visual-question-answering")
    (best, second) = oracle(image=IMAGES[0], question=QUESTIONS[0], top_k=2)
    assert 1 > best["score"] >= second["score"] > 0


def test_the_batch_changes_no_answer(oracle):
    asked = [{"image": image, "question": question} for image in IMAGES[:2] for question in QUESTIONS]
    together = oracle(asked, top_k=1, batch_size=4)
    for one, (found,) in zip(asked, together, strict=True):
        (alone,) = oracle(one, top_k=1)
        assert alone["answer"] == found["answer"]
        assert alone["score"] == pytest.approx(found["score"], abs=1e-4)


def test_ask_without_a_model():
    result = CliRunner().invoke(app, ["ask", IMAGES[0], QUESTIONS[0], "--json"])
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)[0]["answers"]) == 5


def test_it_is_small():
    folder = Path(butd_hf.default_checkpoint("visual-question-answering"))
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30e6
