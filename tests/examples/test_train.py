# SPDX-License-Identifier: Apache-2.0
"""The five trainings as people start them: what a run leaves, and that killed and shared runs come to the same."""

import io
import json
import os
import runpy
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import butd_hf
from butd_hf.data.data_errors import BrokenSampleError
from butd_hf.data.region_store import RegionStore


EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["hidden_size=16", "num_hidden_layers=1", "num_attention_heads=2", "intermediate_size=32", "num_regions=6"]
SHORT = {
    "--backbone": "test_efficientnet", "--image_size": 64, "--per_device_train_batch_size": 2, "--logging_steps": 1,
    "--dataloader_num_workers": 0, "--num_train_epochs": 1, "--disable_tqdm": True, "--learning_rate": 1e-2,
}  # fmt: skip
TEXT = {"--min_frequency": 1}


def run(task, *options, config=SMALL, **changes):
    """An example in this process; returns the metrics that it prints."""
    named = {
        **SHORT,
        **(TEXT if task in ("captioning", "vqa") else {}),
        **{f"--{name}": value for name, value in changes.items()},
    }
    words = [str(word) for pair in named.items() if pair[1] is not None for word in pair]
    before, sys.argv = (
        sys.argv,
        [f"train_{task}.py", "--use_cpu", *words, *(["--config", *config] if config else []), *map(str, options)],
    )
    try:
        script = runpy.run_path(str(EXAMPLES / f"train_{task}.py"), run_name="example")
        if "main" in script:
            return script["main"]()
        metric = "mask_ap50" if task == "segmentation" else "box_ap50"
        model = script["ButdForInstanceSegmentation" if task == "segmentation" else "ButdForObjectDetection"]
        return script["train"](model, description="", metric_for_best_model=metric)
    finally:
        sys.argv = before


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def captioner(caption_data, tmp_path_factory):
    """A run on stored regions with averaged weights."""
    folder = tmp_path_factory.mktemp("runs")
    cache = {"freeze": "all", "cache": folder / "cache", "ema_decay": 0.5}
    metrics = run("captioning", data=caption_data, output_dir=folder / "run", num_train_epochs=2, **cache)
    return folder, metrics


def test_a_captioner_with_all_that_belongs_to_it(captioner, caption_data):
    folder, metrics = captioner
    assert metrics["eval_loss"] > 0 and "eval_cider" in metrics
    model = butd_hf.ButdForConditionalGeneration.from_pretrained(folder / "run")
    processor = butd_hf.ButdProcessor.from_pretrained(folder / "run")
    lines = lines_of(folder / "run")
    assert [line["image_id"] for line in lines] == ["4.png", "5.png"] and len(lines[0]["references"]) == 3
    for line in lines:  # what the saved model says of the image itself
        inputs = processor(images=str(caption_data / "images" / line["image_id"]), return_tensors="pt")
        text = processor.batch_decode(model.eval().generate(**inputs), skip_special_tokens=True)[0].strip()
        assert text == line["prediction"]
    card = (folder / "run" / "README.md").read_text()
    assert "4 images with 12 captions" in card and "train_captioning.py" in card
    store = RegionStore.open(folder / "cache" / "train")
    assert set(store.views) == {"identity", "flip"} and len(store) == 8
    assert json.loads((folder / "run" / "eval_results.json").read_text())["eval_cider"] == metrics["eval_cider"]
    assert len(list((folder / "run").glob("checkpoint-*"))) == 2


def test_a_run_is_not_overwritten(captioner, caption_data):
    folder, _ = captioner
    with pytest.raises(FileExistsError, match="--resume_from_checkpoint last"):
        run("captioning", data=caption_data, output_dir=folder / "run")


@pytest.mark.slow
def test_self_critical_training_goes_on_from_a_captioner(captioner, caption_data, tmp_path):
    metrics = run(
        "captioning", "--self_critical", config=[], data=caption_data, init_from=captioner[0] / "run",
        output_dir=tmp_path, backbone=None, num_samples=2,
    )  # fmt: skip
    assert "eval_cider" in metrics
    old, new = (load_file(folder / "model.safetensors") for folder in (captioner[0] / "run", tmp_path))
    assert any(not old[name].equal(new[name]) for name in old)


@pytest.mark.slow
def test_questions(tmp_path, caption_data):
    lines = [
        {"image": f"{index}.png", "split": "train" if index < 4 else "val", "question": text, "answer": answer}
        for index in range(6)
        for text, answer in (("what colour is it", ["red", "green", "blue"][index % 3]), ("is it one", "yes"))
    ]
    (tmp_path / "qa.jsonl").write_text(
        "".join(json.dumps({**line, "answers": [line["answer"]]}) + "\n" for line in lines)
    )
    options = {
        "data": tmp_path / "qa.jsonl",
        "images": caption_data / "images",
        "freeze": "all",
        "cache": tmp_path / "c",
    }
    metrics = run("vqa", "--bf16", output_dir=tmp_path / "run", loss="ce", questions_per_image=2, **options)
    assert 0 <= metrics["eval_exact_match"] <= 100
    assert len(lines_of(tmp_path / "run")) == 4
    more = run("vqa", config=[], init_from=tmp_path / "run", output_dir=tmp_path / "more", backbone=None, **options)
    assert set(more) == set(metrics)
    model = butd_hf.ButdForQuestionAnswering.from_pretrained(tmp_path / "more")
    assert set(model.config.label2id) == {"yes", "red", "green", "blue"}


@pytest.mark.slow
def test_from_a_detector_to_a_segmenter_and_a_scene_graph_model(detection_data, tmp_path):
    detector = [*SMALL, "fpn_size=16", "region_head_size=16"]
    metrics = run(
        "detection", "--augment", "flip", "mosaic", config=detector, data=detection_data, output_dir=tmp_path / "d"
    )
    assert {"eval_loss", "eval_box_ap50", "eval_recall36"} <= set(metrics)
    options = {"init_from": tmp_path / "d", "backbone": None}
    more = run(
        "segmentation", config=["region_mask_size=14"], data=detection_data, output_dir=tmp_path / "s", **options
    )
    assert "eval_mask_ap50" in more and len(lines_of(tmp_path / "s")) == 2
    assert butd_hf.ButdForInstanceSegmentation.from_pretrained(tmp_path / "s").config.id2label == {
        0: "square",
        1: "disc",
    }

    (tmp_path / "images").mkdir()
    images = []
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        objects = [
            {"label": label, "bbox": [4 + 20 * place, 6, 18, 30]}
            for place, label in enumerate(("disc", "hat", "disc"))
        ]
        relations = [
            {"subject": 0, "predicate": "left of", "object": 1},
            {"subject": 2, "predicate": "on", "object": 1},
        ]
        split = "train" if index < 4 else "val"
        images.append({"image": f"{index}.png", "split": split, "objects": objects, "relations": relations})
    (tmp_path / "annotations.json").write_text(json.dumps(images))
    for mode in ("predcls", "sgdet"):
        changes = {"mode": mode, "augment": "flip", "train_sampling_strategy": "group_by_length"}
        metrics = run("scene_graph", config=SMALL[:4], data=tmp_path, output_dir=tmp_path / mode, **options, **changes)
        assert metrics["eval_loss"] > 0 and "eval_recall_50_triples" in metrics
    model = butd_hf.ButdForSceneGraphGeneration.from_pretrained(tmp_path / "predcls")
    assert sorted(model.config.id2label.values()) == ["disc", "hat", "square"]


def test_strict_runs_stop_at_a_broken_image(caption_data, tmp_path):
    (tmp_path / "images").mkdir()
    for file in (caption_data / "images").iterdir():
        (tmp_path / "images" / file.name).write_bytes(b"nothing" if file.name == "1.png" else file.read_bytes())
    options = {"data": caption_data / "captions.jsonl", "images": tmp_path / "images"}
    with pytest.raises(BrokenSampleError, match=r"1\.png"):
        run("captioning", "--strict", output_dir=tmp_path / "run", **options)


def stepwise(steps):
    """Evaluates and saves after so many steps each."""
    return {"eval_strategy": "steps", "eval_steps": steps, "save_strategy": "steps", "save_steps": steps}


def train_or_die(die_at, options):
    """A captioner; with `die_at`, the process kills itself when that checkpoint has half of its files."""
    from butd_hf.training.trainer import ButdTrainer

    save = ButdTrainer._save_optimizer_and_scheduler

    def save_or_die(self, folder):
        if folder.endswith(f"checkpoint-{die_at}"):
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, folder)

    ButdTrainer._save_optimizer_and_scheduler = save_or_die
    run("captioning", "--augment", "flip", "crop", **options)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_goes_on_to_equal_weights(caption_data, tmp_path, fork, processes):
    """One or two processes, killed with -9 within a save in the middle of an epoch."""
    options = {
        "data": caption_data,
        "num_train_epochs": 3,
        "ema_decay": 0.9,
        "per_device_train_batch_size": 1,
        **stepwise(1),
    }
    options["save_total_limit"] = 20
    last = 12 // processes
    die_at = last // 2 + (processes == 1)

    def exit_codes(die_at, folder, **more):
        copies = fork(processes, tmp_path / "log.txt", train_or_die, die_at, {**options, **more, "output_dir": folder})
        for copy in copies:
            copy.join(300)
        return [copy.exitcode for copy in copies]

    assert exit_codes(None, tmp_path / "whole") == [0] * processes, (tmp_path / "log.txt").read_text()[-3000:]
    assert exit_codes(die_at, tmp_path / "killed")[0] == -signal.SIGKILL
    half = tmp_path / "killed" / f"checkpoint-{die_at}"
    assert half.is_dir() and not (half / "trainer_state.json").exists()
    assert exit_codes(None, tmp_path / "killed", resume_from_checkpoint="last") == [0] * processes
    for name in (f"checkpoint-{last}/model.safetensors", "model.safetensors"):
        whole, killed = (load_file(tmp_path / folder / name) for folder in ("whole", "killed"))
        assert all(weight.equal(killed[key]) for key, weight in whole.items())
    assert lines_of(tmp_path / "whole") == lines_of(tmp_path / "killed")


@pytest.mark.slow
def test_two_processes_share_streamed_shards(caption_data, tmp_path, fork):
    """Shards with a broken image are mixed with a table; a resumed run reads on where it was."""
    lines = [json.loads(line) for line in (caption_data / "captions.jsonl").read_text().splitlines()]
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as archive:
            for number in range(3 * shard, 3 * shard + 3):
                image = b"nothing" if number == 1 else (caption_data / "images" / f"{number}.png").read_bytes()
                captions = json.dumps({"captions": lines[number]["captions"]}).encode()
                for name, content in ((f"{number}.png", image), (f"{number}.json", captions)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    options = {
        "data": tmp_path / "shards",
        "eval_data": caption_data,
        "max_steps": 4,
        "shuffle_buffer": 3,
        **stepwise(2),
    }
    options["num_train_epochs"] = None

    def exit_codes(folder, **more):
        copies = fork(2, tmp_path / "log.txt", stream, caption_data, {**options, **more, "output_dir": folder})
        for copy in copies:
            copy.join(300)
        return [copy.exitcode for copy in copies]

    assert exit_codes(tmp_path / "whole") == [0, 0], (tmp_path / "log.txt").read_text()[-3000:]
    resumed = tmp_path / "whole" / "checkpoint-2"
    assert exit_codes(tmp_path / "again", resume_from_checkpoint=resumed) == [0, 0]
    whole, again = (load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "again"))
    assert all(weight.equal(again[name]) for name, weight in whole.items())
    assert "'broken_samples': " in (tmp_path / "log.txt").read_text()  # of both processes together


def stream(table, options):
    """A captioner of shards and a table."""
    shards = options.pop("data")
    run("captioning", "--data", shards, table, "--data_weights", 3, 1, **options)


@pytest.mark.parametrize("task", ["captioning", "vqa", "scene_graph", "detection", "segmentation"])
def test_an_example_is_short_and_begins_with_its_command(task):
    lines = (EXAMPLES / f"train_{task}.py").read_text().splitlines()
    assert len(lines) <= 120 and any(f"accelerate launch examples/train_{task}.py" in line for line in lines[:6])
