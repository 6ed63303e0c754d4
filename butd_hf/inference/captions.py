# SPDX-License-Identifier: Apache-2.0
"""From images to captions, with the regions that each word attends to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.image_utils import ImageInput

from ..modeling.modeling_captioning_butd import ButdForConditionalGeneration
from ..modeling.processing_butd import ButdProcessor
from .regions import ImageRegions, image_inputs, read_regions


@dataclass(kw_only=True)
class ImageCaption(ImageRegions):
    """A caption with the regions that it came from.

    Attributes:
        caption: The text, including the prompt.
        words: The words of the caption; None unless attentions were asked for.
        attentions: Attention of each word over the regions, each row sums to one: (num_words, num_regions).
    """

    caption: str
    words: list[str] | None = None
    attentions: np.ndarray | None = None


@torch.no_grad()
def caption_images(
    model: ButdForConditionalGeneration,
    processor: ButdProcessor,
    images: Sequence[ImageInput],
    *,
    prompt: str | None = None,
    output_attentions: bool = False,
    **generation: Any,
) -> list[ImageCaption]:
    """Captions a batch of images.

    Args:
        model: In evaluation mode, on any device.
        processor: What makes the model's inputs.
        images: Anything that the image processor takes.
        prompt: How every caption begins; nothing by default.
        output_attentions: Whether to return the attention of each word.
        generation: Options of `generate`, such as `num_beams`; the checkpoint's own by default.

    Returns:
        One caption per image, in their order.
    """
    encoded = model.model.encode(**image_inputs(model, processor.image_processor, images))
    prompts = {}
    if prompt:
        prompts = processor(text=[prompt] * len(images), return_tensors="pt").to(model.device)
    sequences = model.generate(encoder_outputs=encoded, **prompts, **generation)  # (batch_size, length)
    texts = processor.post_process_image_text_to_text(sequences)
    captions = [
        ImageCaption(**vars(regions), caption=text.strip())
        for text, regions in zip(texts, read_regions(encoded.regions), strict=True)
    ]
    if output_attentions:
        # one more pass over the finished captions: the same for every search. What follows the end of a caption is
        # padding, which no word before it attends to
        outputs = model(input_ids=sequences[:, :-1], encoder_outputs=encoded, output_attentions=True)
        attentions = outputs.region_attentions.float().cpu().numpy()  # (batch_size, length - 1, num_regions)
        exists = encoded.regions.mask.cpu().numpy()
        for row, caption in enumerate(captions):
            # the state of a token predicts the next one, so the first token has no attention of its own
            caption.words, caption.attentions = attentions_of_words(
                processor.tokenizer, sequences[row, 1:].tolist(), attentions[row][:, exists[row]]
            )
    return captions


def attentions_of_words(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], attentions: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The words that tokens spell, each with the mean attention of its tokens.

    Args:
        tokenizer: What made the tokens: words, parts of words or bytes.
        tokens: Token ids; special ones are ignored.
        attentions: Attention of each token, (num_tokens, num_regions).

    Returns:
        The words, and their attentions (num_words, num_regions).
    """
    special = set(tokenizer.all_special_ids)
    places = [place for place, token in enumerate(tokens) if token not in special]
    text = tokenizer.decode([tokens[place] for place in places])
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    sums = np.zeros((len(spans), attentions.shape[-1]), dtype=np.float32)
    for count, place in enumerate(places, start=1):
        # a token belongs to the word that the text up to it ends in; a space opens the next word
        end = len(tokenizer.decode([tokens[before] for before in places[:count]]))
        word = sum(start <= end for start, _ in spans) - 1
        if word >= 0:
            sums[word] += attentions[place]
    means = sums / np.maximum(sums.sum(axis=-1, keepdims=True), 1e-12)  # each token's attention sums to one
    return [text[start:end] for start, end in spans], means
