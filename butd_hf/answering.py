# SPDX-License-Identifier: Apache-2.0
"""From pictures and questions to answers: the best of them, and where the model looked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.image_utils import ImageInput

from .modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from .modeling.processing_butd import ButdProcessor


@dataclass
class ImageAnswers:
    """
    Answers to a question about a picture, with the regions that they came from.

    Attributes:
        question: What was asked.
        answers: The best answers, best first.
        scores: Of each, in [0, 1].
        boxes: Regions of the picture, most salient first, as `x0, y0, x1, y1` in [0, 1]: (num_regions, 4).
        saliency: What ranked them: (num_regions,).
        attentions: Attention of each glimpse over the regions, each row sums to one: (num_glimpses, num_regions).
    """

    question: str
    answers: list[str]
    scores: list[float]
    boxes: np.ndarray
    saliency: np.ndarray
    attentions: np.ndarray


@torch.no_grad()
def answer_questions(
    model: ButdForQuestionAnswering,
    processor: ButdProcessor,
    images: Sequence[ImageInput],
    questions: Sequence[str],
    *,
    top_k: int = 5,
) -> list[ImageAnswers]:
    """
    Answers a batch of questions.

    Args:
        model: In evaluation mode, on any device.
        processor: What turns pictures and questions into the model's inputs.
        images: Anything that the image processor takes, one entry per question.
        questions: As many. What comes after the model's longest question isn't read.
        top_k: How many answers to each, at most.

    Returns:
        Answers to each question, in their order. Scores are probabilities that sum to one over all answers if the
        model's `problem_type` is `"single_label_classification"`, and each by itself otherwise.
    """
    inputs = processor(images=list(images), text=list(questions), return_tensors="pt").to(model.device, model.dtype)
    outputs = model(**inputs)
    logits = outputs.logits.float()  # (num_questions, num_labels)
    is_single = model.config.problem_type == "single_label_classification"
    scores = logits.softmax(dim=-1) if is_single else logits.sigmoid()
    scores, labels = scores.topk(min(top_k, scores.shape[-1]))  # (num_questions, top_k)

    mask = outputs.regions.mask.cpu().numpy()
    boxes = outputs.regions.boxes.float().cpu().numpy()
    saliency = outputs.regions.saliency.float().cpu().numpy()
    attentions = outputs.region_attentions.float().cpu().numpy()
    return [
        ImageAnswers(
            question=question,
            answers=[model.config.id2label[label] for label in labels[row].tolist()],
            scores=scores[row].tolist(),
            boxes=boxes[row, mask[row]],
            saliency=saliency[row, mask[row]],
            attentions=attentions[row][:, mask[row]],
        )
        for row, question in enumerate(questions)
    ]
