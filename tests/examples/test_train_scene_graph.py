# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import pipeline
from typer.testing import CliRunner

import butd_hf
from butd_hf.cli import app
from butd_hf.modeling.heads.frequency_prior import ButdFrequencyPrior


EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = [
    *("--hidden_size", "16", "--num_layers", "1", "--num_heads", "2", "--intermediate_size", "32"),
    *("--batch_size", "4", "--epochs", "1", "--num_workers", "0", "--num_threads", "1", "--logging_steps", "1"),
]


def run(monkeypatch, *options):
    """The example in this process, which has imported everything already."""
    monkeypatch.setattr(sys, "argv", ["train_scene_graph.py", *map(str, options)])
    runpy.run_path(str(EXAMPLES / "train_scene_graph.py"), run_name="__main__")


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def evaluate(*arguments, code=0):
    result = CliRunner().invoke(app, ["evaluate", "scene-graph", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight images, six to learn from: a hat on a dog on a mat; the last has no relation. No pictures."""
    folder = tmp_path_factory.mktemp("vrd")
    images = []
    for index in range(8):
        objects = [
            {"label": "dog", "bbox": [10 + index, 20, 20, 20]},
            {"label": "mat", "bbox": [0, 40, 60, 10]},
            {"label": "hat", "bbox": [12 + index, 14, 10, 6]},
        ]
        relations = [{"subject": 0, "predicate": "on", "object": 1}, {"subject": 2, "predicate": "over", "object": 0}]
        split = "train" if index < 6 else "val"
        images.append(
            {
                "image": f"{index}.png",
                "split": split,
                "objects": objects,
                "relations": relations if index < 7 else [],
            }
        )
    (folder / "annotations.json").write_text(json.dumps(images))
    (folder / "objects.txt").write_text("mat\ndog\nhat\n")
    (folder / "predicates.txt").write_text("over\non\n")
    return folder


@pytest.fixture(scope="module")
def pictures(data, tmp_path_factory):
    """The same with pictures."""
    folder = tmp_path_factory.mktemp("with_pictures")
    (folder / "images").mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Random weights that tell a hound and a sheep apart."""
    folder = tmp_path_factory.mktemp("detector")
    config = butd_hf.ButdConfig(
        bottom_up_config={
            "backbone": "test_efficientnet", "selector": "rpn", "num_regions": 6, "min_regions": 4, "fpn_size": 16,
            "region_head_size": 16, "num_region_labels": 2,
        },
        top_down_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        id2label={0: "hound", 1: "sheep"}, label2id={"hound": 0, "sheep": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    butd_hf.ButdForObjectDetection(config).save_pretrained(folder)
    butd_hf.ButdImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def first_run(data, detector, tmp_path_factory):
    """A run end to end, on labels and geometry, with a detector's bottom-up half for later."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "map.json").write_text('{"hound": "dog"}')
    (folder / "names.json").write_text('{"over": "worn by"}')
    with pytest.MonkeyPatch.context() as patch:
        options = ["--init_from", detector, "--label_map", folder / "map.json", "--pair_rivals", "true"]
        options += ["--predicate_names", folder / "names.json", "--augment", "flip"]
        run(patch, "--data", data, "--output_dir", folder / "first", *TINY, *options)
    return folder / "first"


def test_a_run_leaves_a_model_of_labels_and_geometry(first_run, data, detector):
    (evaluation,) = events(first_run, "evaluation")
    assert evaluation["recall_50_triples"] == 100 and "loss" in evaluation
    lines = [json.loads(line) for line in (first_run / "predictions" / "epoch-001.jsonl").open()]
    assert len(lines) == 2 and lines[0]["references"]["relations"] == [[0, "on", 1], [2, "over", 0]]

    model = butd_hf.ButdForSceneGraphGeneration.from_pretrained(first_run / "best")
    config = model.config
    assert list(config.id2label.values()) == ["mat", "dog", "hat", "sheep"] and config.region_label_ids == [1, 3]
    assert config.id2predicate == {0: "over", 1: "on"} and config.predicate_names == {0: "worn by", 1: "on"}
    assert not config.relation_appearance
    assert model.top_down.frequency_prior.counted_triples() == {(1, 1, 0), (2, 0, 1)}
    before = butd_hf.ButdForObjectDetection.from_pretrained(detector).base_model.bottom_up.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in model.bottom_up.state_dict().items())


def test_a_run_leaves_a_card(first_run):
    text = (first_run / "best" / "README.md").read_text()
    assert "6 images with 12 relations" in text and "scored by the run after epoch 1, recall over" in text
    assert "| R@50 | 100.0 |\n" in text and "counting alone" not in text
    assert ModelCard(text).data.pipeline_tag == "scene-graph-generation"


def test_pipeline_shows_the_names_for_people(first_run, pictures):
    grapher = pipeline("scene-graph-generation", model=str(first_run / "best"))
    graph = grapher(str(pictures / "images" / "0.png"), threshold=0.0)
    assert graph["relations"] and {each["predicate"] for each in graph["relations"]} <= {"worn by", "on"}


def test_command_scores_without_pictures(first_run, data, tmp_path):
    predictions = tmp_path / "predictions.jsonl"
    options = ["--data", data, "--model", first_run / "best", "--split", "val"]
    result = json.loads(evaluate(*options, "--json", "--per-predicate", "--predictions", predictions).stdout)
    assert result["mode"] == "predcls" and result["num_images"] == 2
    scores = result["metrics"]
    assert scores["recall_50_triples"] == scores["counting_recall_50_triples"] == 100
    assert scores["recall_50_predicate_on"] == 100 and "zero_shot_recall_50_triples" not in scores
    assert [json.loads(line)["image"] for line in predictions.open()] == ["6.png", "7.png"]
    assert "R@50 over triples, by counting alone" in evaluate(*options).stdout


def test_command_lets_one_thing_repeat_itself_if_asked(first_run, data, tmp_path):
    """A dog that somebody drew twice is on the mat and, says the other box, over it."""
    for file in data.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    boxes = {"dog": [10, 20, 20, 20], "mat": [0, 40, 60, 10], "again": [10, 20, 20, 19]}
    objects = [{"label": name if name != "again" else "dog", "bbox": box} for name, box in boxes.items()]
    relations = [{"subject": 0, "predicate": "on", "object": 1}, {"subject": 2, "predicate": "over", "object": 1}]
    image = {"image": "0.png", "split": "val", "objects": objects, "relations": relations}
    (tmp_path / "annotations.json").write_text(json.dumps([image]))
    options = ["--data", tmp_path, "--model", first_run / "best", "--json"]
    once, repeated = (json.loads(evaluate(*options, *more).stdout)["metrics"] for more in ([], ["--repeats"]))
    assert once["recall_50_triples"] == 100 and repeated["recall_50_triples"] == 50


@pytest.mark.parametrize("mode", ["sgcls", "sgdet"])
def test_modes_that_need_pictures(first_run, data, pictures, mode):
    options = ["--model", first_run / "best", "--mode", mode]
    error = evaluate("--data", data, *options, code=2).stderr
    assert f"{mode} needs pictures" in error
    result = json.loads(evaluate("--data", pictures, *options, "--json").stdout)
    assert result["num_images"] == 8 and "counting_recall_50_triples" not in result["metrics"]


def test_command_refuses_what_does_not_fit(first_run, data, tmp_path):
    options = ["--model", first_run / "best"]
    assert "is none of predcls" in evaluate("--data", data, *options, "--mode", "guess", code=2).stderr
    for file in data.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("hat", "cap"))
    assert "'cap'" in evaluate("--data", tmp_path, *options, code=2).stderr


@pytest.mark.parametrize("mode", ["predcls", "sgcls", "sgdet"])
def test_pictures_teach_too(pictures, tmp_path, monkeypatch, mode):
    options = ["--backbone", "test_efficientnet", "--image_size", "64", "--mode", mode, "--augment", "flip"]
    run(monkeypatch, "--data", pictures, "--output_dir", tmp_path / "run", *TINY, *options)
    model = butd_hf.ButdForSceneGraphGeneration.from_pretrained(tmp_path / "run" / "best")
    assert model.config.relation_appearance
    assert ("loss_object" in events(tmp_path / "run", "training")[0]) == (mode != "predcls")


def test_a_run_goes_on_from_a_scene_graph_model(first_run, data, tmp_path, monkeypatch):
    run(monkeypatch, "--data", data, "--output_dir", tmp_path / "run", *TINY[8:], "--init_from", first_run / "best")
    after = butd_hf.ButdForSceneGraphGeneration.from_pretrained(tmp_path / "run" / "best").config
    assert after.predicate_names == {0: "worn by", 1: "on"} and after.num_labels == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "guess"], "--mode must be of"),
        (["--augment", "jitter"], "--augment must be of"),
        (["--mode", "sgcls", "--backbone", "test_efficientnet"], "'sgcls' needs pictures"),
        (["--eval_split", "holdout"], "no relations in split 'holdout'"),
    ],
)
def test_impossible_options_are_refused(data, tmp_path, monkeypatch, options, message):
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, "--data", data, "--output_dir", tmp_path / "run", *TINY, *options)


def test_prior_of_older_checkpoints_tells_no_triples():
    assert ButdFrequencyPrior(butd_hf.ButdConfig(num_labels=3, num_predicates=2)).counted_triples() == set()


def test_labels_may_begin_as_words(data, detector, tmp_path, monkeypatch):
    """Sheep, which the data doesn't have, begin and stay as words say."""
    vectors = {"dog": "1 0 0.2", "sheep": "0.9 0.1 0.2", "mat": "0 1 0", "hat": "0 0 1"}
    (tmp_path / "vectors.txt").write_text("".join(f"{word} {vector}\n" for word, vector in vectors.items()))
    options = ["--init_from", detector, "--word_vectors", tmp_path / "vectors.txt", "--learning_rate", "0"]
    options += ["--label_map", tmp_path / "map.json", "--group_sizes", "true"]
    (tmp_path / "map.json").write_text('{"hound": "dog"}')
    run(monkeypatch, "--data", data, "--output_dir", tmp_path / "run", *TINY, *options)
    model = butd_hf.ButdForSceneGraphGeneration.from_pretrained(tmp_path / "run" / "best")
    mat, dog, hat, sheep = model.top_down.embed_labels.weight
    assert torch.cosine_similarity(dog, sheep, dim=0) > max(
        torch.cosine_similarity(dog, each, dim=0) for each in (mat, hat)
    )
    assert (dog - sheep).norm() < (dog - mat).norm()
