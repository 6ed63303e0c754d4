# SPDX-License-Identifier: Apache-2.0
"""
Do learned regions help? Trains the same decoder on the same captions with each selector, with several seeds, and
prints one table of CIDEr beside the decoder's time and memory:

    python examples/benchmarks/compare_selectors.py --data FOLDER --output_dir RUNS --backbone_weights WEIGHTS \
        --detector DETECTOR --seeds 0 1 2 -- OPTIONS

WEIGHTS are those of the backbone where nothing was learned, DETECTOR is a checkpoint whose selector has learned its
regions. OPTIONS are those of `examples/train_captioning.py` and hold for every run, e.g. `--epochs 2`. Bottom-up is
frozen and each row's regions are computed once. A run that is complete is not done again; one that was interrupted
goes on. `--measure` prints the table of the runs that there are, and trains none.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from butd_hf import ButdForConditionalGeneration
from butd_hf.commands.console import print_table


TRAINING = Path(__file__).parents[1] / "train_captioning.py"
LEARNED_NUMBERS = (36, 9, 18, 72)
BATCH_SIZE, NUM_BEAMS, NUM_TOKENS = 8, 5, 12


def variants(detector: str | None, weights: str) -> dict[str, list[str]]:
    """The rows of the table, each with the options that make it."""
    rows = {
        "grid": ["--backbone_weights", weights, "--selector", "grid"],
        "saliency, 36": ["--backbone_weights", weights, "--selector", "saliency", "--num_regions", "36"],
    }
    if detector is not None:
        rows["grid of the detector"] = ["--selector", "grid", "--bottom_up_from", detector]
        for number in LEARNED_NUMBERS:
            rows[f"rpn, {number}"] = ["--bottom_up_from", detector, "--num_regions", str(number)]
    return rows


def run_folder(output_dir: Path, row: str, seed: int) -> Path:
    """Where the run of a row and a seed is."""
    return output_dir / f"{row.replace(',', '').replace(' ', '-')}-{seed}"


def evaluations(run: Path) -> list[dict]:
    """The evaluations of a run that is complete; none of another."""
    file = run / "metrics.jsonl"
    if not (run / "best" / "config.json").is_file() or not file.is_file():
        return []
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["event"] == "evaluation"]


def train(output_dir: Path, row: str, options: list[str], seed: int) -> None:
    """One run, in a process of its own."""
    run = run_folder(output_dir, row, seed)
    if evaluations(run):
        return
    command = [sys.executable, str(TRAINING), *options, "--freeze", "all", "--cache"]
    command += [
        str(run.with_name(f"regions-{run.name.rpartition('-')[0]}")),
        "--seed",
        str(seed),
        "--output_dir",
        str(run),
    ]
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "log.txt", "a", encoding="utf-8") as log:
        subprocess.run([*command, "--resume"], stdout=log, stderr=subprocess.STDOUT, check=True)


@torch.inference_mode()
def measure(checkpoint: Path) -> dict[str, float]:
    """
    What the decoder costs for one image of a batch, its regions being there: milliseconds by beam search, and
    megabytes that the process grew by at its peak.
    """
    model = ButdForConditionalGeneration.from_pretrained(checkpoint).eval()
    _, number, region_size = model.base_model.bottom_up(torch.zeros(1, 3, 256, 256)).features.shape
    inputs = {
        "region_features": torch.randn(BATCH_SIZE, number, region_size),
        "region_boxes": torch.rand(BATCH_SIZE, number, 2, 2).sort(dim=2).values.flatten(2),
        "region_mask": torch.ones(BATCH_SIZE, number, dtype=torch.bool),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(7):
        begun = time.perf_counter()
        model.generate(**inputs, num_beams=NUM_BEAMS, min_new_tokens=NUM_TOKENS, max_new_tokens=NUM_TOKENS)
        seconds.append(time.perf_counter() - begun)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    milliseconds = 1000 * statistics.median(seconds[1:]) / BATCH_SIZE
    return {"regions": number, "milliseconds": milliseconds, "megabytes": grown / 1024}


def summary(values: list[float]) -> str:
    """Mean, spread over the seeds, and each seed's value."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread} ({', '.join(f'{value:.1f}' for value in values)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="As for train_captioning.py.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder of all runs.")
    parser.add_argument("--backbone_weights", default="timm", help="Of the rows where nothing was learned.")
    parser.add_argument("--detector", help="Checkpoint whose selector has learned.")
    parser.add_argument("--rows", nargs="+", help="Only these rows; all by default.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="One run each.")
    parser.add_argument("--processes", type=int, default=1, help="Runs at a time, after the first of each row.")
    parser.add_argument("--measure", action="store_true", help="Print the table, train nothing.")
    parser.add_argument("--measure_one", type=Path, help=argparse.SUPPRESS)
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, options = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    if arguments.measure_one is not None:
        print(json.dumps(measure(arguments.measure_one)))
        return
    rows = variants(arguments.detector, arguments.backbone_weights)
    unknown = set(arguments.rows or ()) - set(rows)
    if unknown:
        parser.error(f"--rows: unknown {sorted(unknown)}, expected some of {list(rows)}.")
    rows = {row: own for row, own in rows.items() if arguments.rows is None or row in arguments.rows}
    if not arguments.measure:
        jobs = [
            (arguments.output_dir, row, ["--data", arguments.data, *own, *options], seed)
            for seed in arguments.seeds
            for row, own in rows.items()
        ]
        # the first seed of a row computes its regions, which the others read
        with ThreadPoolExecutor(arguments.processes) as pool:
            for first in (True, False):
                chosen = [job for job in jobs if (job[-1] == arguments.seeds[0]) == first]
                list(pool.map(lambda job: train(*job), chosen))
    table = []
    for row in rows:
        runs = [run_folder(arguments.output_dir, row, seed) for seed in arguments.seeds]
        scores = [max(event["cider"] for event in found) for found in map(evaluations, runs) if found]
        if not scores:
            continue
        # a process of its own: memory that another model used would hide this one's
        command = [sys.executable, __file__, "--data", "none", "--output_dir", "none", "--measure_one"]
        done = subprocess.run([*command, str(runs[0] / "best")], capture_output=True, text=True, check=True)
        costs = json.loads(done.stdout.splitlines()[-1])
        numbers = [f"{costs['milliseconds']:.1f}", f"{costs['megabytes']:.0f}"]
        table.append([row, str(costs["regions"]), summary(scores), *numbers])
    print_table(["selector", "regions", "CIDEr", "decoder ms", "decoder MB"], table)


if __name__ == "__main__":
    main()
