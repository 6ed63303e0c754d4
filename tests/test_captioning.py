# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from butd_hf.data.tokenization import train_tokenizer
from butd_hf.inference.captions import attentions_of_words, caption_images
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration
from butd_hf.modeling.processing_butd import ButdProcessor


CAPTIONS = ["a brown dog runs", "two naïve children play", "a café"]


@pytest.fixture(scope="module")
def captioner(tiny_checkpoint):
    return ButdForConditionalGeneration.from_pretrained(tiny_checkpoint).eval(), ButdProcessor.from_pretrained(
        tiny_checkpoint
    )


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize("caption", CAPTIONS)
def test_tokens_become_words(kind, caption):
    tokenizer = train_tokenizer(CAPTIONS, kind=kind, vocab_size=265, min_frequency=1)
    tokens = [*tokenizer(caption)["input_ids"][1:], tokenizer.eos_token_id, tokenizer.pad_token_id]
    attentions = torch.rand(len(tokens), 5, generator=torch.Generator().manual_seed(0)).softmax(dim=-1).numpy()
    words, of_words = attentions_of_words(tokenizer, tokens, attentions)
    assert words == caption.split()
    assert of_words.sum(axis=-1) == pytest.approx(np.ones(len(words)))
    if kind == "word":
        assert of_words == pytest.approx(attentions[: len(words)])
    else:
        pieces = len(tokenizer(words[0])["input_ids"]) - 1
        assert of_words[0] == pytest.approx(attentions[:pieces].mean(axis=0))


def test_no_tokens_no_words(captioner):
    _, processor = captioner
    words, attentions = attentions_of_words(processor.tokenizer, [processor.tokenizer.eos_token_id], np.ones((1, 3)))
    assert words == [] and attentions.shape == (0, 3)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_batch_is_captioned_as_single_images_are(captioner, num_beams):
    model, processor = captioner
    images = [
        Image.radial_gradient("L"),
        Image.linear_gradient("L").resize((90, 40)),
        Image.new("RGB", (50, 50), "red"),
    ]
    options = {"num_beams": num_beams, "max_new_tokens": 6, "output_attentions": True, "prompt": "a"}
    together = caption_images(model, processor, images, **options)
    for image, result in zip(images, together, strict=True):
        alone = caption_images(model, processor, [image], **options)[0]
        assert alone.caption == result.caption == " ".join(result.words)
        assert result.boxes == pytest.approx(alone.boxes, abs=1e-5)
        assert result.attentions == pytest.approx(alone.attentions, abs=5e-5)  # weights are drawn 25 times wider
        assert result.attentions.shape == (len(result.words), len(result.boxes))
        assert (np.diff(result.saliency) <= 0).all()


def test_attention_is_that_of_the_step_that_chose_the_word(captioner):
    model, processor = captioner
    image = Image.radial_gradient("L")
    result = caption_images(model, processor, [image], output_attentions=True, num_beams=1, max_new_tokens=4)[0]
    pixels = processor(images=image, return_tensors="pt")
    begin = torch.tensor([[processor.tokenizer.bos_token_id]])
    first = model(**pixels, input_ids=begin, output_attentions=True).region_attentions[0, 0]
    if result.words:
        assert result.attentions[0] == pytest.approx(first[: len(result.boxes)].detach().numpy(), abs=1e-5)


def test_attentions_only_when_asked(captioner):
    assert caption_images(*captioner, [Image.new("RGB", (32, 32))], max_new_tokens=2)[0].words is None
