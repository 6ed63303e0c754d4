# SPDX-License-Identifier: Apache-2.0
"""
What does looking add to asking? Trains the same model on the question alone, on the picture alone, on the cells of a
grid and on learned regions, with several seeds, and prints one table:

    python examples/vqa_ablations.py --data FOLDER --output_dir RUNS --init_from CHECKPOINT --freeze all \
        --cache REGIONS --learned_from DETECTOR --seeds 0 1 2

All options of `examples/train_vqa.py` work here too, and hold for every run; `--teachers` are of the one row that
`--rows` names. CHECKPOINT is where the grid's backbone comes from; DETECTOR is a checkpoint whose selector has learned
its regions, without which that row is left out. Each number is of the run's best epoch on the evaluation split by
`--metric_for_best`. A run that is complete is not done again, so that an interrupted table goes on with `--resume`.
"""

import json
import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from transformers import HfArgumentParser

from butd_hf.cli.console import print_table
from butd_hf.metrics.names import metric_name
from butd_hf.training.arguments import LoopArguments
from butd_hf.training.loop import TrainingLoop, build_accelerator
from butd_hf.training.question_answering_recipe import QuestionArguments, build_task


METRICS = ("exact_match_single", "exact_match", "vqa_accuracy")


@dataclass
class AblationArguments:
    """Which runs make up the table."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "One run each."})
    learned_from: str | None = field(default=None, metadata={"help": "Checkpoint whose selector has learned."})
    rows: list[str] = field(default_factory=list, metadata={"help": "Only these rows; all by default."})


def variants(arguments: QuestionArguments, learned_from: str | None) -> dict[str, QuestionArguments]:
    """The rows of the table, each with the settings that make it."""

    def cache(name: str) -> str | None:
        return None if arguments.cache is None else str(Path(arguments.cache) / name)

    grid = replace(arguments, selector="grid", cache=cache("grid"))
    rows = {
        "question only": replace(grid, regions="none"),
        "image only": replace(grid, questions="none"),
        "grid": grid,
    }
    if learned_from is not None:
        rows["learned regions"] = replace(arguments, init_from=learned_from, selector=None, cache=cache("learned"))
    return rows


def run(arguments: QuestionArguments, loop: LoopArguments) -> dict[str, float]:
    """Trains, unless that was done before, and returns the metrics of the best epoch."""
    finished = Path(loop.output_dir) / "best_metrics.json"
    if finished.is_file():
        return json.loads(finished.read_text(encoding="utf-8"))
    accelerator = build_accelerator(loop)
    set_seed(loop.seed)
    TrainingLoop(build_task(arguments, loop, accelerator), loop, accelerator).run()
    lines = (Path(loop.output_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [line for line in map(json.loads, lines) if line["event"] == "evaluation"]
    best = (min if loop.lower_is_better else max)(evaluations, key=lambda line: line[loop.metric_for_best])
    finished.write_text(json.dumps(best), encoding="utf-8")
    return best


def summary(values: list[float]) -> str:
    """Mean, spread over the seeds, and each seed's value."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread} ({', '.join(f'{value:.1f}' for value in values)})"


def main() -> None:
    parser = HfArgumentParser([AblationArguments, QuestionArguments, LoopArguments], description=__doc__)
    parser.set_defaults(metric_for_best="exact_match", batch_size=64)
    ablation, arguments, loop = parser.parse_args_into_dataclasses()
    rows = variants(arguments, ablation.learned_from)
    unknown = [name for name in ablation.rows if name not in rows]
    if unknown:
        raise ValueError(f"--rows must be some of {list(rows)}, got {unknown}.")
    table: dict[str, list[dict[str, Any]]] = {}
    for name in ablation.rows or rows:
        for seed in ablation.seeds:
            folder = Path(loop.output_dir) / f"{name.replace(' ', '-')}-{seed}"
            own = replace(loop, output_dir=str(folder), seed=seed)
            table.setdefault(name, []).append(run(rows[name], own))

    shown = [metric for metric in METRICS if all(metric in best for runs in table.values() for best in runs)]
    cells = [[name, *(summary([best[metric] for best in runs]) for metric in shown)] for name, runs in table.items()]
    title = f"{', '.join(arguments.data)}, best of {loop.epochs} epochs, seeds {', '.join(map(str, ablation.seeds))}"
    print_table(["model sees", *map(metric_name, shown)], cells, title=title)
    document = {name: {metric: [best[metric] for best in runs] for metric in shown} for name, runs in table.items()}
    (Path(loop.output_dir) / "table.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
