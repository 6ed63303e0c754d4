# SPDX-License-Identifier: Apache-2.0
"""
Measure what training costs: rewards of self-critical training, and the memory that gradient checkpointing saves:

    python examples/benchmark_training.py --data FOLDER
    python examples/benchmark_training.py --memory

Rewards: captions a second on one core by `butd_hf.metrics.CiderD`, beside `pycocoevalcap`'s scorer, which counts
document frequencies anew for every batch. Both score the same batches, one after the other, now this one first and now
that one. Without `--data`, captions are made up. Memory: the largest that a process gets above what it had with the
model loaded, in one training step of a captioner, each in a process of its own.
"""

import json
import multiprocessing
import random
import resource
import statistics
import time
from dataclasses import dataclass, field

import torch
from pycocoevalcap.cider.cider_scorer import CiderScorer
from transformers import HfArgumentParser

from butd_hf import ButdConfig, ButdForConditionalGeneration
from butd_hf.data.captions import load_captions
from butd_hf.metrics import CiderD, tokenize_captions


@dataclass
class BenchmarkArguments:
    """What is measured, and how often."""

    data: str | None = field(default=None, metadata={"help": "Captions, as of examples/train_captioning.py."})
    images: int = field(default=64, metadata={"help": "Of a batch."})
    samples: int = field(default=5, metadata={"help": "Captions of each image."})
    rounds: int = field(default=15, metadata={"help": "How often each is timed; medians are told."})
    memory: bool = field(default=False, metadata={"help": "Measure memory instead."})
    layers: int = field(default=8, metadata={"help": "Of --memory: decoder layers."})
    batch_size: int = field(default=32, metadata={"help": "Of --memory: images of the step."})
    length: int = field(default=32, metadata={"help": "Of --memory: tokens of each caption."})


def references_of(arguments: BenchmarkArguments) -> list[list[str]]:
    """Captions of images, tokenised."""
    if arguments.data is not None:
        return [tokenize_captions(captions) for captions in load_captions(arguments.data, split="train")["captions"]]
    draw = random.Random(0)
    words = [f"word{index}" for index in range(3000)]
    weights = [1 / (index + 1) for index in range(3000)]  # as words of a language are spread
    return [[" ".join(draw.choices(words, weights, k=draw.randint(8, 14))) for _ in range(5)] for _ in range(6000)]


def time_rewards(arguments: BenchmarkArguments) -> dict[str, float]:
    """Captions a second, and how far the two scorers' rewards are apart in a set that both count alike."""
    references = references_of(arguments)
    scorer = CiderD(references)
    draw = random.Random(1)
    seconds: dict[str, list[float]] = {"butd_hf": [], "butd_hf, images seen before": [], "pycocoevalcap": []}
    for number in range(arguments.rounds):
        images = draw.sample(range(len(references)), min(arguments.images, len(references)))
        ids = [image for image in images for _ in range(arguments.samples)]
        # a neighbour's caption, as wrong and as right as samples are
        said = [draw.choice(references[image if draw.random() < 0.5 else draw.choice(images)]) for image in ids]

        def theirs(said: list[str] = said, ids: list[int] = ids) -> None:
            other = CiderScorer(n=4, sigma=6.0)
            for caption, image in zip(said, ids, strict=True):
                other += (caption, references[image])
            other.compute_score()

        def ours(said: list[str] = said, ids: list[int] = ids) -> None:
            scorer.score(said, ids)

        turns = [("butd_hf", ours), ("pycocoevalcap", theirs)]
        for name, score in turns if number % 2 else reversed(turns):
            started = time.process_time()
            score()
            seconds[name].append(time.process_time() - started)
        started = time.process_time()
        ours()
        seconds["butd_hf, images seen before"].append(time.process_time() - started)
    captions = len(ids)
    return {name: captions / statistics.median(taken) for name, taken in seconds.items()}


def step_memory(arguments: BenchmarkArguments, checkpointing: bool, answer: multiprocessing.SimpleQueue) -> None:
    """Megabytes of a training step above the model."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = ButdConfig(
        bottom_up_config={"selector": "given", "region_size": 2048, "num_regions": 36},
        top_down_config={"vocab_size": 1000, "num_hidden_layers": arguments.layers},
    )
    model = ButdForConditionalGeneration(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.randint(4, 1000, (arguments.batch_size, arguments.length))
    regions = {
        "region_features": torch.rand(arguments.batch_size, 36, 2048),
        "region_boxes": torch.tensor([0.1, 0.1, 0.9, 0.9]).repeat(arguments.batch_size, 36, 1),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model(**regions, input_ids=tokens, labels=tokens).loss.backward()
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def measure_memory(arguments: BenchmarkArguments) -> dict[str, float]:
    """Megabytes without and with gradient checkpointing."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for name, checkpointing in (("plain", False), ("gradient checkpointing", True)):
        answer = context.SimpleQueue()
        process = context.Process(target=step_memory, args=(arguments, checkpointing, answer))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"The step with {name} ended with exit code {process.exitcode}.")
        found[name] = answer.get()
    return found


def main() -> None:
    (arguments,) = HfArgumentParser([BenchmarkArguments], description=__doc__).parse_args_into_dataclasses()
    if arguments.memory:
        print(json.dumps({"megabytes": measure_memory(arguments)}, indent=2))
    else:
        print(json.dumps({"captions_per_second": time_rewards(arguments)}, indent=2))


if __name__ == "__main__":
    main()
