# SPDX-License-Identifier: Apache-2.0
"""A question answering checkpoint, loaded, and many questions run through it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..detection import prepare_pictures
from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from ..modeling.processing_butd import ButdProcessor
from .detector import analyse
from .loading import load_checkpoint


@dataclass
class AnsweredQuestion:
    """A question with the best answer and its score in [0, 1], or the reason why it has none."""

    row: dict[str, Any]
    answer: str | None = None
    score: float | None = None
    error: str | None = None


@dataclass
class Answerer:
    """
    A model ready to answer.

    Attributes:
        name: Folder or Hub name of its checkpoint.
        model: In evaluation mode, on its device.
        processor: What belongs to it.
    """

    name: str
    model: ButdForQuestionAnswering
    processor: ButdProcessor

    @classmethod
    def load(cls, name: str | None, device: str) -> "Answerer":
        """
        Loads a checkpoint, by default the one inside the package.

        Raises:
            typer.BadParameter: If there is none, it answers no questions, or there is no such device.
        """
        task = "visual-question-answering"
        return cls(*load_checkpoint(name, device, task, ButdForQuestionAnswering, ButdProcessor))

    def answer(self, rows: Sequence[dict[str, Any]], *, batch_size: int) -> Iterator[AnsweredQuestion]:
        """
        Answers questions, picture by picture in the order of their first question.

        Args:
            rows: With `image` (path) and `question`.
            batch_size: Pictures at a time.
        """
        about: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            about.setdefault(row["image"], []).append(row)
        image_processor = self.processor.image_processor
        photos = analyse(list(about), image_processor, self.look, batch_size=batch_size, what="answering")
        for photo in photos:
            asked = about[photo.source]
            if photo.error is not None:
                yield from (AnsweredQuestion(row, error=photo.error) for row in asked)
                continue
            scores = self.scores([row["question"] for row in asked], photo.found)
            for row, (score, label) in zip(asked, zip(*scores, strict=True), strict=True):
                yield AnsweredQuestion(row, self.model.config.id2label[label], round(score, 4))

    @torch.no_grad()
    def look(self, pictures: list[Any]) -> list[dict[str, torch.Tensor]]:
        """The regions of each picture, as the model takes them: a batch of one."""
        inputs = prepare_pictures(self.processor.image_processor, pictures, self.model)
        regions = self.model.base_model.bottom_up(**inputs)
        names = {"region_features": "features", "region_boxes": "boxes", "region_mask": "mask"}
        return [{name: regions[part][row : row + 1] for name, part in names.items()} for row in range(len(pictures))]

    @torch.no_grad()
    def scores(self, questions: list[str], regions: dict[str, torch.Tensor]) -> tuple[list[float], list[int]]:
        """The best answer to each question about one picture: its score in [0, 1] and its label."""
        encoded = self.processor(text=questions, return_tensors="pt")
        words = {name: encoded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        logits = self.model(**regions, **words).logits.float()  # (num_questions, num_labels)
        is_single = self.model.config.problem_type == "single_label_classification"
        best = (logits.softmax(dim=1) if is_single else logits.sigmoid()).max(dim=1)
        return best.values.tolist(), best.indices.tolist()
