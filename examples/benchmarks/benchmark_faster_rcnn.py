# SPDX-License-Identifier: Apache-2.0
"""
Time the published bottom-up detector's ways to compute, and measure how far they are from the plain one:

    python examples/benchmark_faster_rcnn.py

    python examples/benchmark_faster_rcnn.py --model FOLDER --image photo.jpg --rounds 5 --threads 2 --json

`plain` computes layer by layer, `fast` folds batch norm and reorders memory, `approximate` looks at a quarter of each
region's cells. All three take turns in one process on the same weights, in an order that changes every round, so that
whatever else the machine does slows all of them alike; each runs once before. Deviations are the largest of any number
of any region, at the boxes that the plain way selects. Without a model, weights are random (ResNet-101, 1600 classes,
400 attributes): times hardly depend on them, deviations do.
"""

import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser
from transformers.utils import logging

import butd_hf
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig
from butd_hf.modeling.image_processing_butd import ButdImageProcessor


PHOTO = Path(__file__).parent / "images" / "astronaut.jpg"
WAYS = ("plain", "fast", "approximate")


@dataclass
class BenchmarkArguments:
    """What is timed, and how often."""

    model: str | None = field(default=None, metadata={"help": "Converted detector; random weights by default."})
    image: str = field(default=str(PHOTO), metadata={"help": "The picture."})
    height: int = field(default=600, metadata={"help": "The picture is stretched to this height."})
    width: int = field(default=800, metadata={"help": "And to this width."})
    rounds: int = field(default=3, metadata={"help": "How often each way is timed; medians are told."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; PyTorch's own choice by default."})
    backbone: str = field(default="resnet101", metadata={"help": "ResNet of the random weights."})
    warmup: bool = field(default=True, metadata={"help": "Run each way once before it is timed."})
    json: bool = field(default=False, metadata={"help": "Print JSON and nothing else."})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")


def random_detector(backbone: str) -> ButdBottomUp:
    """The published detector with random weights, whose batch norms keep what they get in size."""
    torch.manual_seed(0)
    settings = {"num_regions": 100, "min_regions": 10, "score_threshold": 0.2, "nms_threshold": 0.3}
    model = ButdBottomUp(ButdBottomUpConfig(selector="faster_rcnn_c4", backbone=backbone, **settings))
    state = model.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.8, 1.2)
        elif name.endswith("bn3.weight"):  # as trained ones: blocks add little to their input
            tensor.uniform_(0.1, 0.3)
    model.selector.head.classifier.weight.data.normal_(std=0.2)
    return model


@torch.inference_mode()
def run(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Times the ways and returns seconds, deviations and what was timed."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.model:
        model = butd_hf.ButdRegionModel.from_pretrained(arguments.model).bottom_up
    else:
        model = random_detector(arguments.backbone)
    model.eval()
    processor = ButdImageProcessor.from_recipe(
        model.config.variant,
        size={
            "shortest_edge": min(arguments.height, arguments.width),
            "longest_edge": max(arguments.height, arguments.width),
        },
    )
    with Image.open(arguments.image) as opened:
        image = opened.convert("RGB").resize((arguments.width, arguments.height))
    inputs = processor(images=image, return_tensors="pt")
    pixel_values = inputs["pixel_values"]

    def detect(way: str) -> Any:
        model.config.computation = way
        return model(pixel_values)

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    regions = {way: detect(way) for way in WAYS} if arguments.warmup else {}
    for count in range(arguments.rounds):
        for way in WAYS[count % 3 :] + WAYS[: count % 3]:
            started = time.perf_counter()
            regions[way] = detect(way)
            seconds[way].append(time.perf_counter() - started)

    plain = regions["plain"]
    rows, features = {}, {}
    for way in WAYS:
        model.config.computation = way
        features[way] = model(pixel_values, region_boxes=plain.boxes).features  # the same boxes, whatever was selected
        rows[way] = {
            "seconds": statistics.median(seconds[way]),
            "times_faster": statistics.median(
                slow / this for slow, this in zip(seconds["plain"], seconds[way], strict=True)
            ),
            "largest_difference": (features[way] - features["plain"]).abs().max().item(),
            "cosine": F.cosine_similarity(features[way], features["plain"], dim=-1).min().item(),
            "same_boxes": regions[way].boxes.shape == plain.boxes.shape
            and torch.allclose(regions[way].boxes, plain.boxes, atol=1e-4),
            "regions": int(regions[way].mask.sum()),
        }
    return {
        "rows": rows,
        "largest_feature": plain.features.abs().max().item(),
        "backbone": model.config.backbone,
        "variant": model.config.variant,
        "weights": arguments.model or "random",
        "image_size": list(pixel_values.shape[-2:]),
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def show(results: dict[str, Any]) -> None:
    """Prints the results as a table."""
    table = Table("", "seconds", "faster", "difference", "cosine", "boxes", "regions")
    for way, row in results["rows"].items():
        table.add_row(
            way,
            f"{row['seconds']:.2f}",
            f"{row['times_faster']:.2f}",
            f"{row['largest_difference']:.1e}",
            f"{row['cosine']:.6f}",
            "same" if row["same_boxes"] else "other",
            str(row["regions"]),
        )
    console = Console()
    console.print(table)
    height, width = results["image_size"]
    console.print(
        f"{results['backbone']}, {results['variant']}, {results['weights']} weights, {width} x {height} pixels, "
        f"features up to {results['largest_feature']:.2f}, {results['rounds']} rounds, {results['threads']} threads, "
        f"torch {results['torch']}",
        highlight=False,
    )


def main(options: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses(options)
    logging.disable_progress_bar()
    results = run(arguments)
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
