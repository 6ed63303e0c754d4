# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.image_utils import load_images

from butd_hf.data import train_tokenizer
from butd_hf.modeling.image_processing_butd import ButdImageProcessor
from butd_hf.modeling.processing_butd import ButdProcessor


CAPTIONS = ["a man's red hat", "a dog runs on the grass", "two cats"]


@pytest.fixture(params=["word", "bpe"])
def processor(request: pytest.FixtureRequest) -> ButdProcessor:
    tokenizer = train_tokenizer(CAPTIONS, kind=request.param, min_frequency=1, model_max_length=16)
    return ButdProcessor(ButdImageProcessor(size={"height": 16, "width": 24}), tokenizer)


@pytest.fixture
def image() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def test_image_and_text(processor: ButdProcessor, image: PIL.Image.Image):
    features = processor(images=image, text="a man's", return_tensors="pt")
    assert list(features) == ["input_ids", "attention_mask", "pixel_values"]
    assert features.pixel_values.shape == (1, 3, 16, 24)
    assert features.input_ids[0, 0] == 1 and 2 not in features.input_ids and features.attention_mask.all()
    assert set(features) <= set(processor.model_input_names)


def test_image_alone_and_text_alone(processor: ButdProcessor, image: PIL.Image.Image):
    assert list(processor(images=image, return_tensors="pt")) == ["pixel_values"]
    assert list(processor(images=image, text=None, return_tensors="pt")) == ["pixel_values"]
    assert list(processor(text="a dog", return_tensors="pt")) == ["input_ids", "attention_mask"]
    assert processor(images=image, text="", return_tensors="pt").input_ids.tolist() == [[1]]
    with pytest.raises(ValueError, match="at least one input"):
        processor(text=None, images=None)
    for text in ([], [1], 3):
        with pytest.raises(ValueError, match="text"):
            processor(text=text)


def test_prompts_are_padded_on_the_left(processor: ButdProcessor, image: PIL.Image.Image):
    features = processor(images=[image, image], text=["a", "a dog runs"], return_tensors="pt")
    assert features.attention_mask[0].tolist() == sorted(features.attention_mask[0].tolist())
    assert features.input_ids[0, 0] == 0 and features.input_ids[0, -2] == 1
    processor.tokenizer.padding_side = "right"  # the way to ask for the other side
    assert processor(text=["a", "a dog runs"], return_tensors="pt").input_ids[0, 0] == 1


@pytest.mark.parametrize("return_tensors", [None, "pt"])
def test_one_serves_all(processor: ButdProcessor, image: PIL.Image.Image, return_tensors: str | None):
    other = image.rotate(180)
    one_image = processor(images=image, text=["a", "a dog", ""], return_tensors=return_tensors)
    one_text = processor(images=[image, other], text="a", return_tensors=return_tensors)
    for features, count in ((one_image, 3), (one_text, 2)):
        assert {name: len(value) for name, value in features.items()} == dict.fromkeys(features, count)
    assert np.array_equal(one_image["pixel_values"][0], one_image["pixel_values"][2])
    assert np.array_equal(one_text["input_ids"][0], one_text["input_ids"][1])
    with pytest.raises(ValueError, match="2 images and 3 texts"):
        processor(images=[image, other], text=["a", "b", "c"])


def test_call_forms_of_the_stock_pipeline(processor: ButdProcessor, image: PIL.Image.Image, tmp_path: Path):
    path = tmp_path / "image.png"
    image.save(path)
    expected = processor(images=[image, image], text=["a dog", "a"], return_tensors="pt")
    for images in ([[image], [image]], load_images([[str(path)]] * 2), [[path], [path]]):
        features = processor(images=images, text=("a dog", "a"), return_tensors="pt", padding=True)
        features = features.to(dtype=torch.float32)
        assert torch.equal(features.pixel_values, expected.pixel_values)
        assert torch.equal(features.input_ids, expected.input_ids) and features.input_ids.dtype == torch.int64
    nested = processor(images=[[image]], text=["a dog"], return_tensors="pt")
    assert nested.pixel_values.shape == (1, 3, 16, 24)


def test_failing_image_is_named(processor: ButdProcessor, image: PIL.Image.Image, tmp_path: Path):
    with pytest.raises(ValueError, match=r"images\[1\].*missing\.png"):
        processor(images=[image, tmp_path / "missing.png"], text="")
    with pytest.raises(ValueError, match=r"images\[1\].*shape \(5,\)"):
        processor(images=[image, np.zeros(5)], text="")


def test_decoding(processor: ButdProcessor):
    encoded = processor.encode_captions(CAPTIONS)
    generated = torch.cat([encoded.input_ids, torch.full((3, 1), 2), torch.zeros(3, 2, dtype=torch.int64)], dim=1)
    assert processor.post_process_image_text_to_text(generated) == CAPTIONS
    assert processor.post_process_image_text_to_text(generated.tolist()) == CAPTIONS
    assert processor.post_process_image_text_to_text(generated[0]) == CAPTIONS[:1]
    assert processor.batch_decode(generated, skip_special_tokens=True) == CAPTIONS
    assert processor.decode(generated[1], skip_special_tokens=True) == CAPTIONS[1]
    assert processor.post_process_image_text_to_text(generated, skip_special_tokens=False)[0].startswith("<s>")


def test_labels_are_aligned_with_inputs(processor: ButdProcessor):
    encoded = processor.encode_captions(CAPTIONS)
    assert list(encoded) == ["input_ids", "attention_mask", "labels"]
    for input_ids, mask, labels, caption in zip(*encoded.values(), CAPTIONS, strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and input_ids[0] == 1 and labels[length - 1] == 2
        assert torch.equal(labels[: length - 1], input_ids[1:length])
        assert (input_ids[length:] == 0).all() and (labels[length:] == -100).all()
        assert processor.decode(labels[:length], skip_special_tokens=True) == caption
        # training and prompting begin alike
        assert torch.equal(input_ids[:length], processor(text=caption, return_tensors="pt").input_ids[0])


def test_long_captions_are_cut(processor: ButdProcessor):
    encoded = processor.encode_captions(["a dog " * 50, ""], max_length=4)
    assert encoded.input_ids.shape == (2, 4)
    assert encoded.labels[0, -1] == 2 and encoded.labels[1].tolist() == [2, -100, -100, -100]
    assert processor.encode_captions(["a dog " * 50]).input_ids.shape == (1, 16)
    assert processor.encode_captions(["a dog"], max_length=1).labels.tolist() == [[2]]


@pytest.mark.parametrize(
    ("captions", "message"),
    [([], "non-empty"), ("a dog", "non-empty"), ([["a"], ["b", 3]], r"captions\[1\]\[1\]: got int")],
)
def test_captions_that_cannot_be_used(processor: ButdProcessor, captions: object, message: str):
    with pytest.raises(ValueError, match=message):
        processor.encode_captions(captions)
    with pytest.raises(ValueError, match="max_length"):
        processor.encode_captions(["a"], max_length=0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_saving_and_loading_keeps_every_byte(processor: ButdProcessor, image: PIL.Image.Image, tmp_path: Path):
    processor.save_pretrained(tmp_path / "first")
    loaded = ButdProcessor.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(contents(tmp_path / "first"))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    before, after = (one(images=image, text=["a", "a dog"], return_tensors="pt") for one in (processor, loaded))
    assert all(torch.equal(before[name], after[name]) for name in before)
    loaded.save_pretrained(tmp_path / "third")  # having padded leaves no trace
    assert contents(tmp_path / "first") == contents(tmp_path / "third")
