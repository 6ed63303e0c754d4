# SPDX-License-Identifier: Apache-2.0
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
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
from butd_hf.checkpoints.half_precision import store_half_precision


IMPORT = """
import os, sys
import torch, transformers
modules, environment = set(sys.modules), dict(os.environ)
import butd_hf
assert dict(os.environ) == environment
# nothing heavy, and nothing of transformers that it doesn't import by itself
new = {name.split(".")[0] for name in set(sys.modules) - modules} - set(sys.stdlib_module_names)
assert new <= {"butd_hf"}, new
assert not any(name.startswith("butd_hf.modeling") for name in sys.modules)
assert not torch.cuda.is_initialized()

from transformers import AutoConfig, pipelines
assert "image-to-text" in pipelines.get_supported_tasks()
assert AutoConfig.for_model("butd").model_type == "butd"
heavy = {"timm", "datasets", "evaluate", "matplotlib", "butd_hf.modeling.modeling_butd"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)

from transformers.models.auto.modeling_auto import MODEL_MAPPING
from butd_hf.modeling.modeling_butd import ButdModel
assert MODEL_MAPPING[butd_hf.ButdConfig][0] is ButdModel
"""


@pytest.fixture
def default_checkpoint_folder(tmp_path, monkeypatch, tiny_checkpoint):
    """The embedded checkpoint is stood in for by the tiny one, in half precision."""
    folder = tmp_path / "image-to-text"
    shutil.copytree(tiny_checkpoint, folder)
    store_half_precision(folder)
    monkeypatch.setattr(checkpoints, "checkpoint_folder", lambda task: tmp_path / task)
    monkeypatch.setattr(registration, "checkpoint_folder", lambda task: tmp_path / task)
    registration.register()
    yield folder
    monkeypatch.undo()
    registration.register()


def test_import_only_registers():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_public_names():
    for name in butd_hf.__all__:
        assert getattr(butd_hf, name) is not None
        assert name in dir(butd_hf)
    with pytest.raises(AttributeError, match="no attribute 'Butt'"):
        _ = butd_hf.Butt


def test_auto_classes(tiny_checkpoint):
    assert type(AutoConfig.from_pretrained(tiny_checkpoint)) is butd_hf.ButdConfig
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is butd_hf.ButdModel
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint)
    assert type(model) is butd_hf.ButdForConditionalGeneration
    assert type(AutoModelForImageTextToText.from_config(model.config)) is butd_hf.ButdForConditionalGeneration
    assert type(AutoImageProcessor.from_pretrained(tiny_checkpoint)) is butd_hf.ButdImageProcessor
    assert type(AutoProcessor.from_pretrained(tiny_checkpoint)) is butd_hf.ButdProcessor
    assert AutoTokenizer.from_pretrained(tiny_checkpoint).bos_token == "<s>"


def test_mappings_give_classes():
    mapping = AutoModelForImageTextToText._model_mapping
    model_class = butd_hf.ButdForConditionalGeneration
    assert mapping[butd_hf.ButdConfig] is model_class
    assert mapping.get(butd_hf.ButdConfig, None) is model_class
    assert model_class in mapping._extra_content.values()
    assert (butd_hf.ButdConfig, model_class) in mapping._extra_content.items()
    # of several, the first is built from a config alone
    several = (butd_hf.ButdModel, butd_hf.ButdRegionModel, butd_hf.ButdForSceneGraphGeneration)
    assert AutoModel._model_mapping[butd_hf.ButdConfig] == several


def test_several_classes_of_one_auto_class(monkeypatch, tiny_checkpoint):
    both = ("modeling_butd.ButdModel", "modeling_butd.ButdForConditionalGeneration")
    monkeypatch.setitem(registration.CLASSES, "AutoModel", both)
    registration.register()
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is butd_hf.ButdForConditionalGeneration
    monkeypatch.undo()
    registration.register()
    assert type(AutoModel.from_pretrained(tiny_checkpoint)) is butd_hf.ButdModel


def test_mappings_without_room_for_laziness():
    registered = {}

    class Mapping:
        def register(self, key, value, exist_ok):
            registered[key] = value

    registration._register_lazily(Mapping(), lambda: butd_hf.ButdModel)
    assert registered == {butd_hf.ButdConfig: butd_hf.ButdModel}


def test_tasks_that_are_not_ours_resolve_as_ever():
    resolve = transformers_pipelines._resolve_deprecated_task
    assert resolve("image-to-text") == "image-to-text"
    assert resolve("text-generation") == "text-generation"
    with pytest.raises(KeyError, match="has been removed from transformers"):
        resolve("summarization")
    with pytest.raises(KeyError, match="Unknown task"):
        transformers_pipelines.check_task("no-such-task")
    assert transformers_pipelines.check_task("image-to-text")[0] == "image-to-text"


def test_registering_again_changes_nothing():
    resolve = transformers_pipelines._resolve_deprecated_task
    finders = list(sys.meta_path)
    importlib.reload(registration)
    registration.register()
    assert transformers_pipelines._resolve_deprecated_task is resolve
    assert sys.meta_path == finders
    assert AutoModel._model_mapping[butd_hf.ButdConfig][0] is butd_hf.ButdModel


def test_removed_tasks_come_back_by_the_table(monkeypatch):
    registry = transformers_pipelines.PIPELINE_REGISTRY
    monkeypatch.setattr(registry, "supported_tasks", dict(registry.supported_tasks))
    monkeypatch.setattr(registry, "task_aliases", dict(registry.task_aliases))
    task = registration.PipelineTask(
        "pipeline_image_to_text.ImageToTextPipeline", ("AutoModelForVisualQuestionAnswering",), aliases=("vqa",)
    )
    monkeypatch.setitem(registration.TASKS, "visual-question-answering", task)
    registration.register()
    for name in ("visual-question-answering", "vqa"):
        assert name in transformers_pipelines.get_supported_tasks()
        assert transformers_pipelines._resolve_deprecated_task(name) == name
        normalized, options, _ = transformers_pipelines.check_task(name)
        assert normalized == "visual-question-answering"
        assert options["pt"] == (transformers.AutoModelForVisualQuestionAnswering,)


def test_versions_without_a_resolver(monkeypatch):
    monkeypatch.delattr(transformers_pipelines, "_resolve_deprecated_task")
    monkeypatch.delattr(transformers_pipelines, "_resolve_impl")
    registration.register()
    assert not hasattr(transformers_pipelines, "_resolve_deprecated_task")
    options = transformers_pipelines.PIPELINE_REGISTRY.check_task("image-to-text")[1]
    assert options["impl"] is butd_hf.ImageToTextPipeline
    monkeypatch.undo()
    registration.register()


def test_default_checkpoint(default_checkpoint_folder):
    assert butd_hf.default_checkpoint("image-to-text") == str(default_checkpoint_folder)
    with pytest.raises(ValueError, match=r"'text-to-image', only for 'image-segmentation', 'image-to-text'"):
        butd_hf.default_checkpoint("text-to-image")


def test_pipeline_without_a_model(default_checkpoint_folder, image_paths):
    captioner = pipeline("image-to-text", device="cpu")
    assert captioner.model.name_or_path == str(default_checkpoint_folder)
    assert captioner.model.dtype == torch.float32
    assert list(captioner(image_paths[0])[0]) == ["generated_text"]


def test_missing_default_checkpoint(default_checkpoint_folder):
    (default_checkpoint_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="Reinstall butd_hf"):
        butd_hf.default_checkpoint("image-to-text")
    with pytest.raises(FileNotFoundError, match="Reinstall butd_hf"):
        pipeline("image-to-text")


def test_default_oracle(default_checkpoint_folder, tiny_oracle, image_paths):
    with pytest.raises(FileNotFoundError, match=r"'visual-question-answering' is missing .* Reinstall butd_hf"):
        pipeline("vqa")
    shutil.copytree(tiny_oracle, default_checkpoint_folder.parent / "visual-question-answering")
    oracle = pipeline("vqa", device="cpu")
    assert type(oracle) is butd_hf.VisualQuestionAnsweringPipeline
    assert set(oracle(image_paths[0], "a dog", top_k=1)[0]) == {"score", "answer"}


def test_half_precision_is_on_disk_only(default_checkpoint_folder, tiny_checkpoint):
    half = load_file(default_checkpoint_folder / "model.safetensors")
    assert {weight.dtype for weight in half.values()} <= {torch.float16, torch.int64}
    model = AutoModelForImageTextToText.from_pretrained(default_checkpoint_folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for name, weight in load_file(f"{tiny_checkpoint}/model.safetensors").items():
        torch.testing.assert_close(model.state_dict()[name], weight, atol=1e-3, rtol=1e-3)


def test_half_precision_refuses_what_it_cannot_do(default_checkpoint_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no \*\.safetensors"):
        store_half_precision(tmp_path)
    config = Path(default_checkpoint_folder, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "bfloat16"}))
    with pytest.raises(ValueError, match="'bfloat16'"):
        store_half_precision(default_checkpoint_folder)
