# SPDX-License-Identifier: Apache-2.0
"""
Estimate how long training takes, from floating point operations that are counted and rates that are assumed:

    python examples/estimate_training.py
    python examples/estimate_training.py --peak_tflops 989 --utilisation 0.4 --gpus 1 8 64

One training step of each task is run on the CPU with PyTorch's counter of operations, forwards and backwards. The time
is images times epochs times operations, by GPUs times peak times utilisation times efficiency. Loaders have to deliver
as many images a second: how long one core takes to decode and prepare a picture is measured, and says how many cores
that takes.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import HfArgumentParser

from butd_hf import (
    ButdConfig,
    ButdForConditionalGeneration,
    ButdForObjectDetection,
    ButdForQuestionAnswering,
    ButdImageProcessor,
)
from butd_hf.data.transforms import load_image


PHOTOS = sorted((Path(__file__).parent / "images").glob("*.jpg"))
NUM_REGIONS = 36
REGION_SIZE = 2048  # of stored bottom-up features
CAPTIONS, CAPTION_LENGTH, QUESTIONS, QUESTION_LENGTH = 5, 16, 5, 12  # per image, and in tokens
VOCAB_SIZE, NUM_ANSWERS, NUM_CLASSES = 10_000, 3_129, 1_600


@dataclass
class EstimateArguments:
    """What is assumed."""

    backbone: str = field(default="resnet50", metadata={"help": "Any timm name."})
    image_size: int = field(default=448, metadata={"help": "Height and width."})
    gpus: list[int] = field(default_factory=lambda: [1, 8, 64], metadata={"help": "How many."})
    peak_tflops: float = field(default=312.0, metadata={"help": "Of one GPU; 312: A100, bf16, dense."})
    utilisation: float = field(default=0.2, metadata={"help": "Share of the peak that one GPU reaches, in (0, 1]."})
    efficiency: float = field(
        default=0.97, metadata={"help": "What is left of the speed by each doubling of the GPUs, in (0, 1]."}
    )
    json: bool = field(default=False, metadata={"help": "Print JSON and nothing else."})

    def __post_init__(self) -> None:
        for name in ("utilisation", "efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}.")


@dataclass
class Plan:
    """A training: its data set's size in images, and how one step of one image is made."""

    name: str
    images: int
    epochs: int
    step: Callable[..., torch.Tensor]
    stored: bool = False  # regions are read, not pictures


def config(arguments: EstimateArguments, *, stored: bool = False, **own) -> ButdConfig:
    """The package's default decoder on the backbone's learned regions, or on stored ones."""
    bottom_up = {"selector": "given", "region_size": REGION_SIZE} if stored else {"backbone": arguments.backbone}
    return ButdConfig(
        bottom_up_config={**bottom_up, "num_regions": NUM_REGIONS}, top_down_config={"vocab_size": VOCAB_SIZE}, **own
    )


def picture(arguments: EstimateArguments, stored: bool) -> dict[str, torch.Tensor]:
    """What the model sees of one image."""
    if stored:
        return {
            "region_features": torch.rand(1, NUM_REGIONS, REGION_SIZE),
            "region_boxes": torch.tensor([0.1, 0.1, 0.9, 0.9]).expand(1, NUM_REGIONS, 4),
        }
    return {"pixel_values": torch.rand(1, 3, arguments.image_size, arguments.image_size)}


def caption(arguments: EstimateArguments, stored: bool = False) -> torch.Tensor:
    tokens = torch.randint(4, VOCAB_SIZE, (CAPTIONS, CAPTION_LENGTH))
    model: nn.Module = ButdForConditionalGeneration(config(arguments, stored=stored))
    return model(**picture(arguments, stored), input_ids=tokens, labels=tokens).loss


def answer(arguments: EstimateArguments, stored: bool = False) -> torch.Tensor:
    labels = {index: str(index) for index in range(NUM_ANSWERS)}
    model: nn.Module = ButdForQuestionAnswering(config(arguments, stored=stored, id2label=labels))
    tokens = torch.randint(4, VOCAB_SIZE, (QUESTIONS, QUESTION_LENGTH))
    return model(**picture(arguments, stored), input_ids=tokens, labels=torch.rand(QUESTIONS, NUM_ANSWERS)).loss


def detect(arguments: EstimateArguments, stored: bool = False) -> torch.Tensor:
    labels = {index: str(index) for index in range(NUM_CLASSES)}
    model: nn.Module = ButdForObjectDetection(config(arguments, id2label=labels))
    # Visual Genome has about 35 objects in an image
    objects = {"class_labels": torch.randint(NUM_CLASSES, (35,)), "boxes": torch.rand(35, 4) * 0.2 + 0.4}
    return model(**picture(arguments, stored), labels=[objects]).loss


PLANS = [  # images as the data sets publish them
    Plan("COCO captions, Karpathy split, end to end", 113_287, 30, caption),
    Plan("COCO captions, stored regions", 113_287, 30, caption, stored=True),
    Plan("VQA v2 train, end to end", 82_783, 15, answer),
    Plan("VQA v2 train, stored regions", 82_783, 15, answer, stored=True),
    Plan("Visual Genome, objects of 1,600 classes", 98_077, 20, detect),
]


def count(plan: Plan, arguments: EstimateArguments) -> float:
    """Floating point operations of a training step of one image; a multiplication with its addition counts as two."""
    with FlopCounterMode(display=False) as counter:
        plan.step(arguments, plan.stored).backward()
    return float(counter.get_total_flops())


def seconds_per_picture(arguments: EstimateArguments) -> float:
    """How long this core takes to decode and prepare a photograph."""
    processor = ButdImageProcessor(size={"height": arguments.image_size, "width": arguments.image_size})
    taken: dict[Path, list[float]] = {photo: [] for photo in PHOTOS}
    for photo in PHOTOS * 5:
        started = time.perf_counter()
        processor(images=load_image(str(photo)), return_tensors="pt")
        taken[photo].append(time.perf_counter() - started)
    return statistics.mean(min(each) for each in taken.values())  # the fastest: others use this machine too


def estimate(arguments: EstimateArguments) -> list[dict]:
    """A row per plan and number of GPUs."""
    torch.set_num_threads(1)
    rows, seconds = [], seconds_per_picture(arguments)
    for plan in PLANS:
        operations = count(plan, arguments)
        for gpus in arguments.gpus:
            share = arguments.efficiency ** (gpus.bit_length() - 1)
            speed = gpus * arguments.peak_tflops * 1e12 * arguments.utilisation * share / operations
            rows.append(
                {
                    "training": plan.name,
                    "images": plan.images,
                    "epochs": plan.epochs,
                    "gigaflops_per_image": operations / 1e9,
                    "gpus": gpus,
                    "images_per_second": speed,
                    "loader_cores": None if plan.stored else speed * seconds,
                    "minutes": plan.images * plan.epochs / speed / 60,
                }
            )
    return rows


def main() -> None:
    (arguments,) = HfArgumentParser([EstimateArguments], description=__doc__).parse_args_into_dataclasses()
    rows = estimate(arguments)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(title=f"{arguments.backbone}, {arguments.image_size} x {arguments.image_size} pixels")
    for name in ("training", "images x epochs", "GFLOP per image", "GPUs", "minutes", "images/s", "cores"):
        table.add_column(name, justify="left" if name == "training" else "right")
    for row in rows:
        table.add_row(
            row["training"],
            f"{row['images']:,} x {row['epochs']}",
            f"{row['gigaflops_per_image']:.1f}",
            str(row["gpus"]),
            f"{row['minutes']:.1f}",
            f"{row['images_per_second']:,.0f}",
            "" if row["loader_cores"] is None else f"{row['loader_cores']:,.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
