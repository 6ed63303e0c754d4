# SPDX-License-Identifier: Apache-2.0
"""
Makes transformers know this package: its Auto classes, its pipelines, and the code that travels with checkpoints.

Nothing is imported for it. Each entry waits until somebody imports the module that it belongs to, and model classes
wait until they are asked for, so that `import butd_hf` costs next to nothing.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FunctionType, ModuleType
from typing import Any

from .checkpoints import checkpoint_folder, default_checkpoint


MODELING = "butd_hf.modeling"
AUTO = "transformers.models.auto"

# auto class -> classes, each as `module.Class` of butd_hf.modeling; of several, the checkpoint's `architectures` names
# the one to load
CLASSES = {
    "AutoConfig": ("configuration_butd.ButdConfig",),
    "AutoModel": (
        "modeling_butd.ButdModel",
        "modeling_regions_butd.ButdRegionModel",
        "modeling_scene_graph_butd.ButdForSceneGraphGeneration",
    ),
    "AutoModelForImageTextToText": ("modeling_butd.ButdForConditionalGeneration",),
    # the pipeline knows but this older name; a class is saved under the last that it is registered with
    "AutoModelForImageSegmentation": ("modeling_detection_butd.ButdForInstanceSegmentation",),
    "AutoModelForInstanceSegmentation": ("modeling_detection_butd.ButdForInstanceSegmentation",),
    "AutoModelForObjectDetection": ("modeling_detection_butd.ButdForObjectDetection",),
    "AutoModelForVisualQuestionAnswering": ("modeling_question_answering_butd.ButdForQuestionAnswering",),
    "AutoImageProcessor": ("image_processing_butd.ButdImageProcessor",),
    "AutoProcessor": ("processing_butd.ButdProcessor",),
}


@dataclass(frozen=True)
class PipelineTask:
    """
    A task of `transformers.pipeline`.

    Args:
        pipeline: The pipeline's class, as `module.Class` of butd_hf.modeling.
        auto_classes: Names of the auto classes that load its models.
        modality: What transformers calls the task's type: `"text"`, `"image"` or `"multimodal"`.
        aliases: Other names of the task.
    """

    pipeline: str
    auto_classes: tuple[str, ...]
    modality: str = "multimodal"
    aliases: tuple[str, ...] = ()


TASKS = {
    "image-to-text": PipelineTask("pipelines.image_to_text.ImageToTextPipeline", ("AutoModelForImageTextToText",)),
    "visual-question-answering": PipelineTask(
        "pipelines.visual_question_answering.VisualQuestionAnsweringPipeline",
        ("AutoModelForVisualQuestionAnswering",),
        aliases=("vqa",),
    ),
    "scene-graph-generation": PipelineTask(
        "pipelines.scene_graph_generation.SceneGraphGenerationPipeline", ("AutoModel",), modality="image"
    ),
}


def resolve(reference: str) -> type:
    """The class that a `module.Class` of butd_hf.modeling means."""
    module, _, name = reference.rpartition(".")
    return getattr(import_module(f"{MODELING}.{module}"), name)


class LazyClasses(dict):
    """What an auto class knows beyond transformers' own models; a function stands for the class that it returns."""

    def __getitem__(self, key: type) -> Any:
        value = super().__getitem__(key)
        if isinstance(value, FunctionType):
            value = self[key] = value()
        return value

    def get(self, key: type, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def values(self) -> list:
        return [self[key] for key in self]

    def items(self) -> list[tuple]:
        return [(key, self[key]) for key in self]


class DefaultModel(dict):
    """A task's default model as transformers keeps it, `{"model": (folder, revision)}`; looked for when asked for."""

    def __init__(self, task: str):
        super().__init__(model=(str(checkpoint_folder(task)), None))
        self.task = task

    def __getitem__(self, key: str) -> Any:
        if key == "model":
            default_checkpoint(self.task)  # says what to do if it isn't there
        return super().__getitem__(key)


def _register_lazily(mapping: Any, find: FunctionType) -> None:
    """Registers what `find` returns for `ButdConfig` with an auto class's mapping, if possible without calling it."""
    lazy = isinstance(getattr(mapping, "_extra_content", None), dict)
    if lazy and not isinstance(mapping._extra_content, LazyClasses):
        mapping._extra_content = LazyClasses(mapping._extra_content)
    mapping.register(resolve(*CLASSES["AutoConfig"]), find if lazy else find(), exist_ok=True)


def _register_config(module: ModuleType) -> None:
    config_class = resolve(*CLASSES["AutoConfig"])
    module.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    def finder(references: tuple[str, ...]) -> FunctionType:
        # transformers tells a single class and a tuple of them apart
        return lambda: resolve(*references) if len(references) == 1 else tuple(map(resolve, references))

    for auto_class, references in CLASSES.items():
        if auto_class.startswith("AutoModel"):
            _register_lazily(getattr(module, auto_class)._model_mapping, finder(references))


def _register_image_processor(module: ModuleType) -> None:
    _register_lazily(module.IMAGE_PROCESSOR_MAPPING, lambda: {"torchvision": resolve(*CLASSES["AutoImageProcessor"])})


def _register_processor(module: ModuleType) -> None:
    _register_lazily(module.PROCESSOR_MAPPING, lambda: resolve(*CLASSES["AutoProcessor"]))


def _register_tasks(module: ModuleType) -> None:
    """
    Adds the tasks to transformers' table, and lets `pipeline` find those that transformers removed.

    `pipeline` turns removed tasks away before it looks at the table, and redirects `"image-to-text"`. It now looks at
    the table first; tasks that aren't in it are removed or redirected as ever.
    """
    registry = module.PIPELINE_REGISTRY
    for name, task in TASKS.items():
        pipeline = f"{MODELING}.{task.pipeline}"
        registry.supported_tasks[name] = {
            # versions that don't resolve names want the class itself
            "impl": pipeline if hasattr(module, "_resolve_impl") else resolve(task.pipeline),
            "pt": tuple(getattr(import_module(AUTO), auto_class) for auto_class in task.auto_classes),
            "default": DefaultModel(name),
            "type": task.modality,
        }
        registry.task_aliases.update(dict.fromkeys(task.aliases, name))

    turn_away = getattr(module, "_resolve_deprecated_task", None)
    if turn_away is None or hasattr(turn_away, "registry"):  # nothing turns tasks away, or it knows the table already
        return

    @functools.wraps(turn_away)
    def resolve_task(task: str) -> str:
        if task in registry.supported_tasks or task in registry.task_aliases:
            return task
        return turn_away(task)

    resolve_task.registry = registry
    module._resolve_deprecated_task = resolve_task


def _let_code_travel(module: ModuleType) -> None:
    """Makes `save_pretrained` of the module's registered classes copy their code into the checkpoint."""
    for auto_class, references in CLASSES.items():
        for reference in references:
            module_name, _, name = reference.rpartition(".")
            if module.__name__ == f"{MODELING}.{module_name}":
                getattr(module, name).register_for_auto_class(auto_class)


# module -> what to do once it is imported
ON_IMPORT: dict[str, Callable[[ModuleType], None]] = {
    f"{AUTO}.configuration_auto": _register_config,
    f"{AUTO}.modeling_auto": _register_models,
    f"{AUTO}.image_processing_auto": _register_image_processor,
    f"{AUTO}.processing_auto": _register_processor,
    "transformers.pipelines": _register_tasks,
    **{
        f"{MODELING}.{reference.rpartition('.')[0]}": _let_code_travel
        for references in CLASSES.values()
        for reference in references
    },
}


class RegisteringFinder(MetaPathFinder):
    """Finds the modules of `ON_IMPORT` as Python does, and registers what belongs to them after their import."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in ON_IMPORT:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                ON_IMPORT[name](module)

            spec.loader.exec_module = exec_module
        return spec


def register() -> None:
    """Registers everything, now or when it is imported. Doing so again changes nothing."""
    is_ours = [type(finder).__qualname__ == RegisteringFinder.__qualname__ for finder in sys.meta_path]
    if not any(is_ours):
        sys.meta_path.insert(0, RegisteringFinder())
    for name, action in ON_IMPORT.items():
        module = sys.modules.get(name)
        if module is not None:
            action(module)
