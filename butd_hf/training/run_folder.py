# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what was asked for, what ran, and how it went."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .arguments import LoopArguments


LIBRARIES = (
    "butd_hf",
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
)


class RunFolder:
    """
    Files of one run:

    - `arguments.json`: the command and every setting
    - `versions.json`: the software and the machine
    - `metrics.jsonl`: a line per logged step, evaluation and event
    - `curves.png`: the same as curves, drawn at each evaluation
    - `emissions.json`: the carbon dioxide that it caused, if codecarbon is installed
    - `trackers/`: what TensorBoard and the like write
    - `best/`: the model that did best, ready for `from_pretrained`
    - `last/`: the state that a resumed run continues from
    - `predictions/`: what the model said at each evaluation
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.best = self.path / "best"
        self.last = self.path / "last"
        self.predictions = self.path / "predictions"
        self.metrics_file = self.path / "metrics.jsonl"
        self.curves = self.path / "curves.png"
        self.emissions = self.path / "emissions.json"

    def describe(self, arguments: LoopArguments, task_settings: dict[str, Any]) -> None:
        """Writes down the settings and the versions."""
        self.path.mkdir(parents=True, exist_ok=True)
        settings = {"command": sys.argv, "loop": asdict(arguments), "task": task_settings}
        write_json(self.path / "arguments.json", settings)
        write_json(self.path / "versions.json", versions())

    def log(self, event: str, **values: Any) -> None:
        """Appends a line to `metrics.jsonl`."""
        line = {"time": round(time.time(), 1), "event": event}
        line.update({name: plain(value) for name, value in values.items()})
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int, evaluations: int) -> None:
        """Drops the lines of steps and evaluations that a resumed run does again."""
        if not self.metrics_file.is_file():
            return
        kept = []
        for text in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # cut short by the interruption
                continue
            if line.get("event") == "evaluation":
                evaluations -= 1
                if evaluations < 0:
                    continue
            if line.get("step", 0) <= step:
                kept.append(text)
        rewritten = self.metrics_file.with_suffix(".unfinished")
        rewritten.write_text("".join(text + "\n" for text in kept), encoding="utf-8")
        rewritten.replace(self.metrics_file)


def versions() -> dict[str, Any]:
    """The software and the machine that a run depends on."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        **found,
        "source_commit": source_commit(),
        "system": platform.platform(),
        "device": device,
        "cpu_count": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
    }


def source_commit() -> str | None:
    """The commit that this code was run from, `+changes` if it was changed since; None outside a repository."""
    here = Path(__file__)
    try:
        # an installed package may lie inside somebody else's repository, which does not track it
        git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        commit = git("rev-parse", "HEAD", cwd=here.parent)
        changes = git("status", "--porcelain", "--untracked-files=no", ":/", cwd=here.parent)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")


def git(*arguments: str, cwd: Path) -> str:
    """What git says. Raises `CalledProcessError` if it refuses."""
    ran = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, timeout=10, check=True)
    return ran.stdout.strip()


def plain(value: Any) -> Any:
    """A number as JSON can hold it: rounded to six significant digits, not-a-number as text."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Replaces a JSON file in one step."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    unfinished.replace(file)
