# SPDX-License-Identifier: Apache-2.0
"""Metrics of captions without Java, boxes and masks, regions, answers and scene graphs."""

from importlib import import_module
from typing import Any

from .bleu import Bleu, bleu
from .captioning import CaptionMetrics
from .cider import Cider, CiderD
from .meteor import MeteorUnavailableError, meteor, meteor_unavailable_reason
from .rouge import rouge_l
from .tokenizer import tokenize, tokenize_captions


# `evaluate` and `datasets` take seconds to import, so these classes wait until one is asked for
METRICS = {
    "captioning": "CaptioningMetric",
    "detection": "DetectionMetric",
    "regions": "RegionRecallMetric",
    "scene_graphs": "SceneGraphMetric",
    "vqa": "VqaMetric",
}

__all__ = [
    "Bleu",
    "CaptionMetrics",
    "CaptioningMetric",
    "Cider",
    "CiderD",
    "DetectionMetric",
    "MeteorUnavailableError",
    "RegionRecallMetric",
    "SceneGraphMetric",
    "VqaMetric",
    "bleu",
    "load",
    "meteor",
    "meteor_unavailable_reason",
    "rouge_l",
    "tokenize",
    "tokenize_captions",
]


def load(name: str = "captioning", **options: Any) -> Any:
    """A metric with the interface of the `evaluate` library, as `evaluate.load` but offline.

    Args:
        name: "captioning", "detection", "regions", "scene_graphs" or "vqa".
        options: those of `evaluate.Metric`, such as `keep_in_memory`, `experiment_id`, `num_process`, `process_id`.
    """
    if name not in METRICS:
        raise ValueError(f"name must be one of {sorted(METRICS)}, got {name!r}")
    return __getattr__(METRICS[name])(**options)


def __getattr__(name: str) -> Any:
    if name in METRICS.values():
        return getattr(import_module(".metric_classes", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
