# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from butd_hf.cards import count_parameters, recipe, write_card


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    command = [
        "/somewhere/butd_hf/examples/train_captioning.py",
        "--data",
        "/somewhere/flickr8k",
        "--output_dir",
        "run",
    ]
    (folder / "arguments.json").write_text(json.dumps({"command": command, "loop": {}, "task": {}}))
    versions = {
        "python": "3.11",
        "torch": "2.9",
        "transformers": "5.0",
        "timm": "1.0",
        "device": "x86",
        "num_threads": 2,
    }
    (folder / "versions.json").write_text(json.dumps(versions))
    return folder


def test_card_says_what_the_run_wrote_down(checkpoint, run):
    evaluation = {"split": "dev", "num_images": 1000, "num_beams": 3, "metrics": {"bleu_4": 20.04, "cider": 51.26}}
    write_card(
        checkpoint,
        name="someone/captioner",
        data="Flickr8k, 6,000 photographs.",
        licence="The weights are Apache 2.0.",
        licence_id="apache-2.0",
        dataset="flickr8k",
        base_model="timm/tf_efficientnet_lite2.in1k",
        runs=[run, run],
        evaluation=evaluation,
        limits=["Photographs were squashed to squares."],
    )
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-to-text"
    assert card.data.base_model == "timm/tf_efficientnet_lite2.in1k"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "bleu_4": 20.04,
        "cider": 51.26,
    }
    command = "accelerate launch examples/train_captioning.py --data flickr8k --output_dir run"
    assert card.text.count(command) == 2
    assert "| CIDEr-D | 51.3 |\n" in card.text and "1000 images of the split `dev`" in card.text
    assert "- Photographs were squashed to squares.\n" in card.text
    assert "{{" not in card.text and "{%" not in card.text and "somewhere" not in card.text


def test_card_tells_what_the_runs_caused(checkpoint, run):
    (run / "emissions.json").write_text('{"kilograms_of_co2_equivalents": 0.0123}')
    write_card(checkpoint, name="captioner", data="None.", licence="None.", runs=[run, run])
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.co2_eq_emissions == {"emissions": 24.6, "source": "codecarbon"}  # the Hub counts in grams
    assert "that caused\n0.025 kg of CO2 equivalents." in card.text


def test_card_of_a_checkpoint_alone(checkpoint, tmp_path):
    write_card(checkpoint, name="captioner", data="None.", licence="None.", file=tmp_path / "card.md")
    text = ModelCard.load(tmp_path / "card.md").text
    assert "Not evaluated yet." in text and "None" not in text.replace("None.", "")
    assert not (checkpoint / "README.md").exists()


def test_parameters_are_counted(checkpoint):
    weights = checkpoint / "model.safetensors"
    assert count_parameters(weights) == sum(tensor.numel() for tensor in load_file(weights).values())


def test_recipe_is_quoted():
    assert recipe(["train.py", "--data", "my photos"]) == "accelerate launch train.py --data 'my photos'"


def test_card_of_a_detector(tiny_detector, run, tmp_path):
    task = "image-segmentation" if tiny_detector.endswith("segmentation") else "object-detection"
    metrics = {"box_ap50": 40.04, "box_ap50_common": None, "box_ap50_dog": 50.0, "recall36": 80.2}
    command = "segmentation" if task == "image-segmentation" else "detection"
    evaluation = {"task": command, "split": "val", "num_images": 7, "common": 50, "metrics": metrics}
    card_file = tmp_path / "card.md"
    options = {"name": "someone/finder", "data": "VOC.", "licence": "Apache 2.0.", "runs": [run], "file": card_file}
    write_card(tiny_detector, task=task, evaluation=evaluation, dataset="voc", **options)
    card = ModelCard.load(card_file)
    assert card.data.pipeline_tag == task and len(card.data.eval_results) == 3
    assert "2 classes: square, disc." in card.text and f'pipeline("{task}", model="someone/finder")' in card.text
    assert "| box AP50, dog | 50.0 |\n" in card.text and "| recall of the best 36 regions | 80.2 |" in card.text
    assert ("have one; what is found" in card.text) == (task == "image-segmentation")
    assert "{{" not in card.text and "{%" not in card.text and "None" not in card.text
    with pytest.raises(ValueError, match="task must be one of image-to-text"):
        write_card(tiny_detector, task="dancing", **options)
