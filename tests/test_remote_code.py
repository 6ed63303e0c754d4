# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder works by itself, in an interpreter that knows nothing of this package."""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

import butd_hf


WITHOUT_PACKAGE = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "butd_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

checkpoint, picture, output = sys.argv[1:]
trust = {"trust_remote_code": True, "device": "cpu"}
captioner = pipeline("image-to-text", model=checkpoint, **trust)
captions = captioner(picture, max_new_tokens=8)
text_captioner = pipeline("image-text-to-text", model=checkpoint, **trust)
prompted = text_captioner(images=picture, text="a dog", max_new_tokens=8)

AutoModelForImageTextToText.from_pretrained(checkpoint, trust_remote_code=True).save_pretrained(f"{output}/parts")
AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True).save_pretrained(f"{output}/parts")
pipeline("image-to-text", model=checkpoint, **trust).save_pretrained(f"{output}/pipeline")
again = pipeline("image-to-text", model=f"{output}/pipeline", **trust)(picture, max_new_tokens=8)

assert "butd_hf" not in sys.modules
classes = [type(part).__module__ for part in (captioner, captioner.model, captioner.processor, captioner.model.config)]
assert all(module.startswith("transformers_modules.") for module in classes), classes
Path(output, "result.json").write_text(json.dumps({"captions": captions, "prompted": prompted, "again": again}))
"""


def assert_same_files(folder: str | Path, other: str | Path) -> None:
    comparison = filecmp.dircmp(folder, other, ignore=[])
    assert not comparison.left_only and not comparison.right_only
    _, different, unreadable = filecmp.cmpfiles(folder, other, comparison.common_files, shallow=False)
    assert not different and not unreadable


@pytest.fixture(scope="module")
def remote(tiny_checkpoint, picture_paths, tmp_path_factory) -> Path:
    """What an interpreter without the package made of the checkpoint."""
    folder = tmp_path_factory.mktemp("remote")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, tiny_checkpoint, picture_paths[0], str(folder)],
        capture_output=True,
        text=True,
        cwd=folder,  # in the repository, the packages' own folders could be imported
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_checkpoint_carries_its_code(tiny_checkpoint):
    config = json.loads(Path(tiny_checkpoint, "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_butd.ButdConfig",
        "AutoModelForImageTextToText": "modeling_butd.ButdForConditionalGeneration",
    }
    assert config["custom_pipelines"] == {
        "image-to-text": {
            "impl": "pipeline_image_to_text.ImageToTextPipeline",
            "pt": ["AutoModelForImageTextToText"],
        }
    }
    for name in ("modeling_butd.py", "processing_butd.py", "image_processing_butd.py", "pipeline_image_to_text.py"):
        assert Path(tiny_checkpoint, name).is_file()


def test_pipelines_work_from_the_folder_alone(remote, tiny_checkpoint, picture_paths):
    result = json.loads((remote / "result.json").read_text())
    captioner = pipeline("image-to-text", model=tiny_checkpoint, device="cpu")
    assert result["captions"] == captioner(picture_paths[0], max_new_tokens=8)
    assert result["again"] == result["captions"]
    assert result["prompted"][0]["generated_text"].startswith("a dog")


def test_saving_again_without_the_package_changes_nothing(remote, tiny_checkpoint):
    assert_same_files(tiny_checkpoint, remote / "parts")
    assert_same_files(tiny_checkpoint, remote / "pipeline")


def test_saving_again_with_the_package_changes_nothing(tiny_checkpoint, tmp_path):
    AutoModelForImageTextToText.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "parts")
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "parts")
    assert_same_files(tiny_checkpoint, tmp_path / "parts")
    pipeline("image-to-text", model=tiny_checkpoint, device="cpu").save_pretrained(tmp_path / "pipeline")
    assert_same_files(tiny_checkpoint, tmp_path / "pipeline")


def test_package_checks_out_what_the_package_saved_elsewhere(remote, picture_paths):
    captioner = pipeline("image-to-text", model=str(remote / "pipeline"), device="cpu")
    assert type(captioner) is butd_hf.ImageToTextPipeline
    assert captioner.model.config.custom_pipelines == {}
    assert (
        captioner(picture_paths[0], max_new_tokens=8) == json.loads((remote / "result.json").read_text())["captions"]
    )


def test_installed_package_comes_before_the_folder(tiny_checkpoint):
    captioner = pipeline("image-to-text", model=tiny_checkpoint, trust_remote_code=True, device="cpu")
    assert type(captioner) is butd_hf.ImageToTextPipeline
    assert type(captioner.model) is butd_hf.ButdForConditionalGeneration


def test_models_without_a_pipeline_of_their_own_offer_none(tmp_path, tiny_checkpoint):
    butd_hf.ButdModel.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())


DETECTION_WITHOUT_PACKAGE = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "butd_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForInstanceSegmentation, AutoModelForObjectDetection, pipeline

folder, picture, output = sys.argv[1:]
trust = {"trust_remote_code": True}
boxes = pipeline("object-detection", model=f"{folder}/object", device="cpu", **trust)(picture, threshold=0.5)
segmenter = pipeline("image-segmentation", model=f"{folder}/instance", device="cpu", **trust)
masks = segmenter(picture, threshold=0.5, overlap_mask_area_threshold=0.0, mask_threshold=0.1)
AutoModelForObjectDetection.from_pretrained(f"{folder}/object", **trust).save_pretrained(f"{output}/object")
AutoModelForInstanceSegmentation.from_pretrained(f"{folder}/instance", **trust).save_pretrained(f"{output}/instance")
assert "butd_hf" not in sys.modules
Path(output, "result.json").write_text(json.dumps([boxes, [[mask["label"], mask["score"]] for mask in masks]]))
"""


def test_detectors_work_from_their_folders_alone(tmp_path, picture_paths):
    pictures = butd_hf.ButdImageProcessor(size={"height": 64, "width": 64})
    config = butd_hf.ButdConfig(
        bottom_up_config={"backbone": "test_efficientnet", "num_regions": 6, "fpn_size": 16, "region_head_size": 8},
        top_down_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    )
    for name, model_class in (
        ("object", butd_hf.ButdForObjectDetection),
        ("instance", butd_hf.ButdForInstanceSegmentation),
    ):
        model = model_class(config)
        model.top_down.layers[-1].class_proj.bias.data.fill_(3.0)  # believes in something everywhere
        model.save_pretrained(tmp_path / name)
        pictures.save_pretrained(tmp_path / name)
    output = tmp_path / "output"
    output.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", DETECTION_WITHOUT_PACKAGE, str(tmp_path), picture_paths[0], str(output)],
        capture_output=True,
        text=True,
        cwd=output,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    boxes, masks = json.loads((output / "result.json").read_text())
    detector = pipeline("object-detection", model=str(tmp_path / "object"), device="cpu")
    assert boxes and boxes == detector(picture_paths[0], threshold=0.5)
    assert masks
    for name in ("object", "instance"):
        for file in (output / name).iterdir():
            assert file.is_dir() or file.read_bytes() == (tmp_path / name / file.name).read_bytes(), file


QUESTIONS_WITHOUT_PACKAGE = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "butd_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import AutoModelForVisualQuestionAnswering, pipeline

checkpoint, picture, output = sys.argv[1:]
trust = {"trust_remote_code": True, "device": "cpu"}
oracle = pipeline("visual-question-answering", model=checkpoint, **trust)
answers = oracle(picture, ["a dog", "two cats"], top_k=3)
oracle.save_pretrained(f"{output}/pipeline")
again = pipeline("visual-question-answering", model=f"{output}/pipeline", **trust)(picture, ["a dog", "two cats"])
assert "butd_hf" not in sys.modules
assert type(oracle).__module__.startswith("transformers_modules."), type(oracle)
Path(output, "result.json").write_text(json.dumps([answers, again]))
"""


def test_questions_are_answered_from_the_folder_alone(tmp_path, tiny_oracle, picture_paths):
    done = subprocess.run(
        [sys.executable, "-c", QUESTIONS_WITHOUT_PACKAGE, tiny_oracle, picture_paths[0], str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers, again = json.loads((tmp_path / "result.json").read_text())
    oracle = pipeline("vqa", model=tiny_oracle, device="cpu")
    expected = oracle(picture_paths[0], ["a dog", "two cats"], top_k=3)
    for found in (answers, [row[:3] for row in again]):
        for row, wanted in zip(found, expected, strict=True):
            assert [each["answer"] for each in row] == [each["answer"] for each in wanted]
            # another process may round otherwise
            assert [each["score"] for each in row] == pytest.approx([each["score"] for each in wanted], abs=1e-5)
    assert_same_files(tiny_oracle, tmp_path / "pipeline")
    trusted = pipeline("vqa", model=tiny_oracle, trust_remote_code=True, device="cpu")
    assert type(trusted) is butd_hf.VisualQuestionAnsweringPipeline


GRAPHS_WITHOUT_PACKAGE = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "butd_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import pipeline

folder, picture, output = sys.argv[1:]
grapher = pipeline("scene-graph-generation", model=folder, device="cpu", trust_remote_code=True)
graph = grapher(picture, threshold=0.0)
grapher.model.save_pretrained(f"{output}/again")
assert "butd_hf" not in sys.modules
Path(output, "result.json").write_text(json.dumps(graph))
"""


def test_scene_graphs_come_from_the_folder_alone(tmp_path, tiny_grapher, picture_paths):
    done = subprocess.run(
        [sys.executable, "-c", GRAPHS_WITHOUT_PACKAGE, tiny_grapher, picture_paths[0], str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    graph = json.loads((tmp_path / "result.json").read_text())
    grapher = pipeline("scene-graph-generation", model=tiny_grapher, device="cpu")
    expected = grapher(picture_paths[0], threshold=0.0)
    assert graph["relations"] and [each["label"] for each in graph["objects"]] == [
        each["label"] for each in expected["objects"]
    ]
    for found, wanted in zip(graph["relations"], expected["relations"], strict=True):  # processes round as they like
        assert found == {**wanted, "score": pytest.approx(wanted["score"], rel=1e-4)}
    for file in (tmp_path / "again").iterdir():
        assert file.is_dir() or file.read_bytes() == Path(tiny_grapher, file.name).read_bytes(), file
