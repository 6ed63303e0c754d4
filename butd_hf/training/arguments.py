# SPDX-License-Identifier: Apache-2.0
"""What the command line can say beside `TrainingArguments`: groups of options that `HfArgumentParser` reads."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments

from ..data.answers import TargetForm
from ..inference.relations import GRAPH_MODES
from ..metrics.average_precision import COMMON_BOXES


EVALUATION_SPLITS = ("dev", "val", "validation", "test")

# options of earlier versions, and what says the same now
SUCCESSORS = {
    "epochs": "--num_train_epochs",
    "batch_size": "--per_device_train_batch_size",
    "eval_batch_size": "--per_device_eval_batch_size",
    "extract_batch_size": "--per_device_eval_batch_size",
    "scheduler": "--lr_scheduler_type",
    "warmup": "--warmup_steps (below 1: a share of all steps)",
    "mixed_precision": "--bf16 or --fp16",
    "num_workers": "--dataloader_num_workers",
    "num_threads": "the environment variable OMP_NUM_THREADS",
    "metric_for_best": "--metric_for_best_model",
    "evaluate_every": "--eval_strategy and --eval_steps",
    "checkpoint_steps": "--save_strategy steps --save_steps",
    "checkpoint_minutes": "--save_strategy steps --save_steps",
    "resume": "--resume_from_checkpoint last",
    "steps_per_epoch": "--max_steps with --eval_steps",
    "label_smoothing": "--label_smoothing_factor",
    "num_beams": "--generation_num_beams",
    "max_new_tokens": "--generation_max_length",
    "group_sizes": "--train_sampling_strategy group_by_length",
    "train_bottom_up": "--freeze none",
    "model": "--init_from",
    **dict.fromkeys(("num_layers",), "--config num_hidden_layers=..."),
    **dict.fromkeys(("num_heads",), "--config num_attention_heads=..."),
    **{
        name: f"--config {name}=..."
        for name in (
            *("selector", "num_regions", "out_indices", "fpn_size", "region_head_size", "num_region_attributes"),
            *("region_mask_size", "decoder", "hidden_size", "attention_size", "recurrent_variant", "embedding_size"),
            *("num_region_layers", "intermediate_size", "dropout", "attention_dropout", "region_dropout"),
            *("word_dropout", "answer_dropout", "question_variant", "num_glimpses", "one_to_many", "pair_budget"),
        )
    },
    "appearance": "--config relation_appearance=...",
    "pair_loss": "--config pair_loss_coefficient=...",
    "predicate_loss": "--config predicate_loss_coefficient=...",
    "object_loss": "--config object_loss_coefficient=...",
    **dict.fromkeys(
        (
            *("image_grid_size", "freeze_depthwise", "cache_dtype", "compile", "text_encoder", "question_ngrams"),
            *("answer_size", "teachers", "foreign_questions", "standardize_regions", "regions", "questions"),
            *("predicate_names", "pair_rivals", "frequency_prior", "min_count", "logit_adjustment"),
        ),
        "nothing: it was taken out, since it gained nothing or little",
    ),
}


@dataclass
class DataArguments:
    """What to train on and what to score."""

    data: list[str] = field(metadata={"help": "File or folder of the data; or several, which are mixed."})
    data_weights: list[float] | None = field(default=None, metadata={"help": "In which shares --data are mixed."})
    eval_data: str | None = field(default=None, metadata={"help": "What to score; by default the first --data."})
    images: str | None = field(default=None, metadata={"help": "Images folder; images/ beside the file by default."})
    format: str = field(default="auto", metadata={"help": "Layout of questions and graphs, where it can't be seen."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    eval_split: str | None = field(default=None, metadata={"help": f"Split to score: first of {EVALUATION_SPLITS}."})
    limit: int = field(default=0, metadata={"help": "Use only this many rows of each split, for trials."})
    strict: bool = field(default=False, metadata={"help": "Stop at a broken sample instead of skipping it."})
    augment: list[str] = field(default_factory=lambda: ["flip"], metadata={"help": "flip, crop, jitter ...; or none."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Of streams: rows in memory, one of which is next."})

    def __post_init__(self) -> None:
        self.augment = [name for name in self.augment if name != "none"]
        if len(self.data) > 1 and self.images is not None:
            raise ValueError(f"--images is the folder of one --data, got {len(self.data)}: leave it out.")


@dataclass
class ModelArguments:
    """What to train. What isn't said is as `--init_from` has it."""

    init_from: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from; of another task, its bottom-up half is taken."}
    )
    bottom_up_from: str | None = field(default=None, metadata={"help": "Checkpoint whose bottom-up half is taken."})
    backbone: str = field(default="tf_efficientnet_lite2", metadata={"help": "Any timm name, of a new model."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Weights file, installed package that carries one, or 'timm' to download."}
    )
    config: list[str] = field(
        default_factory=list, metadata={"help": "Fields of ButdConfig and its parts, as hidden_size=256 selector=rpn."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Height and width in pixels."})
    longest_edge: int | None = field(
        default=None, metadata={"help": "Keep the aspect ratio: --image_size is the shortest edge, this the longest."}
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, ..."})
    freeze: str = field(default="none", metadata={"help": "all of the bottom-up half, none, or N backbone stages."})
    cache: str | None = field(default=None, metadata={"help": "Folder for regions, computed once; --freeze all."})
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the backbone; a tenth of --learning_rate by default."}
    )
    ema_decay: float = field(default=0.0, metadata={"help": "Of averaged weights, which are the model; 0: none."})
    word_vectors: str | None = field(
        default=None, metadata={"help": "Text file as GloVe's: what words of questions or labels of objects begin as."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after this many evaluations without a better metric; 0: never."}
    )

    def __post_init__(self) -> None:
        if self.freeze not in ("all", "none") and not self.freeze.isdigit():
            raise ValueError(f"--freeze must be all, none or a number of stages, got {self.freeze!r}.")
        if self.init_from is not None and self.bottom_up_from is not None:
            raise ValueError("--bottom_up_from begins a new model: leave out --init_from, which continues one.")
        if self.cache is not None and self.freeze != "all":
            raise ValueError(f"--cache needs --freeze all, got --freeze {self.freeze}: regions would change.")


@dataclass
class TextArguments:
    """The vocabulary of a new model."""

    tokenizer_kind: str = field(default="word", metadata={"help": "word or bpe."})
    vocab_size: int = field(default=10000, metadata={"help": "Most tokens of the vocabulary."})
    min_frequency: int = field(default=5, metadata={"help": "Rarer words are unknown."})
    max_length: int = field(default=24, metadata={"help": "Longest text to learn from, in tokens."})


@dataclass
class CaptionArguments:
    """Of captioning."""

    captions_per_image: int = field(default=5, metadata={"help": "Captions drawn per image and step."})
    vocab_images: int = field(default=20000, metadata={"help": "First images of a stream that teach the vocabulary."})
    self_critical: bool = field(default=False, metadata={"help": "Reward whole captions by CIDEr-D; --init_from."})
    num_samples: int = field(default=5, metadata={"help": "Captions sampled per image, with --self_critical."})
    baseline: Literal["mean", "greedy", "beam"] = field(default="mean", metadata={"help": "What samples must beat."})
    temperature: float = field(default=1.0, metadata={"help": "Of that sampling."})


@dataclass
class QuestionArguments:
    """Of question answering."""

    min_answers: int = field(default=1, metadata={"help": "Answers that are right less often are left out."})
    max_answers: int | None = field(default=None, metadata={"help": "Most answers."})
    loss: Literal["bce", "ce"] = field(default="bce", metadata={"help": "Each answer by itself, or one right one."})
    soft_targets: TargetForm = field(default="leave_one_out", metadata={"help": "Or simplified: min(1, n / 3)."})
    questions_per_image: int = field(default=0, metadata={"help": "A sample is an image with N questions; 0: one."})


@dataclass
class DetectionArguments:
    """Of detection and segmentation."""

    mosaic: float = field(default=0.5, metadata={"help": "Share of mosaics, if --augment has them."})
    common: int = field(default=COMMON_BOXES, metadata={"help": "Boxes a class needs to count for ..._ap50_common."})


@dataclass
class GraphArguments:
    """Of scene graphs."""

    mode: str = field(default="predcls", metadata={"help": f"What is given of images: {', '.join(GRAPH_MODES)}."})
    num_labels: int | None = field(default=None, metadata={"help": "Keep only the commonest labels."})
    num_predicates: int | None = field(default=None, metadata={"help": "Keep only the commonest predicates."})
    label_map: str | None = field(
        default=None, metadata={"help": 'JSON file, {"class of the bottom-up half": "label of the data"}.'}
    )

    def __post_init__(self) -> None:
        if self.mode not in GRAPH_MODES:
            raise ValueError(f"--mode must be one of {GRAPH_MODES}, got {self.mode!r}.")


def parse_arguments(
    *groups: type, description: str | None = None, generates: bool = False, **defaults: Any
) -> tuple[Any, ...]:
    """What the command line says: an object of each group, then the training arguments.

    Args:
        groups: Dataclasses, each a group of options.
        description: Of the command, for its help.
        generates: Whether the task generates text.
        defaults: Of options, where they differ from the general ones.

    Raises:
        ValueError: An option of an earlier version, with what says the same now; or one that never was.
    """
    refuse_earlier_options(sys.argv[1:], groups)
    arguments_class = Seq2SeqTrainingArguments if generates else TrainingArguments
    parser = HfArgumentParser([*groups, arguments_class], description=description, allow_abbrev=False)
    common = {
        "num_train_epochs": 10.0, "per_device_train_batch_size": 32, "per_device_eval_batch_size": 32,
        "learning_rate": 3e-4, "weight_decay": 0.05, "adam_beta2": 0.98, "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05, "seed": 0, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 2,
        "load_best_model_at_end": True, "greater_is_better": True, "logging_steps": 50, "report_to": "none",
        "logging_nan_inf_filter": False, "dataloader_num_workers": 1,
    }  # fmt: skip
    if generates:
        common.update(generation_num_beams=3, generation_max_length=24)
    parser.set_defaults(**{**common, **defaults})
    *found, training = parser.parse_args_into_dataclasses()
    if training.metric_for_best_model.endswith("loss"):
        training.greater_is_better = False
    return (*found, training)


def refuse_earlier_options(words: Sequence[str], groups: Sequence[type]) -> None:
    """Raises `ValueError` for an option of an earlier version, which names its successor."""
    known = {name for group in groups for name in group.__dataclass_fields__}
    for word in words:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in SUCCESSORS and name not in known:
            raise ValueError(f"--{name} is an option of earlier versions; its successor is {SUCCESSORS[name]}.")


__all__ = [
    "CaptionArguments",
    "DataArguments",
    "DetectionArguments",
    "GraphArguments",
    "ModelArguments",
    "QuestionArguments",
    "TextArguments",
    "parse_arguments",
]
