# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Images and texts together: prompts for generation, and captions with labels for training."""

import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.tokenization_utils_base import TextInput
from transformers.utils import PROCESSOR_NAME, auto_docstring, cached_file

from .image_processing_butd import ButdImageProcessor, ButdImageProcessorKwargs
from .remote_code import CarriesCode


IGNORED_LABEL = -100  # what torch's cross entropy leaves out
LOADING_RECORDS = ("is_local", "local_files_only")  # how a tokenizer was loaded, which it would save as its own
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
UNLIMITED_LENGTH = 10**9  # tokenizers without a longest text give an astronomic model_max_length


class ButdProcessorKwargs(ProcessingKwargs, total=False):
    images_kwargs: ButdImageProcessorKwargs


@auto_docstring(
    custom_intro="""
    One image per text, each text the beginning of what is to be generated.

    A single image with several texts is repeated for each of them, and a single text for each of several images.
    Texts are padded on the left, so that generation continues at the end of every one. Questions are texts too: a
    word that the tokenizer doesn't know becomes its unknown token, an empty one has no words but those that the
    tokenizer adds, and of one that is too long the model reads the beginning; `truncation=True` cuts it here.
    """
)
class ButdProcessor(CarriesCode, ProcessorMixin):
    valid_processor_kwargs = ButdProcessorKwargs
    text_kwargs: ClassVar[dict[str, Any]] = {"padding": True, "padding_side": "left", "return_token_type_ids": False}

    def __init__(self, image_processor: Any = None, tokenizer: Any = None):
        super().__init__(image_processor, tokenizer)

    @auto_docstring
    def __call__(
        self,
        images: ImageInput | None = None,
        text: TextInput | list[TextInput] | None = None,
        **kwargs: Unpack[ButdProcessorKwargs],
    ) -> BatchFeature:
        r"""
        Returns:
            `BatchFeature`: `pixel_values` (and `pixel_mask`, see the image processor) if there are images, `input_ids`
            and `attention_mask` if there is text; `ValueError` if their numbers differ and neither is one.
        """
        if text is not None:
            text = [text] if isinstance(text, str) else text
            if not isinstance(text, Sequence) or len(text) == 0:
                raise ValueError(f"text: got {text!r}, expected a string or a non-empty list of strings.")
            text = list(text)
        features = super().__call__(images=images, text=text, **kwargs)
        if torch.is_tensor(features.get("input_ids")):  # without a single word, torch takes them for floats
            features["input_ids"] = features["input_ids"].long()
        if images is None or text is None:
            return features
        num_images, num_texts = len(features["pixel_values"]), len(features["input_ids"])
        if num_images != num_texts and 1 not in (num_images, num_texts):
            raise ValueError(f"got {num_images} images and {num_texts} texts, expected as many, or one of either.")
        num_pairs = max(num_images, num_texts)
        for name, value in features.items():
            if len(value) < num_pairs:
                features[name] = _repeat(value, num_pairs)
        return features

    def encode_captions(self, captions: list[str] | list[list[str]], max_length: int | None = None) -> BatchFeature:
        """Captions as inputs and labels of one training step: `input_ids`, `attention_mask` and `labels`, each
        (num_captions, length), padded on the right; padding has the label -100.

        Labels are aligned: `logits[:, t]` predicts `labels[:, t]`. With tokens a, b a caption has the inputs `bos a b`
        and the labels `a b eos`.

        Args:
            captions (`list[str]` or `list[list[str]]`): One caption per row, or several per image, which become rows
                in the order of the images. `ValueError` names what is no caption.
            max_length (`int`, *optional*): Longest row, `bos` included; longer captions are cut. By default the
                tokenizer's `model_max_length`.
        """
        bos = self._token_id("bos", "cls")
        eos = self._token_id("eos", "sep")
        pad = self._token_id("pad", "eos")
        captions = _flatten_captions(captions)
        max_length = self.tokenizer.model_max_length if max_length is None else max_length
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}.")
        num_tokens = max_length - 1 if max_length < UNLIMITED_LENGTH else None

        encoded = self.tokenizer(captions, add_special_tokens=False, padding=False, verbose=False)["input_ids"]
        rows = [[bos, *tokens[:num_tokens], eos] for tokens in encoded]
        length = max(len(row) for row in rows) - 1
        input_ids = torch.full((len(rows), length), pad)  # (num_captions, length)
        labels = torch.full((len(rows), length), IGNORED_LABEL)  # (num_captions, length)
        attention_mask = torch.zeros_like(input_ids)  # (num_captions, length)
        for index, row in enumerate(rows):
            input_ids[index, : len(row) - 1] = torch.tensor(row[:-1])
            labels[index, : len(row) - 1] = torch.tensor(row[1:])
            attention_mask[index, : len(row) - 1] = 1
        return BatchFeature({"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels})

    def post_process_image_text_to_text(
        self,
        generated_outputs: "torch.Tensor | np.ndarray | list[list[int]]",
        skip_special_tokens: bool = True,
        **kwargs: Any,
    ) -> list[str]:
        """Texts of the token ids (batch_size, length) or (length,) that `generate` returned, as `batch_decode`."""
        return self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """As every processor's; of a checkpoint without words (a detector's, say), its image processor."""
        options = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        for what in ("missing_entries", "gated_repo", "connection_errors"):
            options[f"_raise_exceptions_for_{what}"] = False
        files = (PROCESSOR_NAME, "tokenizer_config.json")
        if all(cached_file(pretrained_model_name_or_path, name, **options) is None for name in files):
            return ButdImageProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As any processor's, with `auto_map`: where the checkpoint's code is."""
        output = super().to_dict()
        output["auto_map"] = {"AutoProcessor": "processing_butd.ButdProcessor"}
        output["image_processor"]["auto_map"] = {"AutoImageProcessor": "image_processing_butd.ButdImageProcessor"}
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> list[str]:
        """As every processor's; saving what was loaded gives the same bytes."""
        for name in LOADING_RECORDS:
            self.tokenizer.init_kwargs.pop(name, None)
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:  # what the last call padded and cut to would be saved as if it were a setting
            backend.no_padding()
            backend.no_truncation()
        return super().save_pretrained(save_directory, **kwargs)

    def _token_id(self, role: str, stand_in: str) -> int:
        """Id of the token of a role; tokenizers made for encoders name it otherwise."""
        for name in (role, stand_in):
            token_id = getattr(self.tokenizer, f"{name}_token_id", None)
            if token_id is not None:
                return token_id
        raise ValueError(f"the tokenizer has neither a {role}_token nor a {stand_in}_token, captions need one.")


def _flatten_captions(captions: list[str] | list[list[str]]) -> list[str]:
    if isinstance(captions, str) or len(captions) == 0:
        raise ValueError(f"captions: got {captions!r}, expected a non-empty list of strings or of lists of strings.")
    flat = []
    for index, entry in enumerate(captions):
        is_list = isinstance(entry, (list, tuple))
        for place, caption in enumerate(entry if is_list else [entry]):
            if not isinstance(caption, str):
                name = f"captions[{index}][{place}]" if is_list else f"captions[{index}]"
                raise ValueError(f"{name}: got {type(caption).__name__}, expected a string.")
            flat.append(caption)
    if not flat:
        raise ValueError("captions: every image has an empty list, expected at least one caption.")
    return flat


def _repeat(value: Any, count: int) -> Any:
    """A batch of one, repeated along its first dimension."""
    if isinstance(value, torch.Tensor):
        return value.repeat_interleave(count, dim=0)
    if isinstance(value, np.ndarray):
        return value.repeat(count, axis=0)
    return value * count


__all__ = ["ButdProcessor"]
