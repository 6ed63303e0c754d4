# SPDX-License-Identifier: Apache-2.0
"""The embedded checkpoint that makes scene graphs."""

import json
from pathlib import Path

import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

import butd_hf
from butd_hf.cli import app


IMAGES = sorted(str(file) for file in (Path(__file__).parents[2] / "examples" / "images").glob("*.jpg"))


@pytest.fixture(scope="module")
def grapher():
    return pipeline("scene-graph-generation", device="cpu")


def test_pipeline_without_a_model(grapher):
    assert grapher.model.name_or_path == butd_hf.default_checkpoint("scene-graph-generation")
    graphs = grapher(IMAGES, batch_size=2)
    names = set(grapher.model.config.id2predicate.values())
    for image, graph in zip(IMAGES, graphs, strict=True):
        numbers = range(len(graph["objects"]))
        for relation in graph["relations"]:
            assert relation["subject"] in numbers and relation["object"] in numbers
            assert relation["predicate"] in names and 0 < relation["score"] < 1
        assert "cat.jpg" not in image or graph["objects"][0]["label"] == "cat"


@torch.no_grad()
def test_what_labels_and_places_say(grapher):
    model = grapher.model
    labels = [model.config.label2id[name] for name in ("person", "hat", "street")]
    boxes = torch.tensor([[[0.4, 0.2, 0.6, 0.9], [0.45, 0.18, 0.55, 0.28], [0.0, 0.6, 1.0, 1.0]]])
    outputs = model(region_boxes=boxes, region_labels=torch.tensor([labels]))
    (graph,) = grapher.image_processor.post_process_scene_graph_generation(outputs)
    said = {
        (int(graph["regions"][subject]), model.config.id2predicate[predicate], int(graph["regions"][object_]))
        for subject, object_, predicate in graph["relations"][:3].tolist()
    }
    assert (0, "wear", 1) in said and (0, "on", 2) in said


def test_graph_without_a_model(tmp_path):
    result = CliRunner().invoke(app, ["graph", IMAGES[0], "--json", "--draw", str(tmp_path / "graph.png")])
    assert result.exit_code == 0, result.output
    assert {"objects", "relations"} <= set(json.loads(result.stdout)[0])
    assert (tmp_path / "graph.png").stat().st_size > 10_000


def test_it_is_small():
    folder = Path(butd_hf.default_checkpoint("scene-graph-generation"))
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30e6
