# SPDX-License-Identifier: Apache-2.0
"""Every task learns from two processes what it learns from one with batches twice as large."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import butd_hf


EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--epochs", "1", "--num_workers", "0", "--num_threads", "1", "--logging_steps", "1", "--warmup", "0"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "dropout": 0.0}
CLASSES = {"id2label": {0: "square", 1: "disc"}, "label2id": {"square": 0, "disc": 1}}
TASKS = ("detection", "segmentation", "vqa", "scene_graph", "scene_graph_found")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of checkpoints in which nothing is random."""
    folder = tmp_path_factory.mktemp("models")
    pyramid = {"backbone": "test_efficientnet", "num_regions": 8, "fpn_size": 16, "region_head_size": 16}
    torch.manual_seed(0)
    config = {"bottom_up_config": {**pyramid, "num_noised_boxes": 0}, "top_down_config": SMALL, **CLASSES}
    for name, model_class in (
        ("detection", butd_hf.ButdForObjectDetection),
        ("segmentation", butd_hf.ButdForInstanceSegmentation),
    ):
        model_class(butd_hf.ButdConfig(**config)).save_pretrained(folder / name)
        butd_hf.ButdImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def options(models, detection_data, tmp_path_factory):
    """The example of each task with its options. Images differ in how much there is to find; one shows no shape."""
    folder = tmp_path_factory.mktemp("annotations")
    document = json.loads((detection_data / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    graphs, questions = [], []
    for image in document["images"]:
        found = [each for each in document["annotations"] if each["image_id"] == image["id"]]
        objects = [{"label": names[each["category_id"]], "bbox": each["bbox"]} for each in found]
        objects += [{"label": "dog", "bbox": [3 * number, 9, 20, 30]} for number in range(1 + image["id"] % 3)]
        pairs = range(1, len(objects)) if image["id"] % 2 else (len(objects) - 1,)
        relations = [{"subject": 0, "predicate": ("on", "by")[each % 2], "object": each} for each in pairs if each]
        own = {"image": image["file_name"], "split": image["split"]}
        graphs.append({**own, "objects": objects, "relations": relations})
        for number in range(1 + image["id"] % 3):
            questions.append({**own, "question": f"what is {number}", "answers": [("disc", "square")[number % 2]]})
    (folder / "graphs.json").write_text(json.dumps(graphs))
    (folder / "qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in questions))
    images = ["--images", detection_data / "images"]
    decoder = ["--num_heads", "2", "--intermediate_size", "32", "--hidden_size", "32", "--dropout", "0"]
    decoder += ["--backbone", "test_efficientnet", "--image_size", "64"]
    looks = {"detection": [], "segmentation": []}
    for name in looks:
        looks[name] = ["--data", detection_data, "--init_from", models / name, "--augment", "none", "--common", "1"]
    graph = ["--data", folder / "graphs.json", *images, *decoder, "--num_layers", "1"]
    return {
        **{name: (f"train_{name}.py", chosen) for name, chosen in looks.items()},
        "vqa": (
            "train_vqa.py",
            ["--data", folder / "qa.jsonl", *images, *decoder, "--answer_dropout", "0", "--augment", "none"],
        ),
        "scene_graph": ("train_scene_graph.py", [*graph, "--mode", "predcls"]),
        "scene_graph_found": ("train_scene_graph.py", [*graph, "--mode", "sgcls"]),
    }


def train(options, folder, batch_size, *more):
    """Trains every task, one after another, in this process."""
    for name, (example, own) in options.items():
        own = [*own, *SHORT, "--output_dir", folder / name, "--batch_size", batch_size, *more]
        sys.argv = [example, *map(str, own)]
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")


@pytest.fixture(scope="module")
def runs(options, fork, tmp_path_factory):
    """A folder of runs: `shared` by two processes, `alone` in this one, `gathered` from two batches in a step."""
    folder, before = tmp_path_factory.mktemp("runs"), sys.argv
    copies = fork(2, folder / "log.txt", train, options, folder / "shared", 1)
    for copy in copies:
        copy.join(300)
    assert [copy.exitcode for copy in copies] == [0, 0], (folder / "log.txt").read_text()
    train(options, folder / "alone", 2)
    gathered = ("--gradient_accumulation_steps", "2", "--max_steps", "1")
    train({"detection": options["detection"]}, folder / "gathered", 1, *gathered)
    sys.argv = before
    return folder


def losses(run):
    """Each part of the loss in each step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if "loss" in name}
        for line in lines
        if line["event"] == "training"
    ]


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_learn_what_one_learns(runs, task):
    alone, shared = losses(runs / "alone" / task), losses(runs / "shared" / task)
    assert len(alone) == len(shared) >= 2
    for one, two in zip(alone, shared, strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-7)


def test_batches_of_a_step_are_weighed_by_what_is_to_be_found(runs):
    (gathered,), alone = losses(runs / "gathered" / "detection"), losses(runs / "alone" / "detection")
    for name in ("loss_ce", "loss_bbox", "loss_giou"):
        assert gathered[name] == pytest.approx(alone[0][name], rel=1e-5), name
