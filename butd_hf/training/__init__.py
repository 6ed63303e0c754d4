# SPDX-License-Identifier: Apache-2.0
"""Training by transformers' Trainer, and the five tasks. Names are imported when first used."""

from importlib import import_module
from typing import Any


EXPORTS = {  # name: the module of this package that defines it
    "ButdTrainer": "trainer",
    "CaptionTask": "captioning",
    "DetectionTask": "detection",
    "QuestionTask": "question_answering",
    "SampleStream": "samples",
    "SampleTable": "samples",
    "SceneGraphTask": "scene_graph",
    "SelfCriticalTrainer": "self_critical",
    "Task": "task",
}
SUCCESSORS = {  # of names of earlier versions
    "TrainingLoop": "ButdTrainer",
    "LoopArguments": "transformers.TrainingArguments",
    "CaptioningTask": "CaptionTask",
    "QuestionAnsweringTask": "QuestionTask",
    "SelfCriticalTask": "SelfCriticalTrainer",
    **dict.fromkeys(("CaptionDataset", "DetectionDataset", "QuestionDataset", "SceneGraphDataset"), "SampleTable"),
    **dict.fromkeys(("CaptionStream", "ExampleStream"), "SampleStream"),
}


def __getattr__(name: str) -> Any:
    if name in SUCCESSORS:
        raise AttributeError(f"{__name__}.{name} is gone; its successor is {SUCCESSORS[name]}")
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
