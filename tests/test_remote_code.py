# SPDX-License-Identifier: Apache-2.0
"""A saved checkpoint works by itself, in an interpreter that can't import this package, and saves itself the same."""

import filecmp
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoProcessor, pipeline

import butd_hf


WITHOUT_PACKAGE = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "butd_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from transformers import AutoProcessor, pipeline

folder, output, tasks = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
trust = {"trust_remote_code": True, "device": "cpu"}
results = {}
for task, arguments in tasks.items():
    one = pipeline(task, model=str(folder / task), **trust)
    found = one(*arguments.pop("args"), **arguments)
    results[task] = json.dumps(found, default=lambda mask: mask.tobytes().hex())
    one.save_pretrained(output / task)
    processor = AutoProcessor.from_pretrained(folder / task, trust_remote_code=True)
    one.model.save_pretrained(output / "parts" / task)
    processor.save_pretrained(output / "parts" / task)
    assert all(type(each).__module__.startswith("transformers_modules.") for each in (one.model, processor)), task
assert "butd_hf" not in sys.modules
(output / "results.json").write_text(json.dumps(results))
"""


def assert_same_files(folder: Path, other: Path) -> None:
    comparison = filecmp.dircmp(folder, other, ignore=[])
    assert not comparison.left_only and not comparison.right_only
    _, different, unreadable = filecmp.cmpfiles(folder, other, comparison.common_files, shallow=False)
    assert not different and not unreadable


def rounded(text: str) -> dict | list:
    """JSON whose numbers are rounded: processes differ in the last digits."""
    return json.loads(text, parse_float=lambda number: round(float(number), 4))


@pytest.fixture(scope="module")
def tasks(image_paths) -> dict[str, dict]:
    """Task -> arguments of its pipeline."""
    return {
        "image-to-text": {"args": [image_paths[0]], "max_new_tokens": 8},
        "visual-question-answering": {"args": [image_paths[0], "a dog"], "top_k": 3},
        "scene-graph-generation": {"args": [image_paths[0]], "threshold": 0.0},
        "object-detection": {"args": [image_paths[0]], "threshold": 0.0},
        "image-segmentation": {"args": [image_paths[0]], "threshold": 0.0, "subtask": "instance"},
    }


@pytest.fixture(scope="module")
def saved(tasks, tmp_path_factory) -> Path:
    """The embedded checkpoints as `save_pretrained` of their pipelines writes them."""
    folder = tmp_path_factory.mktemp("saved")
    for task in tasks:
        pipeline(task, model=butd_hf.default_checkpoint(task), device="cpu").save_pretrained(folder / task)
    return folder


@pytest.fixture(scope="module")
def remote(saved, tasks, tmp_path_factory) -> Path:
    """What an interpreter without the package made of them."""
    folder = tmp_path_factory.mktemp("remote")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(saved), str(folder), json.dumps(tasks)],
        capture_output=True,
        text=True,
        cwd=folder,  # in the repository, the package's own folders could be imported
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_embedded_checkpoints_carry_no_code(tasks):
    for task in tasks:
        folder = Path(butd_hf.default_checkpoint(task))
        assert list(folder.rglob("*.py")) == []
        for file in folder.glob("*.json"):
            assert not {"auto_map", "custom_pipelines"} & set(json.loads(file.read_text())), file


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    ["image-to-text", "visual-question-answering", "scene-graph-generation", "object-detection", "image-segmentation"],
)
def test_checkpoint_works_without_the_package(task, saved, remote, tasks):
    result = json.loads((remote / "results.json").read_text())[task]
    arguments = dict(tasks[task])
    expected = pipeline(task, model=str(saved / task), device="cpu")(*arguments.pop("args"), **arguments)
    expected = json.dumps(expected, default=lambda mask: mask.tobytes().hex())
    assert rounded(result) == rounded(expected)
    assert_same_files(saved / task, remote / task)
    assert_same_files(saved / task, remote / "parts" / task)


def test_saved_checkpoint_says_where_its_code_is(tiny_checkpoint):
    config = json.loads(Path(tiny_checkpoint, "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_butd.ButdConfig",
        "AutoImageProcessor": "image_processing_butd.ButdImageProcessor",
        "AutoModelForImageTextToText": "modeling_captioning_butd.ButdForConditionalGeneration",
    }
    assert config["custom_pipelines"] == {
        "image-to-text": {"impl": "pipelines_image_to_text.ImageToTextPipeline", "pt": ["AutoModelForImageTextToText"]}
    }
    for name in ("modeling_butd", "processing_butd", "bottom_up_grid", "top_down_transformer", "regions"):
        assert Path(tiny_checkpoint, f"{name}.py").is_file()


def test_saving_again_with_the_package_changes_nothing(tiny_checkpoint, tmp_path):
    butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "parts")
    AutoProcessor.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path / "parts")
    assert_same_files(Path(tiny_checkpoint), tmp_path / "parts")


def test_installed_package_comes_before_the_folder(tiny_checkpoint):
    captioner = pipeline("image-to-text", model=tiny_checkpoint, trust_remote_code=True, device="cpu")
    assert type(captioner) is butd_hf.ImageToTextPipeline
    assert type(captioner.model) is butd_hf.ButdForConditionalGeneration
    assert captioner.model.config.custom_pipelines == {}


def test_subclass_saves_the_code_that_it_extends(tiny_checkpoint, tmp_path):
    class Captioner(butd_hf.ButdForConditionalGeneration):
        """Somebody's own."""

    Captioner.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    assert (tmp_path / "modeling_butd.py").is_file()
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_models_without_a_pipeline_of_their_own_offer_none(tmp_path, tiny_checkpoint):
    butd_hf.ButdModel.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
