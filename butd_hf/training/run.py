# SPDX-License-Identifier: Apache-2.0
"""A run from beginning to end: its folder holds the model, processor, card, scores and predictions."""

import csv
import importlib.metadata
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback

from ..cards import write_card
from ..metrics.names import is_overall
from .arguments import DataArguments, ModelArguments
from .trainer import ButdTrainer, last_checkpoint, prediction_lines


LIBRARIES = ("butd_hf", "torch", "torchvision", "transformers", "timm", "accelerate", "datasets", "tokenizers")
LICENCE = "Not stated yet: name the licence of these weights, and what those of the data and of the backbone ask for."


def run(trainer: ButdTrainer, data: DataArguments, model: ModelArguments, learned_from: str) -> dict[str, float]:
    """Trains and evaluates, and fills the run folder.

    Args:
        trainer: What trains.
        data: What on, for the card.
        model: Options, of which early stopping is one.
        learned_from: How much of what there is to learn from, in words.

    Returns:
        The metrics of the model that is saved.

    Raises:
        FileExistsError: The folder holds a run, and `--resume_from_checkpoint` isn't given.
    """
    args, folder = trainer.args, Path(trainer.args.output_dir)
    checkpoint = args.resume_from_checkpoint
    if checkpoint in ("last", "true", "True"):
        checkpoint = last_checkpoint(folder)
    elif checkpoint is None and last_checkpoint(folder) is not None:
        raise FileExistsError(f"{folder} holds a run: --resume_from_checkpoint last, or choose another --output_dir.")
    if model.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(model.early_stopping_patience))
    if trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "arguments.json", {"command": sys.argv, "training": args.to_dict()})
        write_json(folder / "versions.json", versions())
    trainer.train(resume_from_checkpoint=checkpoint)
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero():
        write_text(folder / "predictions.jsonl", "".join(f"{line}\n" for line in prediction_lines(trainer)))
        write_emissions(folder)
        write_run_card(trainer, data, learned_from, metrics)
    return metrics


def write_run_card(trainer: ButdTrainer, data: DataArguments, learned_from: str, metrics: dict[str, float]) -> None:
    """Writes `README.md` from what the run knows; what only people know, it says is missing."""
    folder, task = Path(trainer.args.output_dir), trainer.task
    source = ", ".join(Path(each).name for each in data.data)
    scores = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    generation = getattr(trainer.model, "generation_config", None)
    number = "num_questions" if task.name == "visual-question-answering" else "num_images"
    write_card(
        folder,
        name=folder.resolve().name,
        data=f"`{source}`: {learned_from}. Say here what that is, who made it, and who is in it.",
        dataset=source,
        licence=LICENCE,
        runs=[folder],
        task=task.name,
        evaluation={
            number: len(trainer.predictions),
            "num_beams": generation.num_beams if generation is not None else None,
            "mode": getattr(task, "mode", None),
            "common": getattr(task, "common", None),
            "split": data.eval_split,
            "epoch": metrics.get("epoch"),
            "metrics": {name: value for name, value in scores.items() if is_overall(name) and math.isfinite(value)},
        },
    )


def write_emissions(folder: Path) -> None:
    """What codecarbon (`--report_to codecarbon`) estimated, where cards look for it."""
    file = folder / "emissions.csv"
    if file.is_file():
        with open(file, encoding="utf-8", newline="") as rows:
            kilograms = sum(float(row["emissions"] or 0) for row in csv.DictReader(rows))
        write_json(folder / "emissions.json", {"kilograms_of_co2_equivalents": kilograms})


def versions() -> dict[str, Any]:
    """The software and the machine that a run depends on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        **{library: importlib.metadata.version(library) for library in LIBRARIES},
        "device": device,
        "num_threads": torch.get_num_threads(),
    }


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file in one step."""
    write_text(file, json.dumps(content, indent=2, default=str) + "\n")


def write_text(file: Path, text: str) -> None:
    """Replaces a text file in one step."""
    unfinished = file.with_suffix(f"{file.suffix}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, file)


__all__ = ["run"]
