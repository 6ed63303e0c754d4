# SPDX-License-Identifier: Apache-2.0
"""The image-to-text pipeline, as transformers 4 had it: images in, captions out."""

from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch
from transformers import GenerationConfig
from transformers.image_processing_utils import BatchFeature

from .images import ButdImagePipeline, given


class ImageToTextPipeline(ButdImagePipeline):
    """Captions images with any model that generates text from an image: BUTD, BLIP, BLIP-2, GIT, ViT-GPT2 ….

    What differs from transformers 4: see `ButdImagePipeline`; an image that cannot be read is named in the error, and
    every image of a batch gets all of its `num_return_sequences`. Unless the checkpoint's generation config or the
    caller says otherwise, up to 256 new tokens are generated.
    """

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __call__(
        self, inputs: "str | PIL.Image.Image | Sequence | Iterator | None" = None, **kwargs: Any
    ) -> list[dict[str, str]] | list[list[dict[str, str]]] | Iterator[list[dict[str, str]]]:
        """Captions images.

        Args:
            inputs: An image, a list of them, or a dataset or generator of them (`KeyDataset` picks a column). An image
                is a path, URL, base64 string or PIL image; BUTD also takes arrays and tensors.
            max_new_tokens (`int`, *optional*): Longest caption in tokens.
            generate_kwargs (`dict`, *optional*): Further arguments of the model's `generate`.
            prompt (`str`, *optional*): How every caption begins.
            timeout (`float`, *optional*): Seconds to wait for a URL.
            batch_size (`int`, *optional*): Images that go through the model together, 1 by default.

        Returns:
            For an image, a list with one `{"generated_text": ...}` per returned sequence; for a list of images, a list
            of such lists; for a dataset or generator, an iterator of them. `ValueError` names what is wrong.
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        max_new_tokens: int | None = None,
        generate_kwargs: dict | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
    ) -> tuple[dict, dict, dict]:
        if prompt is not None:
            if not isinstance(prompt, str):
                raise ValueError(f"prompt must be a single string, got {type(prompt).__name__}.")
            if self.model.config.model_type == "vision-encoder-decoder":
                raise ValueError("Model type vision-encoder-decoder does not support conditional text generation")
        if max_new_tokens is not None and "max_new_tokens" in (generate_kwargs or {}):
            raise ValueError(
                "`max_new_tokens` is defined both as an argument and inside `generate_kwargs` argument, please use"
                " only 1 version"
            )
        forward_params = {**given(prompt=prompt, max_new_tokens=max_new_tokens), **(generate_kwargs or {})}
        return given(timeout=timeout), forward_params, {}

    def features(self, images: list, prompt: str | None) -> BatchFeature:
        """What the model takes: the images as tensors, and the prompt's tokens if there is one."""
        model_type = self.model.config.model_type
        if prompt is not None and model_type == "pix2struct":  # draws the prompt onto the image
            return self.image_processor(images=images, header_text=prompt, return_tensors="pt")
        if prompt is not None and model_type != "git" and self.processor is not None:
            return self.processor(images=images, text=[prompt] * len(images), return_tensors="pt")
        features = self.image_processor(images=images, return_tensors="pt")
        if prompt is not None and model_type == "git":  # the closing token of its tokenizer would end the caption
            tokens = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            features["input_ids"] = torch.tensor([[self.tokenizer.cls_token_id, *tokens]] * len(images))
        elif prompt is not None:
            prompts = [prompt] * len(images)
            features.update(self.tokenizer(prompts, return_tensors="pt", return_token_type_ids=False))
        return features

    def _forward(self, model_inputs: dict, prompt: str | None = None, **generate_kwargs: Any) -> torch.Tensor:
        images = self.batch(model_inputs, "images")
        features = self.features(images, prompt).to(self.device, dtype=self.dtype)
        return self.generate(features, len(images), generate_kwargs)

    def postprocess(self, model_outputs: torch.Tensor) -> list[dict[str, str]]:
        return [{"generated_text": text} for text in self.texts(model_outputs)]
