# SPDX-License-Identifier: Apache-2.0
"""What importing this package makes transformers know."""

import importlib
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)
from transformers import pipelines as transformers_pipelines

import butd_hf
from butd_hf import checkpoints, registration


IMPORT = """
import os, sys
import torch, transformers
environment, threads = dict(os.environ), torch.get_num_threads()
import butd_hf
assert dict(os.environ) == environment and torch.get_num_threads() == threads
assert not torch.cuda.is_initialized()
# what training, files and charts need waits until it is used
heavy = {"datasets", "evaluate", "matplotlib", "faster_coco_eval", "networkx", "pandas", "rich", "typer"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)

from transformers import AutoConfig, pipelines
assert "image-to-text" in pipelines.get_supported_tasks()
assert AutoConfig.for_model("butd").model_type == "butd"
"""


@pytest.fixture
def default_checkpoint_folder(tmp_path, monkeypatch, tiny_checkpoint):
    """The embedded checkpoint is stood in for by the tiny one, in half precision."""
    folder = tmp_path / "image-to-text"
    shutil.copytree(tiny_checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    halved = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
    save_file(halved, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(checkpoints, "checkpoint_folder", lambda task: tmp_path / task)
    return folder


def test_import_only_registers():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names():
    for name in butd_hf.__all__:
        assert getattr(butd_hf, name) is not None


def test_auto_classes(tiny_checkpoint):
    assert type(AutoConfig.from_pretrained(tiny_checkpoint)) is butd_hf.ButdConfig
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is butd_hf.ButdModel
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    assert type(model) is butd_hf.ButdForConditionalGeneration
    assert type(AutoModelForImageTextToText.from_config(model.config)) is butd_hf.ButdForConditionalGeneration
    assert type(AutoImageProcessor.from_pretrained(tiny_checkpoint)) is butd_hf.ButdImageProcessor
    assert type(AutoProcessor.from_pretrained(tiny_checkpoint)) is butd_hf.ButdProcessor
    assert AutoTokenizer.from_pretrained(tiny_checkpoint).bos_token == "<s>"


def test_of_several_classes_the_checkpoint_names_one(tiny_grapher):
    # without a checkpoint it is the first
    several = (butd_hf.ButdModel, butd_hf.ButdRegionModel, butd_hf.ButdForSceneGraphGeneration)
    assert AutoModel._model_mapping[butd_hf.ButdConfig] == several
    assert type(AutoModel.from_pretrained(tiny_grapher)) is butd_hf.ButdForSceneGraphGeneration


def test_tasks_that_are_not_ours_resolve_as_ever():
    resolve = transformers_pipelines._resolve_deprecated_task
    assert resolve("image-to-text") == "image-to-text"
    assert resolve("text-generation") == "text-generation"
    with pytest.raises(KeyError, match="has been removed from transformers"):
        resolve("summarization")
    with pytest.raises(KeyError, match="Unknown task"):
        transformers_pipelines.check_task("no-such-task")
    for alias, task in (("image-to-text", "image-to-text"), ("vqa", "visual-question-answering")):
        assert transformers_pipelines.check_task(alias)[0] == task


def test_registering_again_changes_nothing():
    resolve, tasks = transformers_pipelines._resolve_deprecated_task, transformers_pipelines.get_supported_tasks()
    importlib.reload(registration)
    registration.register()
    assert transformers_pipelines._resolve_deprecated_task is resolve
    assert transformers_pipelines.get_supported_tasks() == tasks
    assert AutoModel._model_mapping[butd_hf.ButdConfig][0] is butd_hf.ButdModel


def test_default_checkpoints(default_checkpoint_folder):
    assert butd_hf.default_checkpoint("image-to-text") == str(default_checkpoint_folder)
    with pytest.raises(ValueError, match=r"'text-to-image', only for 'image-segmentation', 'image-to-text'"):
        butd_hf.default_checkpoint("text-to-image")
    (default_checkpoint_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"'image-to-text' is missing .* Reinstall butd_hf"):
        butd_hf.default_checkpoint("image-to-text")


@pytest.mark.parametrize(
    ("task", "pipeline_class"),
    [
        ("image-to-text", butd_hf.ImageToTextPipeline),
        ("vqa", butd_hf.VisualQuestionAnsweringPipeline),
        ("scene-graph-generation", butd_hf.SceneGraphGenerationPipeline),
    ],
)
def test_pipelines_without_a_model_take_the_embedded_checkpoint(task, pipeline_class, image_paths):
    one = pipeline(task, device="cpu")
    folder = butd_hf.default_checkpoint(registration.ALIASES.get(task, task))
    assert type(one) is pipeline_class and one.model.name_or_path == folder
    assert one.model.dtype == torch.float32
    assert one(image_paths[0], "what is this", top_k=1) if task == "vqa" else one(image_paths[0])


def test_half_precision_is_on_disk_only(default_checkpoint_folder, tiny_checkpoint):
    half = load_file(default_checkpoint_folder / "model.safetensors")
    assert {weight.dtype for weight in half.values()} <= {torch.float16, torch.int64}
    model = AutoModelForImageTextToText.from_pretrained(default_checkpoint_folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for name, weight in load_file(f"{tiny_checkpoint}/model.safetensors").items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-3, rtol=1e-3)
