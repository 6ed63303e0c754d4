# SPDX-License-Identifier: Apache-2.0
"""Scores that mean what they say: of the objects that score 0.9, nine in ten are right."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import box_iou


OVERLAP = 0.5  # with an object of its class, from which one that was found is right


def calibrate_scores(model: nn.Module, lines: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """
    Scales and shifts a detector's class logits (Platt 1999) so that scores are the shares of objects that were right.

    Losses that let a score say how well its box fits make confident scores rare, whereas the thresholds that people
    and pipelines use (0.5, 0.9) read them as probabilities. The order of objects stays, and with it the average
    precision. What changes are the weights and the bias of the last layer's classifier.

    Args:
        model: `ButdForObjectDetection` or `ButdForInstanceSegmentation`, changed in place.
        lines: Of a predictions file: for each image what was found (`objects`) and what is there (`references`).

    Returns:
        The scale and the shift.

    Raises:
        ValueError: Nothing that was found is right, or nothing is wrong; or a better score is no better sign.
    """
    scores, right = map(torch.cat, zip(*map(outcomes, lines), strict=True))
    if right.all() or not right.any():
        raise ValueError(f"`lines` hold {len(right)} found objects, expected right and wrong ones among them.")
    scale, shift = fit_logistic(scores.double().logit(eps=1e-6), right.double())
    if scale <= 0:
        raise ValueError(f"`lines` give a scale of {scale:.3g}, expected a positive one: better scores, more right.")
    classifier = model.top_down.layers[-1].class_proj
    with torch.no_grad():
        classifier.weight.mul_(scale)
        classifier.bias.mul_(scale).add_(shift)
    return scale, shift


def outcomes(line: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Scores of the objects found in an image, best first, and which of them are right: `(num_objects,)` each.

    An object that is there is found once. What is found in a crowd counts as neither right nor wrong.
    """
    found = sorted(line["objects"], key=lambda each: -each["score"])
    there = line["references"]
    if not found:
        return torch.zeros(0), torch.zeros(0, dtype=torch.bool)
    scores = torch.tensor([each["score"] for each in found])
    boxes = torch.tensor([each["box"] for each in there], dtype=torch.float32).reshape(-1, 4)
    overlaps = box_iou(torch.tensor([each["box"] for each in found], dtype=torch.float32), boxes)
    alike = torch.tensor([[one["label"] == other["label"] for other in there] for one in found], dtype=torch.bool)
    overlaps = overlaps.masked_fill(~alike.reshape(overlaps.shape), 0.0)
    crowds = torch.tensor([bool(each["iscrowd"]) for each in there], dtype=torch.bool)
    right, ignored = (torch.zeros(len(found), dtype=torch.bool) for _ in range(2))
    for row, overlap in enumerate(overlaps):
        if (overlap > OVERLAP).any():
            best = int(overlap.masked_fill(crowds, -1.0).argmax())
            if overlap[best] > OVERLAP and not crowds[best]:
                right[row] = True
                overlaps[:, best] = 0.0
            else:
                ignored[row] = True
    return scores[~ignored], right[~ignored]


def fit_logistic(logits: torch.Tensor, right: torch.Tensor) -> tuple[float, float]:
    """Scale and shift under which the sigmoids of `logits` (n,) are the likeliest probabilities of `right` (n,)."""
    parameters = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(parameters[0] * logits + parameters[1], right)
        loss.backward()
        return loss

    optimizer.step(closure)
    scale, shift = parameters.tolist()
    return scale, shift
