# SPDX-License-Identifier: Apache-2.0
"""The image-to-text pipeline, as transformers 4 had it: pictures in, captions out."""

from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch
from transformers import GenerationConfig
from transformers.image_processing_utils import BatchFeature

from .images import ButdPicturePipeline


class ImageToTextPipeline(ButdPicturePipeline):
    """
    Captions pictures with any model that generates text from an image: BUTD, BLIP, BLIP-2, GIT, ViT-GPT2 ….

    What differs from transformers 4: a picture that cannot be read is named in the error, pictures are processed
    batch by batch, so that those of different sizes can be padded together, and every picture of a batch gets all of
    its `num_return_sequences`. The model is put into evaluation mode, and a float16 model on the CPU into float32,
    which is faster there; `dtype=torch.float16` keeps it.

    An `image_processor` or `tokenizer` that is passed wins over those of the `processor`. Unless the checkpoint's
    generation config or the caller says otherwise, up to 256 new tokens are generated.

    Example:

    ```python
    >>> import butd_hf
    >>> from transformers import pipeline

    >>> captioner = pipeline("image-to-text")
    >>> captioner("photo.jpg")
    [{'generated_text': 'two birds are standing next to each other'}]
    ```"""

    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __call__(
        self, inputs: "str | PIL.Image.Image | Sequence | Iterator | None" = None, **kwargs: Any
    ) -> list[dict[str, str]] | list[list[dict[str, str]]] | Iterator[list[dict[str, str]]]:
        """
        Captions pictures.

        Args:
            inputs: A picture, a list of them, or a dataset or generator of them (`KeyDataset` picks a column). A
                picture is a path, URL, base64 string or PIL image; BUTD also takes arrays and tensors.
            max_new_tokens (`int`, *optional*): Longest caption in tokens.
            generate_kwargs (`dict`, *optional*): Further arguments of the model's `generate`.
            prompt (`str`, *optional*): How every caption begins.
            timeout (`float`, *optional*): Seconds to wait for a URL.
            batch_size (`int`, *optional*): Pictures that go through the model together, 1 by default.

        Returns:
            For a picture, a list with one `{"generated_text": ...}` per returned sequence; for a list of pictures, a
            list of such lists; for a dataset or generator, an iterator of them.

        Raises:
            ValueError: If there are no inputs, a picture cannot be read, `max_new_tokens` is given twice, or the
                prompt is not a string or not supported by the model.
        """
        if "images" in kwargs:  # its name in earlier versions
            inputs = kwargs.pop("images")
        if inputs is None:
            raise ValueError("Cannot call the image-to-text pipeline without an inputs argument!")
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
            if len(inputs) == 0:
                return []
            if not isinstance(inputs, list):  # tuples, and columns of `datasets`, which decode picture by picture
                return list(super().__call__((image for image in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        max_new_tokens: int | None = None,
        generate_kwargs: dict | None = None,
        prompt: str | None = None,
        timeout: float | None = None,
    ) -> tuple[dict, dict, dict]:
        preprocess_params, forward_params = {}, {}
        if timeout is not None:
            preprocess_params["timeout"] = timeout
        if prompt is not None:
            if not isinstance(prompt, str):
                raise ValueError(f"prompt must be a single string, got {type(prompt).__name__}.")
            if self.model.config.model_type == "vision-encoder-decoder":
                raise ValueError("Model type vision-encoder-decoder does not support conditional text generation")
            forward_params["prompt"] = prompt
        if max_new_tokens is not None:
            forward_params["max_new_tokens"] = max_new_tokens
        if generate_kwargs is not None:
            if max_new_tokens is not None and "max_new_tokens" in generate_kwargs:
                raise ValueError(
                    "`max_new_tokens` is defined both as an argument and inside `generate_kwargs` argument, please use"
                    " only 1 version"
                )
            forward_params.update(generate_kwargs)
        if getattr(self, "assistant_model", None) is not None:
            forward_params["assistant_model"] = self.assistant_model
        if getattr(self, "assistant_tokenizer", None) is not None:
            forward_params["tokenizer"] = self.tokenizer
            forward_params["assistant_tokenizer"] = self.assistant_tokenizer
        return preprocess_params, forward_params, {}

    def preprocess(self, image: "str | PIL.Image.Image", timeout: float | None = None) -> dict[str, list]:
        """Reads a picture. The rest waits until the batch is known: pictures are padded to the largest of it."""
        # in a list, because a lone tensor would be concatenated with the others of its batch
        return {"images": [self.read(image, timeout)]}

    def features(self, images: list, prompt: str | None) -> BatchFeature:
        """What the model takes: the pictures as tensors, and the prompt's tokens if there is one."""
        model_type = self.model.config.model_type
        if prompt is not None and model_type == "pix2struct":  # draws the prompt onto the picture
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
        images = []
        for image in model_inputs["images"]:  # a batch comes as lists of one
            images.extend(image if isinstance(image, list) else [image])
        features = self.features(images, prompt).to(self.device, dtype=self.dtype)
        if hasattr(self, "_prepare_generate_kwargs"):
            generate_kwargs = self._prepare_generate_kwargs(generate_kwargs)
        else:  # the first versions of transformers 5 kept one generation config per pipeline
            generate_kwargs.setdefault("generation_config", self.generation_config)
        sequences = self.model.generate(**features, **generate_kwargs)
        sequences = getattr(sequences, "sequences", sequences)
        return sequences.reshape(len(images), -1, sequences.shape[-1])  # (batch_size, num_return_sequences, length)

    def postprocess(self, model_outputs: torch.Tensor) -> list[dict[str, str]]:
        return [
            {"generated_text": self.tokenizer.decode(sequence, skip_special_tokens=True)}
            for sequence in model_outputs.flatten(0, 1)
        ]


__all__ = ["ImageToTextPipeline"]
