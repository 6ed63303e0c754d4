# SPDX-License-Identifier: Apache-2.0
"""Trained models that agree on an answer, to learn from where nobody gave one."""

from collections.abc import Sequence
from pathlib import Path

import torch

from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from ..modeling.processing_butd import ButdProcessor


class AnswerTeachers:
    """
    Several `ButdForQuestionAnswering`, whose opinion is the normalised geometric mean of their probabilities.

    Together they are right more often than each alone, and a model that learns their opinion is nearly as good as all
    of them (Hinton et al. 2015). On what they learned themselves they are too sure; about pictures and questions that
    they never saw together they tell most.
    """

    def __init__(self, models: Sequence[ButdForQuestionAnswering]):
        if not models:
            raise ValueError("models is empty, expected at least one teacher.")
        self.models = [model.eval().requires_grad_(False) for model in models]

    @classmethod
    def from_pretrained(
        cls, folders: Sequence[str | Path], model: ButdForQuestionAnswering, processor: ButdProcessor
    ) -> "AnswerTeachers":
        """
        Loads the teachers of a model.

        Raises:
            ValueError: One of them has other answers, reads other tokens or sees other regions than the model. The
                weights of its backbone aren't compared: they may have learned.
        """
        teachers = []
        for folder in folders:
            teacher = ButdForQuestionAnswering.from_pretrained(folder)
            tokens = ButdProcessor.from_pretrained(folder).tokenizer.get_vocab()
            for name, theirs, own in (
                ("answers", teacher.config.id2label, model.config.id2label),
                ("tokens", tokens, processor.tokenizer.get_vocab()),
                ("regions", kind_of_regions(teacher), kind_of_regions(model)),
            ):
                if theirs != own:
                    raise ValueError(
                        f"The teacher {folder} has other {name} than the model, expected one that learned from the "
                        "same data with the same bottom-up half."
                    )
            teachers.append(teacher)
        return cls(teachers)

    @torch.no_grad()
    def __call__(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """
        Args:
            batch: Inputs of the models; `labels` are not looked at.

        Returns:
            Probabilities of shape `(num_questions, num_labels)`.
        """
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        opinions = []
        for model in self.models:
            model.to(next(iter(inputs.values())).device)
            opinions.append(model(**inputs).logits.float().log_softmax(dim=-1))
        return torch.stack(opinions).mean(dim=0).softmax(dim=-1)


def kind_of_regions(model: ButdForQuestionAnswering) -> tuple[str, str, int]:
    """What regions are made by, and how large they are: models may share them if they agree on it."""
    config = model.config.bottom_up_config
    return config.backbone, config.selector, model.bottom_up.region_size


__all__ = ["AnswerTeachers"]
