# SPDX-License-Identifier: Apache-2.0
import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import pipeline

from butd_hf.inference.objects import detect_objects
from butd_hf.modeling.image_processing_butd import ButdImageProcessor
from butd_hf.modeling.modeling_detection_butd import ButdForInstanceSegmentation, ButdForObjectDetection


EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = [
    *("--backbone", "test_efficientnet", "--image_size", "64", "--num_regions", "8", "--fpn_size", "16"),
    *("--region_head_size", "16", "--hidden_size", "32", "--num_layers", "1", "--num_heads", "2"),
    *("--intermediate_size", "32"),
]
SHORT = [
    *("--batch_size", "2", "--epochs", "1", "--num_workers", "0", "--num_threads", "1", "--logging_steps", "1"),
    *("--common", "1"),
]
AUGMENT = ("--augment", "flip", "crop", "zoom_out", "jitter", "mosaic")


def run(name, *options):
    """The example in this process, which has imported everything already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, options)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def detector(detection_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "detector"
    run("train_detection.py", "--data", detection_data, "--output_dir", folder, *TINY, *SHORT, *AUGMENT)
    return folder


def test_a_run_leaves_a_model_that_detects(detector, detection_data):
    assert len(events(detector, "training")) == 2
    scores = events(detector, "evaluation")[0]
    assert {"box_ap", "box_ap50", "box_ap75", "box_ap50_common", "box_ap50_disc", "recall36", "loss"} <= set(scores)
    assert not any(name.startswith("mask") for name in scores)
    lines = [json.loads(line) for line in (detector / "predictions" / "epoch-001.jsonl").read_text().splitlines()]
    assert [line["image_id"] for line in lines] == [104, 105]
    assert [each["label"] for each in lines[0]["references"]] == ["square", "disc"]
    assert 0 < len(lines[0]["regions"]) <= 8
    assert json.loads((detector / "arguments.json").read_text())["task"]["kind"] == "detection"

    model = ButdForObjectDetection.from_pretrained(detector / "best").eval()
    assert model.config.id2label == {0: "square", 1: "disc"}
    image = Image.open(detection_data / "images" / "4.png").convert("RGB")
    processor = ButdImageProcessor.from_pretrained(detector / "best")
    ((found, _),) = detect_objects(model, processor, [image], threshold=0.01)
    # inference sees what the evaluation saw
    assert found.scores.tolist() == pytest.approx([each["score"] for each in lines[0]["objects"]], abs=1e-4)
    pipeline("object-detection", model=str(detector / "best"))(image)


def test_segmentation_goes_on_from_a_detector(detector, detection_data, tmp_path):
    folder = tmp_path / "segmenter"
    options = ["--init_from", detector / "best", "--region_mask_size", "8", "--freeze", "1", "--freeze_depthwise"]
    run("train_segmentation.py", "--data", detection_data, "--output_dir", folder, *SHORT, *AUGMENT, *options)
    scores = events(folder, "evaluation")[0]
    assert {"box_ap50", "mask_ap", "mask_ap50", "mask_ap50_common", "recall36"} <= set(scores)
    before = ButdForObjectDetection.from_pretrained(detector / "best").bottom_up.backbone.state_dict()
    after = ButdForInstanceSegmentation.from_pretrained(folder / "best")
    assert after.config.id2label == {0: "square", 1: "disc"}
    kernels = {
        name: torch.equal(before[name], weight)
        for name, weight in after.bottom_up.backbone.state_dict().items()
        if weight.ndim == 4
    }
    depthwise = [name for name in kernels if before[name].shape[1] == 1]
    assert depthwise and all(kernels[name] for name in depthwise) and not all(kernels.values())


def odd_data(source: Path, folder: Path) -> Path:
    """Pictures with 500 objects, at and over the border, and without any; nobody drew a mask."""
    shutil.copytree(source / "images", folder / "images")
    document = json.loads((source / "annotations.json").read_text())
    crowded = [[(7 * place) % 50, (11 * place) % 40, 6, 8] for place in range(500)]
    boxes = {
        100: crowded,
        101: [[0, 0, 64, 48], [-5, -5, 20, 20], [60, 40, 30, 30]],
        102: [[10, 10, 0, 12], [10, 10, 8, 8]],
        103: [],
        104: crowded,
        105: [],
    }
    rows = [(image, box) for image, each in boxes.items() for box in each]
    document["annotations"] = [
        {"id": number, "image_id": image, "category_id": 3, "bbox": box, "iscrowd": 0, "segmentation": None}
        for number, (image, box) in enumerate(rows, start=1)
    ]
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("name", ["train_detection.py", "train_segmentation.py"])
def test_odd_pictures_train_and_evaluate(name, detection_data, tmp_path):
    data = odd_data(detection_data, tmp_path / "data")
    run(name, "--data", data, "--output_dir", tmp_path / "run", *TINY, *SHORT, *AUGMENT)
    losses = [event["loss"] for event in events(tmp_path / "run", "training")]
    scores = events(tmp_path / "run", "evaluation")[0]
    assert all(map(math.isfinite, [*losses, scores["loss"], scores["box_ap50"], scores["recall36"]]))
    strict = ["--data", data, "--output_dir", tmp_path / "strict", *TINY, *SHORT, "--strict"]
    with pytest.raises(ValueError, match=r"annotations\[503\] \(id 504\) of image 2.png"):
        run(name, *strict)


def test_accelerate_launches(detection_data, tmp_path):
    """All examples begin alike: one of them is started as their first lines say."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    launch += [EXAMPLES / "train_detection.py", "--data", detection_data, "--output_dir", tmp_path / "run"]
    process = subprocess.run(list(map(str, [*launch, *TINY, *SHORT])), capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()


def test_unknown_splits_are_named(detection_data, tmp_path):
    options = ["--data", detection_data, "--output_dir", tmp_path / "run", *TINY, *SHORT]
    with pytest.raises(ValueError, match=r"no split 'holdout', but \['train', 'val'\]"):
        run("train_detection.py", *options, "--eval_split", "holdout")
