# SPDX-License-Identifier: Apache-2.0
"""Time the way from an image to its caption, and its parts, against the model's own backbone:

    python examples/benchmarks/speed.py
    python examples/benchmarks/speed.py --model RUN/best --image photo.jpg --rounds 50 --threads 2 --json

or the way to learned regions, beside the backbone alone and whole detectors of other packages:

    python examples/benchmarks/speed.py --regions --rounds 50 --threads 2

All rows take turns in one process, in an order that changes every round, so that whatever else the machine does slows
all of them alike. Images are decoded before; batch 1, greedy search. The ratio is the median of each round's own.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision.models.detection as torchvision_detection
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser, RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
from transformers.utils import logging

from butd_hf import ButdConfig, ButdForConditionalGeneration, ButdModel, ButdProcessor, default_checkpoint


PHOTO = Path(__file__).parents[1] / "images" / "astronaut.jpg"
WARMUP_ROUNDS = 3
NUM_REGIONS = 36

Rows = dict[str, Callable[[], Any]]


@dataclass
class SpeedArguments:
    """What is timed, and how often."""

    model: str | None = field(default=None, metadata={"help": "Checkpoint; the one inside the package by default."})
    image: str = field(default=str(PHOTO), metadata={"help": "The image."})
    rounds: int = field(default=30, metadata={"help": "How often each row is timed; medians are printed."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; PyTorch's own choice by default."})
    new_tokens: int | None = field(
        default=None, metadata={"help": "Captions of exactly this many tokens; as the model ends them by default."}
    )
    regions: bool = field(default=False, metadata={"help": "Time regions of selector 'rpn' instead of captions."})
    backbone: str = field(default="tf_efficientnet_lite0", metadata={"help": "Of --regions: any timm name."})
    image_size: int = field(default=384, metadata={"help": "Of --regions: height and width, of all that is timed."})
    json: bool = field(default=False, metadata={"help": "Print JSON and nothing else."})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")


def interleave(rows: Rows, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every row in every round; the order turns by one place and is reversed every other round."""
    names = list(rows)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for count in range(-WARMUP_ROUNDS, rounds):
        turn = count % len(names)
        order = names[turn:] + names[:turn]
        for name in order if count % 2 == 0 else reversed(order):
            started = time.perf_counter()
            rows[name]()
            milliseconds[name].append(1000 * (time.perf_counter() - started))
    return {name: times[WARMUP_ROUNDS:] for name, times in milliseconds.items()}


def caption_rows(arguments: SpeedArguments) -> tuple[Rows, dict[str, Any]]:
    """The backbone, the parts of captioning and the whole, from pixels to text."""
    name = arguments.model or str(default_checkpoint("image-to-text"))
    model = ButdForConditionalGeneration.from_pretrained(name).eval()
    bottom_up = model.model.bottom_up
    bottom_up.backbone.to(memory_format=torch.channels_last)  # faster on CPUs, for all rows
    processor = ButdProcessor.from_pretrained(name)
    with Image.open(arguments.image) as opened:
        image = opened.convert("RGB")
    generation: dict[str, Any] = {"num_beams": 1, "do_sample": False}
    if arguments.new_tokens:
        generation |= {"min_new_tokens": arguments.new_tokens, "max_new_tokens": arguments.new_tokens}

    def caption() -> torch.Tensor:
        inputs = processor(images=image, return_tensors="pt")
        tokens = model.generate(**inputs, **generation)
        processor.batch_decode(tokens, skip_special_tokens=True)
        return tokens

    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    regions = bottom_up(pixels).regions
    ready = {"region_features": regions.features, "region_boxes": regions.boxes, "region_mask": regions.mask}
    rows: Rows = {
        "backbone": lambda: bottom_up.backbone(pixels),
        "image to caption": caption,
        "preprocessing": lambda: processor(images=image, return_tensors="pt"),
        "regions": lambda: bottom_up(pixels).regions,
        "decoding": lambda: model.generate(**ready, **generation),
    }
    tokens = caption()
    text = processor.batch_decode(tokens, skip_special_tokens=True)[0]
    new_tokens = tokens.shape[1] - 1  # the first is the token that begins every caption
    size = {"backbone": model.config.bottom_up_config.backbone, "image_size": list(pixels.shape[-2:])}
    return rows, {"model": name, "caption": text, "new_tokens": new_tokens, **size}


def region_rows(arguments: SpeedArguments) -> tuple[Rows, dict[str, Any]]:
    """The backbone, regions and other detectors; weights are random, as they take the same time."""
    torch.manual_seed(0)
    size = arguments.image_size
    selection = {"selector": "rpn", "num_regions": NUM_REGIONS, "min_regions": NUM_REGIONS}
    config = ButdConfig(bottom_up_config={"backbone": arguments.backbone, **selection})
    bottom_up = ButdModel(config).bottom_up.eval().to(memory_format=torch.channels_last)
    pixels = torch.randn(1, 3, size, size)
    last = pixels.contiguous(memory_format=torch.channels_last)
    rows: Rows = {"backbone": lambda: bottom_up.backbone(last), "image to regions": lambda: bottom_up(last).regions}
    untrained: dict[str, Any] = {"weights": None, "weights_backbone": None, "min_size": size, "max_size": size}
    for name in ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_fpn"):
        detector = getattr(torchvision_detection, name)(**untrained).eval()
        rows[name] = lambda detector=detector: detector([pixels[0]])
    # what RT-DETR-R18 (Zhao et al. 2024) changes of RT-DETR-R50, whose values are the defaults
    resnet = RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    small = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3}
    rt_detr = RTDetrForObjectDetection(RTDetrConfig(backbone_config=resnet, **small)).eval()
    rows["rt_detr_r18"] = lambda: rt_detr(pixels)
    num_regions = int(bottom_up(last).regions.mask.sum())
    return rows, {"num_regions": num_regions, "backbone": arguments.backbone, "image_size": [size, size]}


@torch.inference_mode()
def run(arguments: SpeedArguments) -> dict[str, Any]:
    """Times all rows. Returns medians in milliseconds, ratios to the backbone, and what was timed."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows, setting = (region_rows if arguments.regions else caption_rows)(arguments)
    milliseconds = interleave(rows, arguments.rounds)
    ratios = {
        name: statistics.median(whole / part for whole, part in zip(times, milliseconds["backbone"], strict=True))
        for name, times in milliseconds.items()
    }
    return {
        "milliseconds": {name: statistics.median(times) for name, times in milliseconds.items()},
        "ratios": ratios,
        **setting,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main(options: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(SpeedArguments).parse_args_into_dataclasses(options)
    logging.disable_progress_bar()
    results = run(arguments)
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    table = Table("", "ms (median)", "times backbone", title=results.get("caption"))
    for name, milliseconds in results["milliseconds"].items():
        table.add_row(name, f"{milliseconds:.1f}", f"{results['ratios'][name]:.2f}")
    console = Console()
    console.print(table)
    setting = {name: value for name, value in results.items() if name not in ("milliseconds", "ratios", "caption")}
    console.print(", ".join(f"{name} {value}" for name, value in setting.items()), highlight=False)


if __name__ == "__main__":
    main()
