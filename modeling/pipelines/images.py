# SPDX-License-Identifier: Apache-2.0
"""What pipelines over images have in common: how they find their parts, read images, batch and are saved."""

import copy
import os
from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch
from transformers import Pipeline
from transformers.image_utils import load_image

from ..images import DOWNLOAD_SECONDS, fetch_images


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


class ButdImagePipeline(Pipeline):
    """A pipeline that takes images: paths, URLs, base64 strings, PIL images, and for BUTD arrays and tensors.

    Images are processed batch by batch, so that those of different sizes can be padded together. An `image_processor`
    or `tokenizer` that is passed wins over those of the `processor`. The model is put into evaluation mode, and a
    float16 model on the CPU into float32, which is faster there; `dtype=torch.float16` keeps it.
    """

    _load_processor = None
    _load_image_processor = None
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = None
    needed_parts = ("image_processor", "tokenizer")

    def __init__(self, *args: Any, **kwargs: Any):
        dtype = kwargs.get("dtype")
        super().__init__(*args, **kwargs)
        for name in self.needed_parts:
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.processor, name, None))
            if getattr(self, name) is None:
                raise ValueError(
                    f"{self.task} found no {name} for {type(self.model).__name__}; pass {name}=... or processor=...."
                )
        if self.processor is not None:
            self.processor = copy.copy(self.processor)  # the caller's own stays as it is
            self.processor.image_processor = self.image_processor
            self.processor.tokenizer = self.tokenizer
        self.model.eval()
        if dtype in (None, "auto") and self.device.type == "cpu" and self.dtype == torch.float16:
            self.model.float()

    def __call__(self, inputs: Any = None, **kwargs: Any) -> list | Iterator | dict:
        if inputs is None:
            raise ValueError(f"Cannot call the {self.task} pipeline without an inputs argument!")
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
            if len(inputs) == 0:
                return []
            if not isinstance(inputs, list):  # tuples, and columns of `datasets`, which decode image by image
                return list(super().__call__((image for image in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def read(self, image: "str | PIL.Image.Image", timeout: float | None = None) -> Any:
        """The image itself, from wherever it is. Raises `ValueError` with its name if it cannot be read."""
        name = repr(image) if isinstance(image, (str, os.PathLike)) else repr(getattr(image, "filename", type(image)))
        image = os.fspath(image) if isinstance(image, os.PathLike) else image
        try:
            if self.model.config.model_type == "butd":  # its processor takes alpha, 16 bits, arrays … itself
                return fetch_images(image, "image", timeout or DOWNLOAD_SECONDS)
            return load_image(image, timeout=timeout)
        except Exception as error:  # decoders raise many kinds of errors
            raise ValueError(f"Cannot read the image {name[:200]}: {error}") from error

    def preprocess(self, image: "str | PIL.Image.Image", timeout: float | None = None) -> dict[str, list]:
        """Reads an image. The rest waits until the batch is complete: images are padded to the largest of it."""
        # in a list, because a lone tensor would be concatenated with the others of its batch
        return {"images": [self.read(image, timeout)]}

    def batch(self, model_inputs: dict[str, list], name: str) -> list:
        """The values of a batch, which comes as lists of one."""
        return [each for value in model_inputs[name] for each in (value if isinstance(value, list) else [value])]

    def generate(self, features: Any, count: int, generate_kwargs: dict[str, Any]) -> torch.Tensor:
        """Texts of shape `(count, num_return_sequences, length)`."""
        sequences = self.model.generate(**features, **self._prepare_generate_kwargs(generate_kwargs))
        sequences = getattr(sequences, "sequences", sequences)
        return sequences.reshape(count, -1, sequences.shape[-1])

    def texts(self, sequences: torch.Tensor) -> list[str]:
        return [self.tokenizer.decode(sequence, skip_special_tokens=True) for sequence in sequences.flatten(0, 1)]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the model and its processor, or its tokenizer and image processor where there is no processor."""
        if self.processor is None:
            super().save_pretrained(save_directory, **kwargs)
        else:
            self.model.save_pretrained(save_directory, **kwargs)
            self.processor.save_pretrained(save_directory, **kwargs)
