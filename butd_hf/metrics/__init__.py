"""Caption metrics without Java: the scores of coco-caption, and CIDEr-D as a quick reward."""

from typing import TYPE_CHECKING, Any

from .bleu import Bleu, bleu
from .cider import Cider, CiderD, DocumentFrequencies
from .meteor import MeteorUnavailableError, meteor, meteor_unavailable_reason
from .rouge import rouge_l
from .scores import CaptionMetrics
from .tokenizer import tokenize, tokenize_captions


if TYPE_CHECKING:
    from .captioning import CaptioningMetric

__all__ = [
    "Bleu",
    "CaptionMetrics",
    "CaptioningMetric",
    "Cider",
    "CiderD",
    "DocumentFrequencies",
    "MeteorUnavailableError",
    "bleu",
    "load",
    "meteor",
    "meteor_unavailable_reason",
    "rouge_l",
    "tokenize",
    "tokenize_captions",
]


def load(name: str = "captioning", **options: Any) -> "CaptioningMetric":
    """A metric with the interface of the `evaluate` library, as `evaluate.load` but offline.

    Args:
        name: only "captioning".
        options: those of `evaluate.Metric`, such as `keep_in_memory`, `experiment_id`, `num_process`, `process_id`.
    """
    if name != "captioning":
        raise ValueError(f"name must be 'captioning', got {name!r}")
    from .captioning import CaptioningMetric

    return CaptioningMetric(**options)


def __getattr__(name: str) -> Any:
    # `evaluate` and `datasets` take seconds to import, so they wait until the metric is asked for
    if name == "CaptioningMetric":
        from .captioning import CaptioningMetric

        return CaptioningMetric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
