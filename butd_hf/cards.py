# SPDX-License-Identifier: Apache-2.0
"""Model cards: what a checkpoint is, how it was made and how well it does, from what its run wrote down."""

import json
import math
import os
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from .metrics.names import metric_name


CARD_FILE = "README.md"
FOLDER_OF_TEMPLATES = files("butd_hf.hub_cards")
TEMPLATE = FOLDER_OF_TEMPLATES / "captioning.md.jinja"
DETECTION_TEMPLATE = FOLDER_OF_TEMPLATES / "detection.md.jinja"
QUESTION_TEMPLATE = FOLDER_OF_TEMPLATES / "question-answering.md.jinja"
GRAPH_TEMPLATE = FOLDER_OF_TEMPLATES / "scene-graph-generation.md.jinja"

# pipeline task: its template, and what the Hub's index finds its models by
TASKS = {
    "image-to-text": (TEMPLATE, ["image-captioning"]),
    "object-detection": (DETECTION_TEMPLATE, ["object-detection", "region-proposals"]),
    "image-segmentation": (DETECTION_TEMPLATE, ["instance-segmentation"]),
    "visual-question-answering": (QUESTION_TEMPLATE, ["visual-question-answering"]),
    "scene-graph-generation": (GRAPH_TEMPLATE, ["scene-graph-generation", "visual-relationship-detection"]),
}


def write_card(
    folder: str | os.PathLike,
    *,
    name: str,
    data: str,
    licence: str,
    licence_id: str = "other",
    dataset: str | None = None,
    base_model: str | None = None,
    runs: Sequence[str | os.PathLike] = (),
    commands: Sequence[str] = (),
    evaluation: dict[str, Any] | None = None,
    notes: str = "",
    limits: Sequence[str] = (),
    file: str | os.PathLike | None = None,
    task: str = "image-to-text",
    template: str | os.PathLike | None = None,
    pipeline_tag: str | None = None,
    tags: Sequence[str] | None = None,
) -> ModelCard:
    """Writes the card of a checkpoint.

    Args:
        folder: The checkpoint, with `config.json` and `model.safetensors`.
        name: What the model is called, in titles and in the code to copy.
        data: What it was trained on, in Markdown.
        licence: What its licence allows and what not, in Markdown.
        licence_id: The Hub's identifier of the licence.
        dataset: Name of the data set, for the Hub's index.
        base_model: Hub name of the model that it was trained from.
        runs: Run folders that made it, in their order; their commands are the recipe, and what codecarbon estimated
            that they caused is stated.
        commands: Commands of the recipe before those of the runs, such as a conversion.
        evaluation: What `butd-hf evaluate ... --json` printed. Scores that were not defined are left out.
        notes: What else was measured, in Markdown; follows the results.
        limits: Further limits, a sentence each.
        file: Where the card goes; `README.md` in the folder by default.
        task: Pipeline task: `"image-to-text"`, `"object-detection"`, `"image-segmentation"`,
            `"visual-question-answering"` or `"scene-graph-generation"`.
        template: A Jinja template; that of the task by default.
        pipeline_tag: What the Hub calls the model's task; `task` by default.
        tags: What it is found by there; those of the task by default.

    Returns:
        The card.

    Raises:
        FileNotFoundError: If the checkpoint, a run or the template is not there.
        ValueError: If there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}.")
    task_template, task_tags = TASKS[task]
    if tags is None:
        tags = ["butd_hf", *task_tags, "bottom-up-attention", "visual-attention"]
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = folder / "model.safetensors"
    settings = [json.loads((Path(run) / "arguments.json").read_text(encoding="utf-8")) for run in runs]
    versions = json.loads((Path(runs[-1]) / "versions.json").read_text(encoding="utf-8")) if runs else None
    estimates = [estimate for run in runs if (estimate := Path(run) / "emissions.json").is_file()]
    caused = [json.loads(each.read_text(encoding="utf-8"))["kilograms_of_co2_equivalents"] for each in estimates]
    metrics = {name: value for name, value in (evaluation or {}).get("metrics", {}).items() if value is not None}
    results = [
        EvalResult(
            task_type=task,
            dataset_type=dataset or "custom",
            dataset_name=dataset or "custom",
            dataset_split=evaluation.get("split"),
            metric_type=metric,
            metric_name=metric_name(metric),
            metric_value=round(value, 2),
        )
        for metric, value in metrics.items()
        if not metric.startswith("counting_")
    ]
    card_data = ModelCardData(
        language="en" if task in ("image-to-text", "visual-question-answering") else None,
        license=licence_id,
        library_name="transformers",
        pipeline_tag=pipeline_tag or task,
        tags=list(tags),
        datasets=[dataset] if dataset else None,
        metrics=sorted(name for name in metrics if not name.startswith("counting_")) or None,
        base_model=base_model,
        model_name=name,
        eval_results=results or None,
        co2_eq_emissions={"emissions": round(1000 * sum(caused), 3), "source": "codecarbon"} if caused else None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=os.fspath(template if template is not None else task_template),
        name=name,
        task=task,
        classes=by_number(config.get("id2label")),
        predicates=by_number(config.get("id2predicate")),
        config=config,
        bottom_up=config["bottom_up_config"],
        top_down=config["top_down_config"],
        num_parameters=f"{count_parameters(weights) / 1e6:.1f} million",
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        data=data.strip(),
        licence=licence.strip(),
        commands=[*commands, *(recipe(each["command"]) for each in settings)],
        versions=versions,
        kilograms=f"{sum(caused):.2g}" if caused else None,
        evaluation=evaluation,
        metrics=metrics,
        scores=[(metric_name(metric), f"{value:.1f}") for metric, value in metrics.items()],
        notes=notes.strip(),
        limits=list(limits),
    )
    card.save(file if file is not None else folder / CARD_FILE)
    return card


def by_number(names: dict[str, str] | None) -> list[str]:
    """Names in the order of their numbers, which JSON has as text."""
    return [name for _, name in sorted((names or {}).items(), key=lambda item: int(item[0]))]


def recipe(command: Sequence[str]) -> str:
    """The command of a run as others can type it: of folders on the machine that ran it, the last name stays."""
    script, *options = command
    script = "/".join(Path(script).parts[-2:])
    options = [short_path(option) if os.path.isabs(option) else option for option in options]
    return shlex.join(["accelerate", "launch", script, *options])


def short_path(path: str) -> str:
    """The last name of a path; of a run's best checkpoint, that of the run too."""
    parts = Path(path).parts
    return "/".join(parts[-2:] if parts[-1] == "best" else parts[-1:])


def count_parameters(weights: Path) -> int:
    """How many numbers a safetensors file holds."""
    with safe_open(weights, framework="np") as tensors:
        return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118  (no mapping)
