# SPDX-License-Identifier: Apache-2.0
"""What pipelines over pictures have in common: how they find their parts, read pictures and are saved."""

import copy
import os
from io import BytesIO
from typing import Any

import PIL.Image
import torch
from huggingface_hub.utils import httpx
from transformers import Pipeline
from transformers.image_utils import load_image


class ButdPicturePipeline(Pipeline):
    """
    A pipeline that takes pictures, and a tokenizer's texts with them, for any model that does.

    An `image_processor` or `tokenizer` that is passed wins over those of the `processor`. The model is put into
    evaluation mode, and a float16 model on the CPU into float32, which is faster there; `dtype=torch.float16` keeps
    it.
    """

    _load_processor = None
    _load_image_processor = None
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = None
    _pipeline_calls_generate = True

    def __init__(self, *args: Any, **kwargs: Any):
        dtype = kwargs.get("dtype")
        super().__init__(*args, **kwargs)
        for name in ("image_processor", "tokenizer"):
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

    def read(self, image: "str | PIL.Image.Image", timeout: float | None = None) -> Any:
        """
        The picture itself, from wherever it is.

        Raises:
            ValueError: If it cannot be read; the message names it.
        """
        name = repr(image) if isinstance(image, (str, os.PathLike)) else repr(getattr(image, "filename", type(image)))
        image = os.fspath(image) if isinstance(image, os.PathLike) else image
        try:
            if timeout is not None and isinstance(image, str) and image.startswith(("http://", "https://")):
                response = httpx.get(image, timeout=timeout, follow_redirects=True)
                image = PIL.Image.open(BytesIO(response.raise_for_status().content))
            if self.model.config.model_type == "butd":  # its processor knows alpha, 16 bits, arrays … by itself
                return self.image_processor.fetch_images(image)
            return load_image(image)
        except Exception as error:  # decoders raise whatever a broken file leads them into
            raise ValueError(f"Cannot read the picture {name[:200]}: {error}") from error

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves the model and its processor, or its tokenizer and image processor where there is no processor."""
        if self.processor is None:
            super().save_pretrained(save_directory, **kwargs)
        else:
            self.model.save_pretrained(save_directory, **kwargs)
            self.processor.save_pretrained(save_directory, **kwargs)


__all__ = ["ButdPicturePipeline"]
