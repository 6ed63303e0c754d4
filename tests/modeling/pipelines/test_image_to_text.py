# SPDX-License-Identifier: Apache-2.0
import copy
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.utils.data import Dataset
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
    pipeline,
)
from transformers.pipelines.pt_utils import KeyDataset

import butd_hf


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def captioner(tiny_checkpoint):
    return pipeline("image-to-text", model=tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def captions(captioner, image_paths):
    """One by one, what everything else is compared with."""
    return [captioner(path, max_new_tokens=8) for path in image_paths]


@pytest.fixture
def bert_tokenizer(tiny_tokenizer):
    """As the tokenizer of BLIP is: texts are enclosed in tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tiny_tokenizer.backend_tokenizer),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def generated(outputs: list[dict[str, str]]) -> list[str]:
    assert all(list(record) == ["generated_text"] for record in outputs)
    return [record["generated_text"] for record in outputs]


def test_a_image_gives_a_list_of_one(captions):
    assert all(len(outputs) == 1 and generated(outputs)[0] for outputs in captions)
    assert len({generated(outputs)[0] for outputs in captions}) > 1  # else the other tests could not tell them apart


def test_images_come_in_many_ways(captioner, captions, image_paths):
    image = PIL.Image.open(image_paths[0])
    for inputs in (image, Path(image_paths[0]), np.asarray(image)):
        assert captioner(inputs, max_new_tokens=8) == captions[0]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_images_of_different_sizes_in_batches(captioner, captions, image_paths, batch_size):
    assert captioner(image_paths, max_new_tokens=8, batch_size=batch_size) == captions
    tensors = [torch.from_numpy(np.array(PIL.Image.open(path))).movedim(-1, 0) for path in image_paths]
    assert captioner(tensors, max_new_tokens=8, batch_size=batch_size) == captions


def test_lists_generators_and_datasets(captioner, captions, image_paths):
    class Images(Dataset):
        def __len__(self):
            return len(image_paths)

        def __getitem__(self, index):
            return {"image": image_paths[index]}

    assert captioner([], max_new_tokens=8) == []
    assert captioner(image_paths[:1], max_new_tokens=8) == captions[:1]
    assert captioner(tuple(image_paths), max_new_tokens=8) == captions
    assert list(captioner((path for path in image_paths), max_new_tokens=8)) == captions
    assert list(captioner(KeyDataset(Images(), "image"), max_new_tokens=8, batch_size=2)) == captions
    with pytest.raises(ValueError, match="without an inputs argument"):
        captioner()


def test_prompt_begins_every_caption(captioner, image_paths):
    outputs = captioner(image_paths, prompt="a brown dog", max_new_tokens=4, batch_size=2)
    assert all(generated(output)[0].startswith("a brown dog") for output in outputs)
    assert outputs == [captioner(path, prompt="a brown dog", max_new_tokens=4) for path in image_paths]
    with pytest.raises(ValueError, match="single string, got list"):
        captioner(image_paths, prompt=["a dog", "a cat"])


def test_length(captioner, image_paths, tiny_tokenizer):
    never_ending = {"eos_token_id": None}
    for arguments in ({"max_new_tokens": 3}, {"generate_kwargs": {"max_new_tokens": 3}}):
        arguments["generate_kwargs"] = {**arguments.get("generate_kwargs", {}), "suppress_tokens": [0, 1, 2]}
        text = generated(captioner(image_paths[0], **arguments))[0]
        assert len(tiny_tokenizer(text, add_special_tokens=False)["input_ids"]) == 3
    with pytest.raises(ValueError, match="defined both"):
        captioner(image_paths[0], max_new_tokens=3, generate_kwargs={"max_new_tokens": 3})
    with pytest.raises(TypeError, match="num_beams"):
        captioner(image_paths[0], num_beams=2)
    # the default of 256 tokens is more than the model has positions for
    assert generated(captioner(image_paths[0], generate_kwargs=never_ending))


def test_every_image_gets_its_returned_sequences(captioner, image_paths):
    generate_kwargs = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}
    singles = [captioner(path, generate_kwargs=generate_kwargs) for path in image_paths]
    assert [len(single) for single in singles] == [2, 2, 2]
    assert captioner(image_paths, generate_kwargs=generate_kwargs, batch_size=3) == singles
    as_dict = {**generate_kwargs, "return_dict_in_generate": True}
    assert captioner(image_paths[0], generate_kwargs=as_dict) == singles[0]


def test_unreadable_images_are_named(captioner, image_paths, tmp_path):
    missing, broken, truncated = (str(tmp_path / name) for name in ("missing.png", "broken.png", "truncated.png"))
    Path(broken).write_text("not a image")
    Path(truncated).write_bytes(Path(image_paths[0]).read_bytes()[:200])
    for path in (missing, broken, truncated):
        with pytest.raises(ValueError, match=Path(path).name):
            captioner([image_paths[0], path])
    with pytest.raises(ValueError, match="NoneType"):
        captioner([None])


def test_parts_can_be_passed(tiny_checkpoint, captions, image_paths):
    model = AutoModelForImageTextToText.from_pretrained(tiny_checkpoint).train()
    processor = AutoProcessor.from_pretrained(tiny_checkpoint)
    parts = {"tokenizer": processor.tokenizer, "image_processor": processor.image_processor}
    for arguments in ({"processor": processor}, parts):
        captioner = pipeline("image-to-text", model=model, device="cpu", **arguments)
        assert not model.training
        assert captioner(image_paths[0], max_new_tokens=8) == captions[0]
        assert generated(captioner(image_paths[0], prompt="a dog", max_new_tokens=3))[0].startswith("a dog")
    with pytest.raises(ValueError, match="found no image_processor"):
        pipeline("image-to-text", model=model, tokenizer=processor.tokenizer, device="cpu")


def test_image_text_to_text(tiny_checkpoint, image_paths, captions):
    captioner = pipeline("image-text-to-text", model=tiny_checkpoint, device="cpu")
    outputs = captioner(images=image_paths[0], text="", max_new_tokens=8)
    assert [output["generated_text"] for output in outputs] == generated(captions[0])
    outputs = captioner(images=image_paths[0], text="a dog", max_new_tokens=8)
    assert outputs[0]["generated_text"].startswith("a dog")
    assert captioner(images=image_paths[0], text="a dog")  # the default length is more than there are positions


def test_other_models(bert_tokenizer, image_paths, tmp_path):
    text = {**TINY, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 2}
    config = BlipConfig(
        text_config={**text, "encoder_hidden_size": 16, "max_position_embeddings": 64},
        vision_config={**TINY, "image_size": 16, "patch_size": 8},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), bert_tokenizer).save_pretrained(tmp_path)
    captioner = pipeline("image-to-text", model=str(tmp_path), device="cpu")
    assert type(captioner) is butd_hf.ImageToTextPipeline
    singles = [captioner(path, max_new_tokens=5) for path in image_paths]
    assert all(isinstance(generated(single)[0], str) for single in singles)
    assert captioner(image_paths, max_new_tokens=5, batch_size=2) == singles
    outputs = captioner(image_paths, prompt="a dog", max_new_tokens=5, batch_size=2)
    assert all(generated(output)[0].startswith("a dog") for output in outputs)
    captioner.save_pretrained(tmp_path / "again")
    again = pipeline("image-to-text", model=str(tmp_path / "again"), device="cpu")
    assert again(image_paths[0], max_new_tokens=5) == singles[0]
