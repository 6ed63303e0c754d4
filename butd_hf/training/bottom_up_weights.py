# SPDX-License-Identifier: Apache-2.0
"""The bottom-up half of one checkpoint as the beginning of another model."""

from safetensors.torch import load_file
from torch import nn
from transformers.utils import cached_file


def load_bottom_up(model: nn.Module, checkpoint: str) -> None:
    """
    Loads the bottom-up half of any checkpoint of this package, in place.

    Args:
        model: Any task model of this package.
        checkpoint: Folder or Hub name of the checkpoint.

    Raises:
        ValueError: It lacks weights that the model's bottom-up half has, or they have other shapes.
    """
    weights = load_file(cached_file(checkpoint, "model.safetensors"))
    prefix = "bottom_up."
    found = {name[name.index(prefix) + len(prefix) :]: value for name, value in weights.items() if prefix in name}
    bottom_up = model.base_model.bottom_up
    wanted = bottom_up.state_dict()
    counters = tuple(name for name in wanted if name.endswith("num_batches_tracked"))  # frozen batch norms have none
    missing = [
        name
        for name, value in wanted.items()
        if name not in counters and (name not in found or found[name].shape != value.shape)
    ]
    if missing:
        raise ValueError(
            f"{checkpoint} doesn't fit the selector {bottom_up.config.selector!r}: {len(missing)} of {len(wanted)} "
            f"tensors are missing or of another shape, the first is {missing[0]!r}."
        )
    # a selector may need less than the checkpoint has: the grid of a detector takes its backbone alone
    bottom_up.load_state_dict({name: value for name, value in found.items() if name in wanted}, strict=False)
