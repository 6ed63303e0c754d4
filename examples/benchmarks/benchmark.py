# SPDX-License-Identifier: Apache-2.0
"""
Time the way from a image to its caption against the model's own backbone:

    python examples/benchmarks/benchmark.py

    python examples/benchmarks/benchmark.py --model RUN/best --image photo.jpg --rounds 50 --threads 2 --json

or the way to regions that are learned, beside the backbone's own feature maps and whole detectors of others:

    python examples/benchmarks/benchmark.py --regions --rounds 50 --threads 2

Everything that is compared takes turns in one process, in an order that changes every round, so that whatever else the
machine does slows all of it alike. A image is already decoded; batch 1, greedy search. `caption` is the whole way,
preprocessing and text included, as users walk it; its stages are timed on walks of their own.
"""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision.models.detection as torchvision_detection
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import HfArgumentParser, RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
from transformers.utils import logging

import butd_hf
from butd_hf.modeling.bottom_up.backbone import feature_maps
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration
from butd_hf.modeling.outputs import ButdEncoderOutput
from butd_hf.modeling.processing_butd import ButdProcessor


PHOTO = Path(__file__).parents[1] / "images" / "astronaut.jpg"
WARMUP_ROUNDS = 3


@dataclass
class BenchmarkArguments:
    """What is timed, and how often."""

    model: str | None = field(default=None, metadata={"help": "Checkpoint; the one inside the package by default."})
    image: str = field(default=str(PHOTO), metadata={"help": "The image."})
    rounds: int = field(default=30, metadata={"help": "How often each row is timed; medians are told."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads; PyTorch's own choice by default."})
    new_tokens: int | None = field(
        default=None, metadata={"help": "Captions of exactly this many tokens; as the model likes by default."}
    )
    regions: bool = field(default=False, metadata={"help": "Time regions of selector 'rpn' instead of captions."})
    backbone: str = field(default="tf_efficientnet_lite0", metadata={"help": "Of --regions: any timm name."})
    image_size: int = field(default=384, metadata={"help": "Of --regions: height and width, of all that is timed."})
    json: bool = field(default=False, metadata={"help": "Print JSON and nothing else."})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}.")


class Stopwatch:
    """Milliseconds by name, over many rounds."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, list[float]] = {}

    @contextmanager
    def time(self, name: str):
        started = time.perf_counter()
        yield
        self.milliseconds.setdefault(name, []).append(1000 * (time.perf_counter() - started))

    def median(self, name: str) -> float:
        return statistics.median(self.milliseconds[name])


def interleave(rows: dict[str, Callable[[], Any]], rounds: int) -> Stopwatch:
    """Runs every row once a round, in an order that turns by one place and round about."""
    watch = Stopwatch()
    names = list(rows)
    for count in range(-WARMUP_ROUNDS, rounds):
        turn = count % len(names)
        order = names[turn:] + names[:turn]
        for name in order if count % 2 == 0 else reversed(order):
            if count < 0:
                rows[name]()
                continue
            with watch.time(name):
                rows[name]()
    return watch


class PictureToCaption:
    """The way from a image to its caption, whole and in stages."""

    def __init__(
        self, model: ButdForConditionalGeneration, processor: ButdProcessor, image: Image.Image, **generation
    ):
        self.model = model
        self.processor = processor
        self.image = image
        self.generation = {"num_beams": 1, "do_sample": False, **generation}
        self.inputs = processor(images=image, return_tensors="pt")
        self.stages = Stopwatch()

    def backbone(self) -> None:
        """What the whole way is measured by: the backbone's forward pass on the prepared image."""
        self.model.model.bottom_up.backbone(self.inputs["pixel_values"])

    def caption(self) -> str:
        """The whole way."""
        inputs = self.processor(images=self.image, return_tensors="pt")
        sequences = self.model.generate(**inputs, **self.generation)
        return self.processor.batch_decode(sequences, skip_special_tokens=True)[0]

    def staged(self) -> torch.Tensor:
        """The whole way again, stage by stage. Returns the tokens."""
        bottom_up, top_down, stages = self.model.model.bottom_up, self.model.model.top_down, self.stages
        with stages.time("preprocessing"):
            inputs = self.processor(images=self.image, return_tensors="pt")
        with stages.time("backbone"):
            maps = feature_maps(bottom_up.backbone, inputs["pixel_values"])
        with stages.time("selection"):
            regions = bottom_up.selector(maps)
        with stages.time("memory"):
            memory = top_down.encode(regions)
        encoded = ButdEncoderOutput(last_hidden_state=memory.hidden_states, regions=regions, memory=memory)
        with stages.time("decoding"):
            sequences = self.model.generate(encoder_outputs=encoded, **self.generation)
        with stages.time("text"):
            self.processor.batch_decode(sequences, skip_special_tokens=True)
        return sequences


@torch.inference_mode()
def run(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Times everything and returns milliseconds, ratios to the backbone and what was timed."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    name = arguments.model or str(butd_hf.default_checkpoint("image-to-text"))
    model = ButdForConditionalGeneration.from_pretrained(name).eval()
    model.model.bottom_up.backbone.to(memory_format=torch.channels_last)  # faster on CPUs, for both sides
    with Image.open(arguments.image) as opened:
        image = opened.convert("RGB")
    length = {"min_new_tokens": arguments.new_tokens, "max_new_tokens": arguments.new_tokens}
    path = PictureToCaption(
        model, ButdProcessor.from_pretrained(name), image, **(length if arguments.new_tokens else {})
    )

    watch = interleave({"backbone": path.backbone, "caption": path.caption, "stages": path.staged}, arguments.rounds)
    for stage, times in path.stages.milliseconds.items():
        path.stages.milliseconds[stage] = times[WARMUP_ROUNDS:]
    backbone = watch.median("backbone")
    tokens = path.staged().shape[1] - 1  # the first is the token that begins every caption
    caption = watch.median("caption")
    stages = {stage: path.stages.median(stage) for stage in path.stages.milliseconds}
    return {
        "caption": path.caption(),
        "new_tokens": tokens,
        "backbone_ms": backbone,
        "caption_ms": caption,
        # each round's own ratio: what slows down a round slows down both
        "ratio": statistics.median(
            whole / part
            for whole, part in zip(watch.milliseconds["caption"], watch.milliseconds["backbone"], strict=True)
        ),
        "stages_ms": stages,
        "milliseconds_per_token": stages["decoding"] / tokens,
        "model": name,
        "backbone": model.config.bottom_up_config.backbone,
        "image_size": list(path.inputs["pixel_values"].shape[-2:]),
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def show(results: dict[str, Any]) -> None:
    """Prints the results as a table."""
    backbone = results["backbone_ms"]
    table = Table("", "ms (median)", "times backbone", title_justify="left")
    table.title = f"“{results['caption']}”" if results["caption"] else None
    table.add_row("backbone alone", f"{backbone:.1f}", "1.00")
    table.add_row("image → caption", f"{results['caption_ms']:.1f}", f"{results['ratio']:.2f}")
    table.add_section()
    for stage, milliseconds in results["stages_ms"].items():
        row = f"{stage} ({results['new_tokens']} tokens)" if stage == "decoding" else stage
        table.add_row(row, f"{milliseconds:.1f}", f"{milliseconds / backbone:.2f}")
    console = Console()
    console.print(table)
    show_setting(results, console)


def show_setting(results: dict[str, Any], console: Console) -> None:
    """Prints what was timed, and how."""
    height, width = results["image_size"]
    console.print(
        f"{results['backbone']}, {width} x {height} pixels, {results['rounds']} rounds, {results['threads']} threads, "
        f"torch {results['torch']}",
        highlight=False,
    )


def other_detectors(image_size: int) -> dict[str, nn.Module]:
    """Detectors of torchvision and transformers with random weights, which take images of that size as they are."""
    size = {"min_size": image_size, "max_size": image_size}
    untrained = {"weights": None, "weights_backbone": None, **size}
    # what RT-DETR-R18 (Zhao et al. 2024) changes of RT-DETR-R50, whose values are the defaults
    resnet = RTDetrResNetConfig(
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    rt_detr = RTDetrConfig(
        backbone_config=resnet, encoder_in_channels=[128, 256, 512], hidden_expansion=0.5, decoder_layers=3
    )
    return {
        name: getattr(torchvision_detection, name)(**untrained)
        for name in ("fasterrcnn_mobilenet_v3_large_320_fpn", "fasterrcnn_mobilenet_v3_large_fpn")
    } | {"rt_detr_r18": RTDetrForObjectDetection(rt_detr)}


@torch.inference_mode()
def run_regions(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Times the way to 36 pooled regions and what it is measured by; weights are random, as they cost the same."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = ButdBottomUpConfig(backbone=arguments.backbone, selector="rpn", num_regions=36, min_regions=36)
    bottom_up = ButdBottomUp(config).eval().to(memory_format=torch.channels_last)
    pixels = torch.randn(1, 3, arguments.image_size, arguments.image_size)
    last = pixels.contiguous(memory_format=torch.channels_last)
    rows: dict[str, Callable[[], Any]] = {
        "feature maps": lambda: feature_maps(bottom_up.backbone, last),
        "regions": lambda: bottom_up(last),
    }
    for name, detector in other_detectors(arguments.image_size).items():
        detector.eval()
        if isinstance(detector, RTDetrForObjectDetection):
            rows[name] = lambda detector=detector: detector(pixels)
        else:
            rows[name] = lambda detector=detector: detector([pixels[0]])
    watch = interleave(rows, arguments.rounds)
    own = watch.milliseconds["feature maps"]
    return {
        "milliseconds": {name: watch.median(name) for name in rows},
        "ratios": {
            name: statistics.median(whole / part for whole, part in zip(times, own, strict=True))
            for name, times in watch.milliseconds.items()
        },
        "num_regions": int(bottom_up(last).regions.mask.sum()),
        "backbone": arguments.backbone,
        "image_size": [arguments.image_size] * 2,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def show_regions(results: dict[str, Any]) -> None:
    """Prints the results of `run_regions` as a table."""
    table = Table("", "ms (median)", "times feature maps")
    for name, milliseconds in results["milliseconds"].items():
        label = f"image → {results['num_regions']} regions" if name == "regions" else name
        table.add_row(label, f"{milliseconds:.1f}", f"{results['ratios'][name]:.2f}")
    console = Console()
    console.print(table)
    show_setting(results, console)


def main(options: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses(options)
    logging.disable_progress_bar()
    results = run_regions(arguments) if arguments.regions else run(arguments)
    if arguments.json:
        print(json.dumps(results, indent=2))
    elif arguments.regions:
        show_regions(results)
    else:
        show(results)


if __name__ == "__main__":
    main()
