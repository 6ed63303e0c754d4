"""What every test shares: no network, one thread, fixed seeds, and a tiny checkpoint."""

import os
import random
from pathlib import Path


# before anything of Hugging Face is imported, because it reads them on import
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import PIL.Image
import pytest
import torch


CAPTIONS = [
    "a brown dog runs on the green grass",
    "two cats sit on a red mat near the window",
    "a man is riding a white horse on the beach",
]


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random numbers."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny models gain nothing from threads, and sums come out in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from butd_hf.data.tokenization import train_tokenizer

    return train_tokenizer(CAPTIONS, min_frequency=1, vocab_size=60, model_max_length=24)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_tokenizer) -> str:
    """
    Folder of a captioning model with random weights, saved with its processor and code. Not to be written to.

    The processor keeps the aspect ratio, so that pictures of a batch differ in size.
    """
    import butd_hf

    torch.manual_seed(0)
    config = butd_hf.ButdConfig(
        bottom_up_config={"backbone": "test_efficientnet", "num_regions": 6, "min_regions": 2},
        top_down_config={
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 24,
            "initializer_range": 0.5,  # far enough from zero for captions that differ from picture to picture
        },
    )
    image_processor = butd_hf.ButdImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    model = butd_hf.ButdForConditionalGeneration(config)
    model.generation_config.update(min_new_tokens=2, suppress_tokens=[0, 1, 3])  # no caption is empty
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model.save_pretrained(folder)
    butd_hf.ButdProcessor(image_processor, tiny_tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def picture_paths(tmp_path_factory) -> list[str]:
    """Three pictures of different sizes and content, as PNG files. Not to be written to."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(64, 96), (120, 60), (70, 70)]):
        coarse = PIL.Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        paths.append(str(Path(folder) / f"picture_{index}.png"))
        coarse.resize((width, height), PIL.Image.Resampling.BICUBIC).save(paths[-1])
    return paths
