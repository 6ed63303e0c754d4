# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer for the five tasks: weight averages, scores of what the model says, whole checkpoints."""

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput

from .samples import SampleOrder, SampleStream, SampleTable
from .task import Task
from .weight_average import WeightAverage


class NonFiniteLossError(RuntimeError):
    """The loss is not a number; the last checkpoint is from before."""


class EpochOfSamples(TrainerCallback):
    """Tells the training samples their epoch, before loader processes begin."""

    def __init__(self, samples: Any):
        self.samples = samples

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if isinstance(self.samples, SampleTable):
            self.samples.set_epoch(int(state.epoch or 0))


class ButdTrainer(Trainer):
    """A `Trainer` that also

    - averages weights with `ema_decay`, and evaluates and saves the average as the model;
    - scores what the model says (captions are generated) as `eval_<metric>`, and keeps it in `predictions`;
    - trains the backbone with a learning rate of its own, and decays neither norms, biases nor embeddings;
    - counts broken samples in the log, and stops when the loss isn't a number any more.

    ```python
    trainer = ButdTrainer(model, TrainingArguments("run"), task, train_samples, eval_samples)
    trainer.train()
    ```

    Args:
        model: A model of the task.
        args: Settings.
        task: How rows become batches, and outputs scores.
        train_dataset: What to learn from.
        eval_dataset: What to score.
        ema_decay: Of the moving average of the weights; 0 for none.
        backbone_learning_rate: By default a tenth of the `learning_rate`.
        options: Further arguments of `Trainer`.

    Raises:
        ValueError: `ema_decay` with weights that processes share out among them (FSDP, DeepSpeed).
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        task: Task,
        train_dataset: SampleTable | SampleStream | None = None,
        eval_dataset: SampleTable | None = None,
        *,
        ema_decay: float = 0.0,
        backbone_learning_rate: float | None = None,
        **options: Any,
    ):
        args.remove_unused_columns = False
        self.task = task
        self.backbone_learning_rate = backbone_learning_rate
        self.predictions: dict[int, Any] = {}
        self.evaluated: list[tuple[list[int], list[Any], float]] = []
        super().__init__(
            model,
            args,
            data_collator=task,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=task.processor,
            **options,
        )
        self.add_callback(EpochOfSamples(train_dataset))
        self.weight_average = WeightAverage(ema_decay) if ema_decay else None
        if self.weight_average is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay needs whole weights in each process: leave it out with FSDP or DeepSpeed.")
            self.add_callback(self.weight_average)

    def averaged(self) -> contextlib.AbstractContextManager:
        """Within it, the model has the averaged weights, if there are any."""
        if self.weight_average is None:
            return contextlib.nullcontext()
        return self.weight_average.applied(self.accelerator.unwrap_model(self.model))

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, SampleStream):
            return super().get_train_dataloader()
        # a stream shares itself out among processes, what accelerate would do once more
        workers = self.args.dataloader_num_workers
        return DataLoader(self.train_dataset, self._train_batch_size, collate_fn=self.task, num_workers=workers)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        samples = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(samples, SampleTable):
            return super()._get_train_sampler(train_dataset)
        if self.args.train_sampling_strategy != "group_by_length":
            samples.lengths = None
        return SampleOrder(samples, self.args.train_batch_size * self.args.gradient_accumulation_steps)

    def _get_eval_sampler(self, eval_dataset: Any) -> SequentialSampler:
        return SequentialSampler(eval_dataset)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As ever, in groups: of the backbone and of the rest, decayed or not."""
        model = self.model if model is None else model
        if self.optimizer is not None:
            return self.optimizer
        rate = self.args.learning_rate
        backbone_rate = rate / 10 if self.backbone_learning_rate is None else self.backbone_learning_rate
        embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                decayed = parameter.ndim >= 2 and id(parameter) not in embeddings
                groups.setdefault((".backbone." in f".{name}", decayed), []).append(parameter)
        if not groups:
            raise ValueError("No parameter is trainable: everything is frozen.")
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        parameters = [
            {
                "params": groups[of_backbone, decayed],
                "lr": backbone_rate if of_backbone else rate,
                "weight_decay": self.args.weight_decay if decayed else 0.0,
            }
            for of_backbone, decayed in sorted(groups)
        ]
        self.optimizer = optimizer_class(parameters, **options)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs = {name: value for name, value in inputs.items() if name != "rows"}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As ever, with the number of broken samples. Raises `NonFiniteLossError` if the loss isn't a number."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise NonFiniteLossError(
                f"The loss is {logs['loss']} at step {self.state.global_step}: lower --learning_rate, and go on from "
                f"an earlier checkpoint in {self.args.output_dir}."
            )
        if "loss" in logs and self.train_dataset is not None:
            broken = sum(gather_object([len(self.train_dataset.broken)]))  # of all processes
            logs.update({"broken_samples": broken} if broken else {})
        super().log(logs, start_time)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """The loss of a batch; what the model says of it is kept apart, as objects of any shape."""
        inputs = self._prepare_inputs(inputs)
        places = inputs.pop("rows")
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
            said: list[Any] = [None] * len(places)
            if not prediction_loss_only:
                rows = [self.scored.rows[place] for place in places]
                options = {"synced_gpus": True} if is_deepspeed_zero3_enabled() or self.is_fsdp_enabled else {}
                said = self.task.predict(self.accelerator.unwrap_model(self.model), outputs, rows, **options)
        loss = outputs.loss.detach().mean()
        self.evaluated.append((places, said, float(loss)))
        return loss, None, None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self.evaluated, self.scored = [], dataloader.dataset
        if prediction_loss_only is None or self.compute_metrics is None:  # there is no need of `compute_metrics`
            prediction_loss_only = self.args.prediction_loss_only
        with self.averaged():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        found: dict[int, tuple[Any, float]] = {}  # processes with fewer samples repeat some
        for places, said, loss in gather_object(self.evaluated):
            found.update({place: (each, loss) for place, each in zip(places, said, strict=True)})
        rows = [self.scored.rows[place] for place in sorted(found)]
        output.metrics[f"{metric_key_prefix}_loss"] = sum(loss for _, loss in found.values()) / len(found)
        if not prediction_loss_only:
            self.predictions = {place: found[place][0] for place in sorted(found)}
            scores = self.task.score(list(self.predictions.values()), rows)
            output.metrics.update({f"{metric_key_prefix}_{name}": float(value) for name, value in scores.items()})
        return output._replace(num_samples=len(found))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        with self.averaged():
            super().save_model(output_dir, _internal_call)
        average = self.weight_average
        if _internal_call and average is not None and average.average is not None and self.args.should_save:
            average.save(self.accelerator.unwrap_model(self.model), output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.weight_average is not None:
            self.weight_average.load(self.model, resume_from_checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As ever, but not of weights that are another's as well, which are saved once."""
        tied = self.model._tied_weights_keys or {}
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.weight_average is not None:  # it is the average of its time
            self.weight_average.average = None


def last_checkpoint(folder: str | Path) -> str | None:
    """The last whole checkpoint in a run folder, None if there is none.

    A checkpoint that was cut short by the end of its process lacks the trainer's state, which is written last.
    """
    found = []
    for checkpoint in Path(folder).glob("checkpoint-*"):
        try:
            found.append((json.loads((checkpoint / "trainer_state.json").read_text())["global_step"], checkpoint))
        except (OSError, ValueError, KeyError):
            continue
    return str(max(found)[1]) if found else None


def prediction_lines(trainer: ButdTrainer) -> Sequence[str]:
    """What the model said in the last evaluation, and what people said, as lines of JSON."""
    rows, task = trainer.scored.rows, trainer.task
    return [
        json.dumps(task.line(said, rows[place]), ensure_ascii=False) for place, said in trainer.predictions.items()
    ]


__all__ = ["ButdTrainer", "NonFiniteLossError", "last_checkpoint", "prediction_lines"]
