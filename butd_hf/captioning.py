# SPDX-License-Identifier: Apache-2.0
"""From pictures to captions: words, and for each of them where the model looked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase
from transformers.image_utils import ImageInput

from .modeling.modeling_captioning_butd import ButdForConditionalGeneration
from .modeling.processing_butd import ButdProcessor


@dataclass
class ImageCaption:
    """
    A caption with the regions that it came from.

    Attributes:
        caption: The text, the prompt included.
        boxes: Regions of the picture, most salient first, as `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        saliency: What ranked them: (num_regions,).
        words: The words of the caption; None unless attentions were asked for.
        attentions: Attention of each word over the regions, each row sums to one: (num_words, num_regions).
    """

    caption: str
    boxes: np.ndarray
    saliency: np.ndarray
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
    """
    Captions a batch of pictures.

    Args:
        model: In evaluation mode, on any device.
        processor: What turns pictures into the model's inputs.
        images: Anything that the image processor takes, one entry per picture.
        prompt: How every caption begins; nothing by default.
        output_attentions: Whether to also tell the attention of each word.
        generation: Options of `generate`, such as `num_beams`; the checkpoint's own by default.

    Returns:
        One caption per picture, in their order.
    """
    text = [prompt] * len(images) if prompt else None
    inputs = processor(images=list(images), text=text, return_tensors="pt").to(model.device, model.dtype)
    pixels = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
    encoded = model.model.encode(**pixels)
    prompted = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    sequences = model.generate(encoder_outputs=encoded, **prompted, **generation)  # (batch_size, length)
    texts = processor.post_process_image_text_to_text(sequences)

    attentions = None
    if output_attentions:
        # the finished captions, read once more: the same for every way of searching them. What follows the end of a
        # caption is padding, which no word before it attends to
        outputs = model(input_ids=sequences[:, :-1], encoder_outputs=encoded, output_attentions=True)
        attentions = outputs.region_attentions.float().cpu().numpy()  # (batch_size, length - 1, num_regions)

    captions = []
    mask = encoded.regions.mask.cpu().numpy()
    boxes = encoded.regions.boxes.float().cpu().numpy()
    saliency = encoded.regions.saliency.float().cpu().numpy()
    for row, caption in enumerate(texts):
        result = ImageCaption(caption.strip(), boxes[row, mask[row]], saliency[row, mask[row]])
        if attentions is not None:
            # the state of a token predicts the next one, so the first token has no attention of its own
            tokens, looked = sequences[row, 1:].tolist(), attentions[row][:, mask[row]]
            result.words, result.attentions = attentions_of_words(processor.tokenizer, tokens, looked)
        captions.append(result)
    return captions


def attentions_of_words(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], attentions: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """
    The words that tokens spell, each with the mean attention of its tokens.

    Args:
        tokenizer: Whose tokens they are; tokens may be words, parts of words or bytes.
        tokens: Token ids; special ones count for nothing.
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
        # a token belongs to the word that the text ends in once it is there; a space opens the next word
        end = len(tokenizer.decode([tokens[before] for before in places[:count]]))
        word = sum(start <= end for start, _ in spans) - 1
        if word >= 0:
            sums[word] += attentions[place]
    means = sums / np.maximum(sums.sum(axis=-1, keepdims=True), 1e-12)  # each token's attention sums to one
    return [text[start:end] for start, end in spans], means
