# SPDX-License-Identifier: Apache-2.0
"""Losses of captions and answers."""

import torch
from torch import nn

from ..configuration_butd import ButdConfig


SINGLE, SOFT = "single_label_classification", "multi_label_classification"  # transformers' names of problem types


def class_loss(
    logits: torch.Tensor,  # (..., num_classes): scores of tokens or answers
    labels: torch.Tensor,  # (...): the right ones, -100 where none counts
    config: ButdConfig,
    num_items: torch.Tensor | int | None = None,  # labels that count in all batches of a step, said by the trainer
) -> torch.Tensor:
    """Mean cross-entropy with `config.label_smoothing`."""
    loss = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten().long(),
        reduction="mean" if num_items is None else "sum",
        label_smoothing=config.label_smoothing,
    )
    return loss if num_items is None else loss / num_items


def answer_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: ButdConfig, num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Loss of logits `(num_questions, num_labels)`: by `config.problem_type`, or without it by the kind of labels.

    Labels are soft scores in [0, 1], floats of the shape of `logits`, for binary cross-entropy summed over the
    answers; or one answer each, integers `(num_questions,)`, for `class_loss`. `ValueError` if they fit neither.
    """
    problem = config.problem_type or (SOFT if labels.is_floating_point() else SINGLE)
    # CODEPATH: checkpoints learn from soft scores or from one answer to each question
    if problem == SOFT and labels.shape == logits.shape:
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="sum")
        return loss / (labels.shape[0] if num_items is None else num_items / logits.shape[-1])
    if problem == SINGLE and labels.shape == logits.shape[:1]:
        return class_loss(logits, labels, config, num_items)
    raise ValueError(
        f"`labels` has shape {tuple(labels.shape)} and dtype {labels.dtype} with problem_type={problem!r}, "
        f"expected float scores {tuple(logits.shape)} for {SOFT!r} or integers {tuple(logits.shape[:1])} for "
        f"{SINGLE!r}."
    )
