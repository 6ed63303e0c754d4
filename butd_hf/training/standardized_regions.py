# SPDX-License-Identifier: Apache-2.0
"""What varies little from picture to picture is heard from the first step of training, too."""

import itertools

import numpy as np
import torch
from torch import nn

from ..data.region_store import RegionStore
from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering


STANDARDIZING_IMAGES = 256  # enough to know the mean and variance of each number


@torch.no_grad()
def standardize_regions(model: ButdForQuestionAnswering, store: RegionStore) -> None:
    """
    Lets the norm of regions give every number of theirs mean 0 and variance 1 over stored images, to begin with
    (data-dependent initialisation, Salimans and Kingma 2016).

    Raises:
        ValueError: The model has no such norm.
    """
    norm = getattr(model.top_down, "region_norm", None)
    if norm is None:
        raise ValueError(f"--standardize_regions: {type(model.top_down).__name__} has no norm of regions.")
    stored = [regions.features for _, _, regions in itertools.islice(store.stream(), STANDARDIZING_IMAGES)]
    features = torch.from_numpy(np.concatenate(stored).astype(np.float32))
    features = nn.functional.layer_norm(features, norm.normalized_shape, eps=norm.eps)  # (num_regions, region_size)
    std, mean = torch.std_mean(features, dim=0)
    norm.weight.copy_(1 / std.clamp(min=1e-3))
    norm.bias.copy_(-mean * norm.weight)


__all__ = ["standardize_regions"]
