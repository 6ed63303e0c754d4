# SPDX-License-Identifier: Apache-2.0
"""Data in: caption and question files, their tokenizers, and stored regions. Names are imported when first used."""

from importlib import import_module
from typing import Any


EXPORTS = {  # name: the module of this package that defines it
    "Augmentation": "transforms",
    "DetectionAugmentation": "detection_transforms",
    "DataError": "data_errors",
    "RegionStore": "region_store",
    "RegionStoreWriter": "region_writing",
    "build_answers": "answers",
    "extract_regions": "extraction",
    "load_captions": "captions",
    "load_detections": "detection",
    "load_questions": "questions",
    "load_scene_graphs": "scene_graphs",
    "mix": "splits",
    "normalize_answer": "answers",
    "open_captions": "caption_streams",
    "train_tokenizer": "tokenization",
}


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *EXPORTS])
