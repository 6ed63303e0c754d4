# SPDX-License-Identifier: Apache-2.0
"""
Bottom-Up Top-Down attention for transformers: raw image in, caption out, with the regions that were looked at.

Importing registers the models and pipelines with transformers, and nothing else. The names below are imported when
they are first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from .checkpoints import default_checkpoint
from .registration import register


__version__ = version("butd_hf")

_MODULES = {
    "ButdBottomUpConfig": "configuration_butd",
    "ButdConfig": "configuration_butd",
    "ButdForConditionalGeneration": "modeling_butd",
    "ButdForInstanceSegmentation": "modeling_detection_butd",
    "ButdForObjectDetection": "modeling_detection_butd",
    "ButdForQuestionAnswering": "modeling_question_answering_butd",
    "ButdForSceneGraphGeneration": "modeling_scene_graph_butd",
    "ButdImageProcessor": "image_processing_butd",
    "ButdModel": "modeling_butd",
    "ButdProcessor": "processing_butd",
    "ButdRegionModel": "modeling_regions_butd",
    "ButdTopDownConfig": "configuration_butd",
    "ImageToTextPipeline": "pipelines.image_to_text",
    "VisualQuestionAnsweringPipeline": "pipelines.visual_question_answering",
    "SceneGraphGenerationPipeline": "pipelines.scene_graph_generation",
}

__all__ = ["__version__", "default_checkpoint", *_MODULES]

register()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".modeling.{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
