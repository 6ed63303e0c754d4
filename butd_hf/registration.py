# SPDX-License-Identifier: Apache-2.0
"""Makes transformers know this package: its auto classes and its pipelines."""

import functools
import importlib

import transformers
from transformers import pipelines
from transformers.models.auto import modeling_auto

from .checkpoints import checkpoint_folder
from .modeling import configuration_butd, image_processing_butd, processing_butd
from .modeling.remote_code import ARCHITECTURES, PIPELINES, pipeline_classes


ALIASES = {"vqa": "visual-question-answering"}


def register() -> None:
    """Registers everything with transformers. Doing so again changes nothing."""
    config_class = configuration_butd.ButdConfig
    transformers.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class, classes in _models().items():
        # of several classes, the checkpoint's `architectures` names the one to load
        mapping = getattr(transformers, auto_class)._model_mapping
        mapping.register(config_class, classes if len(classes) > 1 else classes[0], exist_ok=True)
    transformers.AutoImageProcessor.register(
        config_class,
        image_processor_classes={"torchvision": image_processing_butd.ButdImageProcessor},
        exist_ok=True,
    )
    transformers.AutoProcessor.register(config_class, processing_butd.ButdProcessor, exist_ok=True)
    _register_tasks()


def _models() -> dict[str, tuple[type, ...]]:
    """Auto class -> the models that it loads."""
    models: dict[str, tuple[type, ...]] = {}
    for architecture, (module, auto_classes) in ARCHITECTURES.items():
        model = getattr(importlib.import_module(f".modeling.{module}", __package__), architecture)
        for auto_class in auto_classes:
            models[auto_class] = (*models.get(auto_class, ()), model)
    return models


def _register_tasks() -> None:
    """Adds the tasks to transformers' table, and lets `pipeline` find those that transformers removed.

    `pipeline` turns removed tasks away before it looks at the table, and redirects `"image-to-text"`. It now looks at
    the table first; tasks that aren't in it are removed or redirected as ever.
    """
    registry = pipelines.PIPELINE_REGISTRY
    auto_classes = {task: ARCHITECTURES[architecture][1][0] for architecture, (task, _) in PIPELINES.items()}
    for task, pipeline_class in pipeline_classes().items():
        if task in registry.supported_tasks:
            continue
        registry.register_pipeline(
            task,
            pipeline_class,
            pt_model=getattr(transformers, auto_classes[task]),
            default={"model": (str(checkpoint_folder(task)), None)},
            type="image" if task == "scene-graph-generation" else "multimodal",
        )
        del pipeline_class._registered_impl  # what a saved pipeline says of itself is in the model's config
    registry.task_aliases.update(ALIASES)
    # the stock pipelines log an error for models whose names aren't listed
    modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES["butd"] = "ButdForObjectDetection"
    modeling_auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES["butd"] = "ButdForInstanceSegmentation"

    turn_away = pipelines._resolve_deprecated_task
    if not hasattr(turn_away, "registry"):

        @functools.wraps(turn_away)
        def resolve_task(task: str) -> str:
            if task in registry.supported_tasks or task in registry.task_aliases:
                return task
            return turn_away(task)

        resolve_task.registry = registry
        pipelines._resolve_deprecated_task = resolve_task
