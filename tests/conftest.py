# SPDX-License-Identifier: Apache-2.0
"""What every test shares: no network, one thread, fixed seeds, and a tiny checkpoint."""

import json
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
    """Folder of a captioning model with random weights, saved with its processor and code. Not to be written to.

    The processor keeps the aspect ratio, so that images of a batch differ in size.
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
            "initializer_range": 0.5,  # far enough from zero for captions that differ from image to image
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
def tiny_oracle(tmp_path_factory, tiny_tokenizer) -> str:
    """Folder of a model with random weights that answers questions, with its processor. Not to be written to."""
    import butd_hf

    torch.manual_seed(0)
    answers = dict(enumerate(["dog", "cat", "red", "green", "two", "beach"]))
    config = butd_hf.ButdConfig(
        bottom_up_config={"backbone": "test_efficientnet", "selector": "saliency", "num_regions": 6, "min_regions": 2},
        top_down_config={
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 24,
            "initializer_range": 0.5,  # far enough from zero for answers that differ from question to question
        },
        id2label=answers,
        label2id={answer: index for index, answer in answers.items()},
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "oracle"
    butd_hf.ButdForQuestionAnswering(config).save_pretrained(folder)
    image_processor = butd_hf.ButdImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    butd_hf.ButdProcessor(image_processor, tiny_tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def image_paths(tmp_path_factory) -> list[str]:
    """Three images of different sizes and content, as PNG files. Not to be written to."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(64, 96), (120, 60), (70, 70)]):
        coarse = PIL.Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        paths.append(str(Path(folder) / f"image_{index}.png"))
        coarse.resize((width, height), PIL.Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def detection_data(tmp_path_factory) -> Path:
    """Folder of six images in COCO's format, four of them to train on. Not to be written to.

    Squares and discs, with a mask as run lengths, as polygon or without one; one image shows nothing.
    """
    from butd_hf.inference.objects import run_lengths

    folder = tmp_path_factory.mktemp("detection")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(6):
        height, width = (48, 64) if index % 2 else (64, 56)
        pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
        images.append({"id": 100 + index, "file_name": f"{index}.png", "width": width, "height": height})
        images[-1]["split"] = "train" if index < 4 else "val"
        for shape in range(0 if index == 3 else 2):
            x, y, side = 4 + 26 * shape, 6 + 3 * index, 18 + index
            mask = np.zeros((height, width), dtype=bool)
            mask[y : y + side, x : x + side] = True
            if shape:
                rows, columns = np.ogrid[:height, :width]
                mask &= (rows - y - side / 2) ** 2 + (columns - x - side / 2) ** 2 <= (side / 2) ** 2
            pixels[mask, shape] += 180
            segmentation = {"size": [height, width], "counts": run_lengths(mask)}
            if index == 1:
                segmentation = None
            elif not shape:
                segmentation = [[x, y, x + side, y, x + side, y + side, x, y + side]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + index,
                    "category_id": (3, 8)[shape],
                    "bbox": [x, y, side, side],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    categories = [{"id": 8, "name": "disc"}, {"id": 3, "name": "square"}]
    document = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session", params=["detection", "segmentation"])
def tiny_detector(request, tmp_path_factory) -> str:
    """Folder of a detection, then of a segmentation model with random weights. Not to be written to."""
    import butd_hf

    torch.manual_seed(0)
    config = butd_hf.ButdConfig(
        bottom_up_config={
            "backbone": "test_efficientnet",
            "num_regions": 8,
            "min_regions": 4,
            "fpn_size": 16,
            "region_head_size": 16,
            "num_region_labels": 2,
            "num_region_attributes": 3,
        },
        top_down_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        id2label={0: "square", 1: "disc"},
        label2id={"square": 0, "disc": 1},
    )
    names = {"detection": "ButdForObjectDetection", "segmentation": "ButdForInstanceSegmentation"}
    folder = tmp_path_factory.mktemp("checkpoint") / request.param
    getattr(butd_hf, names[request.param])(config).save_pretrained(folder)
    butd_hf.ButdImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_grapher(tmp_path_factory) -> str:
    """Folder of a scene graph model with random weights. Not to be written to."""
    import butd_hf

    torch.manual_seed(0)
    config = butd_hf.ButdConfig(
        bottom_up_config={
            "backbone": "test_efficientnet",
            "num_regions": 6,
            "min_regions": 4,
            "fpn_size": 16,
            "region_head_size": 16,
        },
        top_down_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "initializer_range": 0.3,  # far enough from zero for graphs that differ from image to image
        },
        id2label={0: "square", 1: "disc", 2: "dog"},
        label2id={"square": 0, "disc": 1, "dog": 2},
        id2predicate={0: "on", 1: "beside"},
    )
    folder = tmp_path_factory.mktemp("checkpoint") / "scene-graph"
    butd_hf.ButdForSceneGraphGeneration(config).save_pretrained(folder)
    butd_hf.ButdImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return str(folder)
