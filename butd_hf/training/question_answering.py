# SPDX-License-Identifier: Apache-2.0
"""Question answering: images or stored regions with questions in, the best answers scored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn

from ..data.answers import TargetForm, answer_scores
from ..data.transforms import Augmentation, mirror_caption
from ..metrics.question_answering import score_answers
from ..modeling.configuration_butd import ButdConfig
from ..modeling.processing_butd import ButdProcessor
from .collators import collate_images, draw, read_image
from .task import Task


QUESTION_COLUMNS = ("question_id", "question", "answers", "together", "question_type", "answer_type")


class QuestionTask(Task):
    """Rows of `group_questions` for a `ButdForQuestionAnswering`.

    Where an image is mirrored, left and right change places in questions and answers, too.

    Args:
        processor: Prepares images and questions.
        config: Of the model, whose `label2id` are the answers. With the `problem_type`
            `"multi_label_classification"` every answer is scored against how right it is; else one right answer is
            drawn, the more often the more it is right.
        questions_per_image: Questions drawn of each row in training; 0 for all.
        form: How answers of several people count, see `answer_scores`.
        max_length: Longest question in tokens; longer ones are cut.
        augmentation: Of images in training.
    """

    name = "visual-question-answering"

    def __init__(
        self,
        processor: ButdProcessor,
        config: ButdConfig,
        *,
        questions_per_image: int = 0,
        form: TargetForm = "leave_one_out",
        max_length: int = 32,
        augmentation: Augmentation | None = None,
    ):
        self.processor = processor
        self.label2id: dict[str, int] = config.label2id
        self.answers = [config.id2label[label] for label in range(config.num_labels)]
        self.soft = config.problem_type == "multi_label_classification"
        self.questions_per_image = questions_per_image
        self.form = form
        self.max_length = max_length
        self.augmentation = augmentation

    def read(self, row: dict[str, Any], rng: np.random.Generator | None, source: Any) -> dict[str, Any]:
        image, mirrored = read_image(row, rng, source.store, self.augmentation)
        places = list(range(len(row["question"])))
        if rng is not None and self.questions_per_image:
            places = draw(places, self.questions_per_image, rng)
        questions = [row["question"][place] for place in places]
        scores = [
            answer_scores(row["answers"][place], together=row["together"][place], form=self.form) for place in places
        ]
        if mirrored:
            questions = [mirror_caption(question) for question in questions]
            scores = [{mirror_caption(answer): score for answer, score in each.items()} for each in scores]
        targets = [self.target(each, rng) for each in scores]
        return {**image, "questions": questions, "targets": targets}

    def target(self, scores: dict[str, float], rng: np.random.Generator | None) -> np.ndarray | int:
        """How right each of the model's answers is: (num_labels,); or the label of one, -100 if it knows none."""
        known = {self.label2id[answer]: score for answer, score in scores.items() if answer in self.label2id}
        if self.soft:
            target = np.zeros(len(self.answers), dtype=np.float32)
            target[list(known)] = list(known.values())
            return target
        if not known:
            return -100
        labels, weights = np.array(list(known)), np.array(list(known.values()))
        return int(labels[weights.argmax()] if rng is None else rng.choice(labels, p=weights / weights.sum()))

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        questions = [question for sample in samples for question in sample["questions"]]
        options = {"truncation": True, "max_length": self.max_length}
        encoded = self.processor(text=questions, return_tensors="pt", **options)
        targets = np.stack([target for sample in samples for target in sample["targets"]])
        return {
            **collate_images(samples, self.processor),
            **{name: encoded[name] for name in ("input_ids", "attention_mask")},
            "labels": torch.from_numpy(targets),  # (num_questions, num_labels) or (num_questions,)
        }

    def predict(self, model: nn.Module, outputs: Any, rows: Sequence[Any], **options: Any) -> list[list[str]]:
        answers = iter(self.answers[label] for label in outputs.logits.argmax(dim=-1).tolist())
        return [[next(answers) for _ in row["question"]] for row in rows]

    def score(self, predictions: Sequence[list[str]], rows: Sequence[Any]) -> dict[str, float]:
        references = [answers for row in rows for answers in row["answers"]]
        together = {each for row in rows for each in row["together"]}
        if len(together) > 1:
            raise ValueError("The evaluation mixes questions whose answers are right together with others.")
        answers = [answer for each in predictions for answer in each]
        return score_answers(answers, references, together=together.pop())

    def line(self, prediction: list[str], row: dict[str, Any]) -> dict[str, Any]:
        answers = [
            {"question_id": number, "question": question, "prediction": answer, "references": references}
            for number, question, answer, references in zip(
                row["question_id"], row["question"], prediction, row["answers"], strict=True
            )
        ]
        return {"image_id": row["image_id"], "answers": answers}


def group_questions(table: Dataset, by_image: bool) -> Dataset:
    """Rows of `load_questions` as rows of an image with a list of its questions; of one each unless `by_image`."""
    groups: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(table):
        key = row["image_id"] if by_image else number
        group = groups.setdefault(key, {"image": row["image"], "image_id": row["image_id"]})
        for name in QUESTION_COLUMNS:
            group.setdefault(name, []).append(row[name])
    return Dataset.from_list(list(groups.values()))


__all__ = ["QuestionTask", "group_questions"]
