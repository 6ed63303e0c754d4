# SPDX-License-Identifier: Apache-2.0
"""Settings of the training loop, shared by every task."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class LoopArguments:
    """How to train, whatever the task. Each field is also a command line option of the examples."""

    output_dir: str = field(metadata={"help": "Run folder: settings, metrics, best/ and last/."})
    epochs: int = field(default=10, metadata={"help": "Passes over the training images."})
    steps_per_epoch: int = field(
        default=0, metadata={"help": "Optimizer steps that make an epoch of a stream, whose length nobody knows."}
    )
    batch_size: int = field(default=32, metadata={"help": "Images per step and process."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches per optimizer step."})
    learning_rate: float = field(default=3e-4, metadata={"help": "Peak learning rate."})
    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the backbone; a tenth of --learning_rate by default."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Of weight matrices; norms, biases, embeddings: 0."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Memory of the squared gradient."})
    scheduler: Literal["cosine", "one_cycle", "linear", "constant"] = field(
        default="cosine", metadata={"help": "Course of the learning rate after the warmup."}
    )
    warmup: float = field(default=0.05, metadata={"help": "Warmup: share of all steps if below 1, else steps."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm; 0: not."})
    mixed_precision: Literal["no", "fp16", "bf16"] = field(default="no", metadata={"help": "Autocast dtype."})
    ema_decay: float = field(
        default=0.0, metadata={"help": "Moving average of weights, evaluated and saved instead of them; 0: none."}
    )
    seed: int = field(default=0, metadata={"help": "Of weights, order, augmentation and dropout."})
    num_workers: int = field(default=1, metadata={"help": "Loader processes per training process."})
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of PyTorch (accelerate launch sets 1 unless told otherwise)."}
    )
    metric_for_best: str = field(default="loss", metadata={"help": "Evaluation metric that best/ is chosen by."})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after this many evaluations without a better metric; 0: never."}
    )
    evaluate_every: int = field(default=1, metadata={"help": "Epochs between evaluations; the last is always one."})
    logging_steps: int = field(default=50, metadata={"help": "Optimizer steps between lines in metrics.jsonl."})
    checkpoint_steps: int = field(default=0, metadata={"help": "Steps between saves of last/; 0: by minutes only."})
    checkpoint_minutes: float = field(default=10.0, metadata={"help": "Minutes between saves of last/; 0: by epoch."})
    resume: bool = field(default=False, metadata={"help": "Continue from last/ in the run folder, if there is one."})
    max_steps: int = field(default=0, metadata={"help": "Stop after this many optimizer steps, for trials; 0: all."})
    report_to: list[str] = field(
        default_factory=list,
        metadata={"help": "Trackers of accelerate: tensorboard, wandb, ...; metrics.jsonl always."},
    )

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "gradient_accumulation_steps", "evaluate_every", "logging_steps")
        for name in positive:
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in (
            *("learning_rate", "weight_decay", "warmup", "max_grad_norm", "checkpoint_minutes"),
            *("num_workers", "steps_per_epoch"),
        ):
            value = getattr(self, name)
            require(name, value, math.isfinite(value) and value >= 0, "zero or positive")
        require("ema_decay", self.ema_decay, 0.0 <= self.ema_decay < 1.0, "in [0, 1)")

    @property
    def lower_is_better(self) -> bool:
        """Whether the best metric is the smallest: losses and errors are, scores are not."""
        return self.metric_for_best.endswith(("loss", "error", "perplexity", "endings"))

    def warmup_steps(self, total_steps: int) -> int:
        """Warmup in optimizer steps."""
        return min(total_steps, round(self.warmup * total_steps if self.warmup < 1 else self.warmup))


def require(name: str, value: object, holds: bool, expected: str) -> None:
    """Raises `ValueError` that names the setting, what came and what was expected."""
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value!r}.")
