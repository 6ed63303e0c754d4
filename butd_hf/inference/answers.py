# SPDX-License-Identifier: Apache-2.0
"""From images and questions to answers, with the regions that they came from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.image_utils import ImageInput

from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from ..modeling.processing_butd import ButdProcessor
from .regions import ImageRegions, read_regions


@dataclass(kw_only=True)
class ImageAnswers(ImageRegions):
    """Answers to a question about an image, with the regions that they came from.

    Attributes:
        question: The question.
        answers: The best answers, best first.
        scores: Of each, in [0, 1].
        attentions: Attention of each hop over the regions, each row sums to one: (num_hops, num_regions).
    """

    question: str
    answers: list[str]
    scores: list[float]
    attentions: np.ndarray


def answer_scores(model: ButdForQuestionAnswering, logits: torch.Tensor) -> torch.Tensor:
    """Scores in [0, 1] from logits, both (num_questions, num_labels).

    They sum to one over all answers if the model's `problem_type` is `"single_label_classification"`; otherwise each
    answer has a probability of its own.
    """
    is_single = model.config.problem_type == "single_label_classification"
    return logits.float().softmax(dim=-1) if is_single else logits.float().sigmoid()


@torch.no_grad()
def answer_questions(
    model: ButdForQuestionAnswering,
    processor: ButdProcessor,
    images: Sequence[ImageInput],
    questions: Sequence[str],
    *,
    top_k: int = 5,
) -> list[ImageAnswers]:
    """Answers a batch of questions.

    Args:
        model: In evaluation mode, on any device.
        processor: What makes the model's inputs.
        images: Anything that the image processor takes, one entry per question.
        questions: As many. What exceeds the model's longest question is ignored.
        top_k: How many answers to each, at most.

    Returns:
        Answers to each question, in their order; for their scores see `answer_scores`.
    """
    inputs = processor(images=list(images), text=list(questions), return_tensors="pt").to(model.device, model.dtype)
    outputs = model(**inputs)
    scores = answer_scores(model, outputs.logits)
    scores, labels = scores.topk(min(top_k, scores.shape[-1]))  # (num_questions, top_k)
    attentions, exists = outputs.region_attentions.float().cpu().numpy(), outputs.regions.mask.cpu().numpy()
    return [
        ImageAnswers(
            **vars(regions),
            question=questions[row],
            answers=[model.config.id2label[label] for label in labels[row].tolist()],
            scores=scores[row].tolist(),
            attentions=attentions[row][:, exists[row]],
        )
        for row, regions in enumerate(read_regions(outputs.regions))
    ]
