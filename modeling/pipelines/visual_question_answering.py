# SPDX-License-Identifier: Apache-2.0
"""The visual-question-answering pipeline, as transformers 4 had it: images and questions in, answers out."""

from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch
from torch.utils.data import Dataset
from transformers import GenerationConfig
from transformers.image_processing_utils import BatchFeature

from .images import ButdImagePipeline, given


UNLIMITED_LENGTH = 10**9  # tokenizers without a longest text give an astronomic model_max_length


class VisualQuestionAnsweringPipeline(ButdImagePipeline):
    """Answers questions about images with any model that does: BUTD, ViLT, BLIP ….

    What differs from transformers 4: see `ButdImagePipeline`; an image that cannot be read or a question that isn't a
    string is named in the error; questions that are too long for the model are cut unless `truncation=False`; models
    whose `problem_type` says that one answer is right score by softmax; generated answers have the score None.

    Example:

    ```python
    >>> import butd_hf
    >>> from transformers import pipeline

    >>> oracle = pipeline("visual-question-answering")
    >>> oracle(image="photo.jpg", question="what is on the table", top_k=1)
    [{'score': 0.31, 'answer': 'lamp'}]
    ```"""

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __call__(
        self, image: Any = None, question: str | Sequence[str] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator[list[dict[str, Any]]]:
        """Answers questions.

        Args:
            image: An image; a list, `KeyDataset` or column of `datasets` of them; or, without `question`, `{"image":
                ..., "question": ...}`, a list of such dicts, or a dataset or generator of them. An image is a path,
                URL, base64 string or PIL image; BUTD also takes arrays and tensors.
            question (`str` or `list[str]`, *optional*): One question, or several. Several questions about several
                images are asked about each of them: all images for the first question, then for the next.
            top_k (`int`, *optional*): At most this many answers, the best first; 5 by default.
            batch_size (`int`, *optional*): Questions that go through the model together, 1 by default.
            padding, truncation (*optional*): As the tokenizer takes them; to the longest of the batch and, where the
                tokenizer knows a longest text, to that by default.
            timeout (`float`, *optional*): Seconds to wait for a URL.
            max_new_tokens (`int`), generate_kwargs (`dict`, *optional*): For models that generate their answers.

        Returns:
            For one question about one image, a list of `{"score": ..., "answer": ...}`; for several, a list of such
            lists; for a dataset or generator, an iterator of them. `ValueError` names what is wrong.
        """
        if image is None:
            raise ValueError("Cannot call the visual-question-answering pipeline without an image argument!")
        call = super(ButdImagePipeline, self).__call__  # of one input, or of many
        is_list = isinstance(image, Sequence) and not isinstance(image, (str, bytes))
        is_many = is_list or isinstance(image, Dataset) or hasattr(image, "column_names")
        if question is None:
            if not is_many or isinstance(image, Dataset):  # one dict, or a torch dataset or generator of them
                return call(image, **kwargs)
            rows = ({**row, "name": f"[{at}]"} if isinstance(row, dict) else row for at, row in enumerate(image))
            return list(call(rows, **kwargs))
        if isinstance(question, str) and not is_many:
            return call({"image": image, "question": question}, **kwargs)
        if not isinstance(question, (str, list, tuple)):
            raise ValueError(f"question: got {type(question).__name__}, expected a string or a list of strings.")
        questions = [question] if isinstance(question, str) else list(question)
        images = image if is_many else [image]
        pairs = (
            {"image": images[place], "question": asked, "name": f"[{number}]" if len(questions) > 1 else ""}
            for number, asked in enumerate(questions)
            for place in range(len(images))
        )
        return list(call(pairs, **kwargs))

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        timeout: float | None = None,
        max_new_tokens: int | None = None,
        generate_kwargs: dict | None = None,
    ) -> tuple[dict, dict, dict]:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        forward_params = given(padding=padding, truncation=truncation, max_new_tokens=max_new_tokens)
        return given(timeout=timeout), {**forward_params, **(generate_kwargs or {})}, given(top_k=top_k)

    def preprocess(self, inputs: dict[str, Any], timeout: float | None = None) -> dict[str, list]:
        """Reads an image. The rest waits until the batch is complete: images and questions are padded together."""
        if not isinstance(inputs, dict) or not {"image", "question"} <= inputs.keys():
            came = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(f"got {came}, expected a question, or a dict of 'image' and 'question'.")
        name, question = inputs.get("name", ""), inputs["question"]
        if not isinstance(question, str):
            raise ValueError(f"question{name}: got {type(question).__name__}, expected a string.")
        try:
            image = self.read(inputs["image"], timeout)
        except ValueError as error:
            raise ValueError(f"{error} (asked{name}: {question[:100]!r})") from error
        # in lists, because a lone tensor would be concatenated with the others of its batch
        return {"images": [image], "questions": [question]}

    def features(
        self, images: list[PIL.Image.Image], questions: list[str], padding: bool | str, truncation: bool | str | None
    ) -> BatchFeature:
        """What the model takes: images as tensors, questions as tokens."""
        if truncation is None:
            truncation = self.tokenizer.model_max_length < UNLIMITED_LENGTH
        options = {"padding": padding, "truncation": truncation, "return_tensors": "pt"}
        if self.processor is not None:
            return self.processor(images=images, text=questions, **options)
        features = BatchFeature(dict(self.tokenizer(questions, **options)))
        features.update(self.image_processor(images=images, return_tensors="pt"))
        return features

    def _forward(
        self,
        model_inputs: dict[str, list],
        padding: bool | str = True,
        truncation: bool | str | None = None,
        **generate_kwargs: Any,
    ) -> torch.Tensor:
        images, questions = self.batch(model_inputs, "images"), self.batch(model_inputs, "questions")
        features = self.features(images, questions, padding, truncation).to(self.device, dtype=self.dtype)
        if not self.model.can_generate():
            logits = self.model(**features).logits.float()  # (num_questions, num_labels)
            # CODEPATH: one answer was right in training, or each was by itself
            is_single = getattr(self.model.config, "problem_type", None) == "single_label_classification"
            return logits.softmax(dim=-1) if is_single else logits.sigmoid()
        return self.generate(features, len(questions), generate_kwargs)

    def postprocess(self, model_outputs: torch.Tensor, top_k: int = 5) -> list[dict[str, Any]]:
        if self.model.can_generate():
            return [{"score": None, "answer": text.strip()} for text in self.texts(model_outputs)]
        best = model_outputs[0].topk(min(top_k, model_outputs.shape[-1]))
        scored = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [{"score": score, "answer": self.model.config.id2label[label]} for score, label in scored]
