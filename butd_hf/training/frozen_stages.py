# SPDX-License-Identifier: Apache-2.0
"""Frozen first stages of a backbone, run once per view of an image instead of once per epoch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..data.region_rows import StoredRegions
from ..modeling.regions import ButdRegions


def pass_through(hidden_states: torch.Tensor) -> torch.Tensor:
    """What a skipped module does."""
    return hidden_states


class FrozenStages(nn.Module):
    """
    The first stages of a backbone as a selector: its regions are the cells of their feature map, in reading order.

    A region store keeps them like any others; `skip` then makes the backbone go on from there.

    Args:
        backbone: transformers' `TimmBackbone`, or a timm feature extractor, whose stages follow one another.
        stages: How many of the feature levels that timm lists for the backbone.

    Raises:
        ValueError: The backbone has fewer stages, or none that are modules of their own.
    """

    def __init__(self, backbone: nn.Module, stages: int):
        super().__init__()
        backbone = getattr(backbone, "_backbone", backbone)
        levels = [info["module"] for info in backbone.feature_info.info]
        if not 0 < stages <= len(levels):
            raise ValueError(f"stages must be 1 to {len(levels)} for this backbone, got {stages}.")
        self.units = nn.ModuleDict(
            {name.replace(".", "_"): unit for name, unit in units(backbone, levels[stages - 1])}
        )

    def forward(self, pixel_values: torch.Tensor) -> ButdRegions:
        hidden_states = pixel_values
        for unit in self.units.values():
            hidden_states = unit(hidden_states)  # (batch_size, num_channels, height, width)
        batch_size, _, height, width = hidden_states.shape
        cell = torch.arange(height * width, device=hidden_states.device)
        top, left = torch.div(cell, width, rounding_mode="floor"), cell % width
        corners = torch.stack([left, top, left + 1, top + 1], dim=-1)  # (height * width, 4)
        boxes = corners / corners.new_tensor([width, height, width, height])
        mask = torch.ones(batch_size, height * width, dtype=torch.bool, device=hidden_states.device)
        return ButdRegions(
            features=hidden_states.flatten(2).transpose(1, 2),  # (batch_size, height * width, num_channels)
            boxes=boxes.expand(batch_size, -1, -1),
            saliency=mask.float(),
            mask=mask,
        )

    @torch.no_grad()
    def skip(self, backbone: nn.Module, pixel_values: torch.Tensor) -> None:
        """
        Makes the backbone take the stages' output in place of images. Its weights stay where they are.

        Args:
            backbone: The one that the stages are of.
            pixel_values: Any images of the size in use, `(batch_size, 3, height, width)`, to try it on.

        Raises:
            ValueError: The backbone isn't a sequence of its stages, or returns maps of those to be skipped.
        """
        was_training = backbone.training
        backbone.eval()
        expected = backbone(pixel_values)
        regions = self(pixel_values)
        for unit in self.units.values():
            unit.forward = pass_through
        found = backbone(cells_to_map(regions.features, regions.boxes))
        backbone.train(was_training)
        pairs = zip(getattr(expected, "feature_maps", expected), getattr(found, "feature_maps", found), strict=True)
        if any(one.shape != other.shape or not torch.allclose(one, other, atol=1e-4) for one, other in pairs):
            raise ValueError(
                "These stages can't be run apart: the backbone isn't a sequence of stages, or returns their maps."
            )


def units(backbone: nn.Module, last_module: str) -> list[tuple[str, nn.Module]]:
    """The modules that data passes up to and with the last one, as large as they come, with their names."""
    names = dict(backbone.named_modules())
    # timm's feature extractors flatten `stages.0` to `stages_0`
    last_module = last_module if last_module in names else last_module.replace(".", "_")
    if last_module not in names:
        raise ValueError(f"The stages of {type(backbone).__name__} can't be run apart: it has no {last_module!r}.")
    path = last_module.split(".")
    found: list[tuple[str, nn.Module]] = []
    parent, prefix = backbone, ""
    for part in path:
        for name, child in parent.named_children():
            if name == part:
                break
            found.append((prefix + name, child))
        parent, prefix = getattr(parent, part), f"{prefix}{part}."
    return [*found, (prefix.removesuffix("."), parent)]


def cells_to_map(features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """
    The feature map whose cells in reading order are given, channels last in memory.

    Args:
        features: `(batch_size, height * width, num_channels)`.
        boxes: `(batch_size, height * width, 4)`, of which the first tells how many cells there are to a side.
    """
    width, height = (1 / boxes[0, 0, 2:]).round().long().tolist()
    return features.unflatten(1, (height, width)).permute(0, 3, 1, 2)  # (batch_size, num_channels, height, width)


def collate_cells(regions: Sequence[StoredRegions]) -> dict[str, torch.Tensor]:
    """A batch of maps of frozen stages, for a backbone that skips them; images must be of one size."""
    features = torch.from_numpy(np.stack([each.features for each in regions]).astype(np.float32))
    return {"pixel_values": cells_to_map(features, torch.from_numpy(regions[0].boxes)[None])}
