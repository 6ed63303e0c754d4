# SPDX-License-Identifier: Apache-2.0
"""The training loop that all tasks share."""

import math
import signal
import time
from contextlib import nullcontext
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed

from ..progress import steps_progress
from .arguments import LoopArguments
from .batches import EpochBatches
from .checkpoints import latest_state, recover_folder, replace_folder, save_state
from .example_stream import ExampleStream, StreamLoader
from .failures import advice
from .journal import Journal
from .loop_state import LoopState
from .meter import Meter
from .optimizers import build_average, build_optimizer, build_scheduler, set_training_mode
from .run_card import write_run_card
from .run_folder import RunFolder
from .task import Task
from .trackers import TRACKERS_FOLDER, require_trackers


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is not a number; the last checkpoint is from before."""


class TrainingLoop:
    """
    Trains the model of a task.

    ```python
    metrics = TrainingLoop(task, LoopArguments(output_dir="runs/first")).run()
    ```

    Args:
        task: Model, data, evaluation.
        arguments: Settings.
        accelerator: Made from the settings by default. One that is passed in must have the same
            `gradient_accumulation_steps`.
    """

    def __init__(self, task: Task, arguments: LoopArguments, accelerator: Accelerator | None = None):
        self.task = task
        self.arguments = arguments
        self.accelerator = accelerator or build_accelerator(arguments)
        self.folder = RunFolder(arguments.output_dir)
        self.journal = Journal(self.folder, self.accelerator)
        self.meter = Meter()
        self.stop_signal: int | None = None
        self.counted_at = self.saved_at = time.monotonic()

        if arguments.num_threads:
            torch.set_num_threads(arguments.num_threads)
        set_seed(arguments.seed, device_specific=True)  # processes differ in dropout, not in the order of examples

        num_processes = self.accelerator.num_processes
        self.loader: Any
        if isinstance(task.train_dataset, ExampleStream):
            self.batches = self.loader = StreamLoader(task, arguments, self.accelerator)
        elif arguments.steps_per_epoch:
            raise ValueError(
                f"steps_per_epoch is for streams, got {arguments.steps_per_epoch}: an epoch is once through the "
                f"{len(task.train_dataset)} examples."
            )
        else:
            self.batches = EpochBatches(
                len(task.train_dataset), arguments.batch_size, arguments.seed, num_processes, task.example_sizes()
            )
            self.loader = self.batches.loader(task, self.accelerator, arguments.num_workers)
        self.steps_per_epoch = -(-self.batches.batches_per_process // arguments.gradient_accumulation_steps)
        self.total_steps = self.steps_per_epoch * arguments.epochs
        if arguments.max_steps:
            self.total_steps = min(self.total_steps, arguments.max_steps)
        self.state = LoopState(
            seed=arguments.seed,
            batch_size=arguments.batch_size,
            num_processes=num_processes,
            gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        )
        self._prepare()

    def _prepare(self) -> None:
        """Builds what the model is trained with and registers what a checkpoint must hold."""
        accelerator, task = self.accelerator, self.task
        task.model.to(accelerator.device)
        if task.backbone is not None:  # convolutions are faster with channels last, on CPUs above all
            task.backbone.to(memory_format=torch.channels_last)
        # copied before the model is wrapped for mixed precision or distribution
        decay = self.arguments.ema_decay
        self.average = build_average(task.model, decay) if decay > 0 else None

        optimizer = build_optimizer(task.model, self.arguments, task.backbone)
        self.scheduler = build_scheduler(optimizer, self.arguments, self.total_steps)
        self.model, self.optimizer = accelerator.prepare(task.model, optimizer)
        accelerator.register_for_checkpointing(self.state, self.scheduler)
        if self.average is not None:
            accelerator.register_for_checkpointing(self.average)
        if isinstance(self.loader, StreamLoader):
            accelerator.register_for_checkpointing(self.loader)

    def run(self) -> dict[str, float]:
        """
        Trains until the last epoch, early stopping or a signal.

        Returns:
            The metrics of the last evaluation.

        Raises:
            NonFiniteLossError: The loss is not a number any more.
            FileExistsError: The run folder holds a run, and `resume` is off.
            SystemExit: The process was asked to stop; `last/` is saved.
        """
        self._open_folder()
        handlers = {number: self._listen(number) for number in (signal.SIGINT, signal.SIGTERM)}
        metrics: dict[str, float] = {}
        try:
            while not self._finished():
                self._train_epoch()
                if self.state.epoch % self.arguments.evaluate_every == 0 or self._finished():
                    metrics = self._evaluate()
                self._save_last()
        except Exception as error:
            if not isinstance(error, NonFiniteLossError):  # which says what to do
                self.journal.warn(f"{error}\n{advice(error, self.folder.path, latest_state(self.folder.last))}")
            raise
        finally:
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)
            self.journal.end()
        duration = timedelta(seconds=round(self.state.seconds))
        name, state = self.arguments.metric_for_best, self.state
        if state.best is None:
            best = f"but no evaluation gave a finite {name}: there is no {self.folder.best}"
        else:
            best = f"best {name} {state.best:.4g} of epoch {state.best_epoch} in {self.folder.best}"
        self.journal.say(f"done: {state.step} steps in {duration}, {best}")
        return metrics

    def _finished(self) -> bool:
        patience = self.arguments.early_stopping_patience
        out_of_patience = bool(patience) and self.state.evaluations_without_gain >= patience
        return out_of_patience or self.state.epoch >= self.arguments.epochs or self.state.step >= self.total_steps

    def _open_folder(self) -> None:
        """Describes the run in its folder, and goes back to its last state if asked to."""
        latest = latest_state(self.folder.last)
        if latest is not None and not self.arguments.resume:
            raise FileExistsError(f"{self.folder.path} holds a run: resume it, or choose another output_dir.")
        if self.accelerator.is_main_process:
            self.folder.describe(self.arguments, self.task.settings())
            recover_folder(self.folder.best)
        if latest is not None:
            self.accelerator.load_state(str(latest))
            if self.accelerator.is_main_process:
                self.folder.forget_after(self.state.step, self.state.evaluations)
                self.folder.log("resumed", epoch=self.state.epoch, step=self.state.step)
            self.journal.say(f"resumed at epoch {self.state.epoch + 1}, step {self.state.step}")
        self.journal.start(self.arguments, self.task.settings(), self.state.step)
        self.accelerator.wait_for_everyone()

    def _train_epoch(self) -> None:
        """The rest of the current epoch."""
        state, arguments, accelerator = self.state, self.arguments, self.accelerator
        num_batches = self.batches.batches_per_process
        if hasattr(self.task.train_dataset, "set_epoch"):
            self.task.train_dataset.set_epoch(state.epoch)
        self.loader.iteration = state.epoch  # accelerate sets the data set's epoch again, to its own count
        self.batches.begin(state.epoch, consumed=state.batch)
        set_training_mode(self.model, self.task.backbone)
        self.meter.clear()
        self.counted_at = self.saved_at = time.monotonic()
        on_terminal = accelerator.is_main_process and self.journal.console.is_terminal
        with steps_progress(enabled=on_terminal, console=self.journal.console) as progress:
            bar = progress.add_task(
                f"epoch {state.epoch + 1}/{arguments.epochs}",
                total=self.steps_per_epoch,
                completed=state.batch // arguments.gradient_accumulation_steps,
                loss=math.nan,
                learning_rate=0.0,
                images_per_second=0.0,
            )
            # a run saved after the last batch of an epoch has nothing left but to evaluate
            batches = iter(self.loader if state.batch < num_batches else ())
            while together := list(islice(batches, arguments.gradient_accumulation_steps)):
                losses = self._step(together)
                state.batch += len(together)
                num_images = sum(self.task.num_images(batch) for batch in together)
                self.meter.update(losses, num_images * accelerator.num_processes)
                state.step += 1
                self.meter.steps += 1
                progress.update(
                    bar,
                    advance=1,
                    loss=self.meter.means()["loss"],
                    learning_rate=max(self.scheduler.get_last_lr()),
                    images_per_second=self.meter.images_per_second,
                )
                if state.step % arguments.logging_steps == 0:
                    self._log_step(quiet=on_terminal)
                    self.meter.clear()
                self._save_if_due()
                if state.step >= self.total_steps:
                    break
        self._count_time()
        if state.batch >= num_batches:
            state.epoch, state.batch = state.epoch + 1, 0

    def _step(self, batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """A forward and a backward pass of each batch, then an optimizer step. Returns the losses of all of them."""
        accelerator = self.accelerator
        losses: dict[str, float] = {}
        for place, (batch, share) in enumerate(zip(batches, self._shares(batches), strict=True)):
            is_last = place + 1 == len(batches)
            with nullcontext() if is_last else accelerator.no_sync(self.model):
                with accelerator.autocast():
                    parts = self.task.loss(self.model, batch)
                values = share * torch.stack([part.detach().float() for part in parts.values()])
                values = accelerator.reduce(values, reduction="mean")  # every process sees, and raises, the same
                for name, value in zip(parts, values.tolist(), strict=True):
                    losses[name] = losses.get(name, 0.0) + value
                if not math.isfinite(losses["loss"]):
                    self._raise_non_finite(f"The loss is {losses['loss']}", losses)
                # accelerate divides by as many batches as there should be: at the end of an epoch there are fewer
                accelerator.backward(share * accelerator.gradient_accumulation_steps * parts["loss"])
        limit = self.arguments.max_grad_norm or math.inf
        norm = accelerator.clip_grad_norm_(self.model.parameters(), limit)
        # half precision meets infinite gradients by design: its scaler skips the step
        if accelerator.scaler is None and not math.isfinite(float(norm)):
            self._raise_non_finite(f"The gradient's norm is {float(norm)}", losses)
        self.optimizer.step()
        if not self.optimizer.step_was_skipped:
            self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(accelerator.unwrap_model(self.model))
        self.optimizer.zero_grad()
        return losses

    def _shares(self, batches: list[dict[str, torch.Tensor]]) -> list[float]:
        """
        What the loss of each batch counts for in the mean over processes of a step's sum over batches, so that this is
        the loss of all examples of the step together.
        """
        accelerator, task = self.accelerator, self.task
        weights = torch.tensor([float(task.loss_weight(batch)) for batch in batches], device=accelerator.device)
        total = accelerator.reduce(weights, reduction="sum")
        if task.counts_over_processes:  # processes are equal then; batches in which nothing is to be found count, too
            weights = total = total.clamp(min=1.0)
        else:
            weights = weights * accelerator.num_processes
        return (weights / total.sum().clamp(min=1.0)).tolist()

    def _evaluate(self) -> dict[str, float]:
        """Evaluates the averaged weights, or else the current ones, and keeps the model if it is the best so far."""
        accelerator, state = self.accelerator, self.state
        model = accelerator.unwrap_model(self.model) if self.average is None else self.average.module
        model.eval()
        started = time.monotonic()
        with torch.no_grad(), accelerator.autocast():
            metrics = self.task.evaluate(model, accelerator, self.folder.predictions, state.epoch)
        name = self.arguments.metric_for_best
        if name not in metrics:
            raise KeyError(f"metric_for_best is {name!r}, but the evaluation gave {sorted(metrics)}.")
        value = metrics[name]
        gained = math.isfinite(value) and (
            state.best is None or (value < state.best if self.arguments.lower_is_better else value > state.best)
        )
        if gained:
            state.best, state.best_epoch, state.evaluations_without_gain = value, state.epoch, 0
        else:
            state.evaluations_without_gain += 1
        state.evaluations += 1
        seconds = time.monotonic() - started
        self.journal.log("evaluation", epoch=state.epoch, step=state.step, seconds=seconds, **metrics)
        self.journal.draw(name)
        if accelerator.is_main_process and gained:
            description = {"epoch": state.epoch, "step": state.step, "metrics": metrics}

            def write(folder: Path) -> None:
                self.task.save(model, folder)
                write_run_card(folder, self.folder, self.task, metrics, state.epoch)

            replace_folder(self.folder.best, write, description)
        accelerator.wait_for_everyone()
        shown = "  ".join(f"{key} {number:.4g}" for key, number in metrics.items())
        self.journal.say(f"epoch {state.epoch} evaluation: {shown}{'  (best)' if gained else ''}")
        return metrics

    def _save_last(self) -> None:
        self._count_time()
        save_state(self.accelerator, self.folder.last, self.state.step)
        self.saved_at = time.monotonic()

    def _save_if_due(self) -> None:
        """Saves `last/` when steps or minutes say so, or when the process was asked to stop, which it then does."""
        arguments = self.arguments
        due = bool(arguments.checkpoint_steps) and self.state.step % arguments.checkpoint_steps == 0
        minutes = (time.monotonic() - self.saved_at) / 60
        due = due or 0 < arguments.checkpoint_minutes <= minutes
        stop = self.stop_signal or 0
        if self.accelerator.num_processes > 1:  # clocks and signals differ: all do what any one wants
            wishes = torch.tensor([int(due), stop], device=self.accelerator.device)
            due, stop = self.accelerator.reduce(wishes, reduction="sum").tolist()
        if due or stop:
            self._save_last()
        if stop:
            self.journal.say(
                f"asked to stop: step {self.state.step} is saved in {self.folder.last}, resume to continue"
            )
            raise SystemExit(128 + (self.stop_signal or signal.SIGTERM))

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.counted_at
        self.counted_at = now

    def _listen(self, number: int) -> Any:
        """Makes a signal stop the run at its next step; a second one stops it at once. Returns the old handler."""

        def ask(received: int, frame: FrameType | None) -> None:
            self.stop_signal = received
            signal.signal(received, signal.SIG_DFL)

        try:
            return signal.signal(number, ask)
        except ValueError:  # not in the main thread, where signals cannot be listened to
            return None

    def _log_step(self, quiet: bool) -> None:
        """A line in the log, and one on the console if no progress bar is there."""
        state, meter = self.state, self.meter
        losses, speed, rate = meter.means(), meter.images_per_second, max(self.scheduler.get_last_lr())
        epoch = state.epoch + state.batch / self.batches.batches_per_process
        values = {"learning_rate": rate, "images_per_second": speed, **losses}
        self.journal.log("training", epoch=epoch, step=state.step, **values)
        if not quiet:
            left = timedelta(seconds=round(meter.seconds_per_step * (self.total_steps - state.step)))
            self.journal.say(
                f"epoch {state.epoch + 1}/{self.arguments.epochs}  step {state.step}/{self.total_steps}  "
                f"loss {losses['loss']:.4f}  lr {rate:.2e}  {speed:.1f} images/s  {left} left"
            )

    def _raise_non_finite(self, what: str, losses: dict[str, float]) -> None:
        latest = latest_state(self.folder.last)
        if self.accelerator.is_main_process:
            self.folder.log("stopped", epoch=self.state.epoch, step=self.state.step, reason=what, **losses)
        raise NonFiniteLossError(
            f"{what} at step {self.state.step + 1} of epoch {self.state.epoch + 1} (parts: {losses}, learning rates: "
            f"{self.scheduler.get_last_lr()}). The last good state is {latest or 'none: nothing was saved yet'}. "
            f"Try a lower learning rate, a longer warmup, or mixed_precision=no."
        )


def build_accelerator(arguments: LoopArguments) -> Accelerator:
    """
    The accelerator that the settings ask for.

    Raises:
        ImportError: A tracker's package is not installed.
        ValueError: The launcher wants weights or optimizer states shared out over processes.
    """
    require_trackers(arguments.report_to)
    places = ProjectConfiguration(arguments.output_dir, logging_dir=str(Path(arguments.output_dir, TRACKERS_FOLDER)))
    accelerator = Accelerator(
        mixed_precision=arguments.mixed_precision,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with=arguments.report_to or None,
        project_config=places,
    )
    require_whole_models(accelerator.distributed_type)
    return accelerator


def require_whole_models(kind: DistributedType) -> None:
    """Raises `ValueError` if processes are to hold parts: what they evaluate, average and save are whole models."""
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        raise ValueError(
            f"TrainingLoop needs a whole model in every process, accelerate was configured for {kind.value}: take "
            f"examples/accelerate_configs/eight_gpus_ddp.yaml, or train with transformers' Trainer as "
            f"examples/trainer_*.py do."
        )
