# SPDX-License-Identifier: Apache-2.0
"""The training loop that all tasks share, and the tasks. Names are imported when first used."""

from importlib import import_module
from typing import Any


EXPORTS = {  # name: the module of this package that defines it
    "CaptionDataset": "caption_examples",
    "CaptionStream": "caption_examples",
    "CaptioningTask": "captioning",
    "DetectionDataset": "detection",
    "DetectionTask": "detection",
    "ExampleStream": "example_stream",
    "LoopArguments": "arguments",
    "QuestionAnsweringTask": "question_answering",
    "QuestionDataset": "question_answering",
    "SceneGraphDataset": "scene_graph",
    "SceneGraphTask": "scene_graph",
    "SelfCriticalTask": "self_critical",
    "Task": "task",
    "TrainingLoop": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
