# SPDX-License-Identifier: Apache-2.0
"""Pairs of regions: geometry features of two boxes, and the selection of the most likely pairs."""

import torch
from torch import nn

from ..configuration_butd import ButdTopDownConfig


NUM_GEOMETRY = 14  # features of a pair of boxes
PAIR_RANK = 64  # products of subject and object that make a pair's score
GEOMETRY_SIZE = 16  # hidden units of what geometry adds to it
FINENESS = 1024  # steps between scores that differ by 1; those closer than one are equal


def pair_geometry(
    subjects: torch.Tensor,  # (..., 4): `x0, y0, x1, y1` in [0, 1]
    objects: torch.Tensor,  # (..., 4): the same; shapes broadcast
) -> torch.Tensor:
    """
    Geometry features of two boxes, numbers of moderate size.

    Returns:
        `torch.FloatTensor` of shape `(..., 14)`: offset of the centres in the subject's sides (logarithmic), in the
        object's, and in the image's; log ratios of width and height; intersection over union, the share of the subject
        in the object and of the object in the subject; gaps between the boxes across and down, negative where they
        overlap; area of the union's box.
    """
    subjects, objects = torch.broadcast_tensors(subjects.float(), objects.float())
    subject_size = (subjects[..., 2:] - subjects[..., :2]).clamp(min=1e-3)
    object_size = (objects[..., 2:] - objects[..., :2]).clamp(min=1e-3)
    offset = (objects[..., 2:] + objects[..., :2] - subjects[..., 2:] - subjects[..., :2]) / 2
    low = torch.maximum(subjects[..., :2], objects[..., :2])
    high = torch.minimum(subjects[..., 2:], objects[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1, keepdim=True)
    subject_area, object_area = (size.prod(dim=-1, keepdim=True) for size in (subject_size, object_size))
    union = union_boxes(subjects, objects)
    return torch.cat(
        [
            torch.asinh(offset / subject_size),
            torch.asinh(offset / object_size),
            offset,
            (object_size / subject_size).log(),
            shared / (subject_area + object_area - shared).clamp(min=1e-6),
            shared / subject_area,
            shared / object_area,
            low - high,
            (union[..., 2:] - union[..., :2]).prod(dim=-1, keepdim=True),
        ],
        dim=-1,
    )  # (..., NUM_GEOMETRY)


def union_boxes(subjects: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """The smallest boxes around both, `x0, y0, x1, y1`: `(..., 4)`."""
    low = torch.minimum(subjects[..., :2], objects[..., :2])
    return torch.cat([low, torch.maximum(subjects[..., 2:], objects[..., 2:])], dim=-1)


def gather_pairs(values: torch.Tensor, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of `values` `(batch_size, num_regions, size)` of the subject and of the object of each pair."""
    batch_size, num_pairs, _ = pairs.shape
    rows = values.gather(1, pairs.reshape(batch_size, -1, 1).expand(-1, -1, values.shape[-1]))
    subjects, objects = rows.view(batch_size, num_pairs, 2, -1).unbind(dim=2)
    return subjects, objects  # each (batch_size, num_pairs, size)


class ButdPairScorer(nn.Module):
    """
    How likely two regions are related at all, cheap enough for every pair: a bilinear form of low rank, and the
    geometry (the relation proposal network of Yang et al. 2018, "Graph R-CNN", which has no geometry).
    """

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.subject_proj = nn.Linear(config.hidden_size, PAIR_RANK)
        self.object_proj = nn.Linear(config.hidden_size, PAIR_RANK)
        self.measures_proj = nn.Linear(NUM_GEOMETRY, GEOMETRY_SIZE)
        self.act_fn = nn.GELU()
        self.score_proj = nn.Linear(GEOMETRY_SIZE, 1)

    def geometry_scores(self, subjects: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        geometry = pair_geometry(subjects, objects).to(self.measures_proj.weight.dtype)
        return self.score_proj(self.act_fn(self.measures_proj(geometry)))[..., 0].float()

    def forward(self, hidden_states: torch.Tensor, boxes: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """Scores `(batch_size, num_pairs)` of pairs `(batch_size, num_pairs, 2)`."""
        subjects, _ = gather_pairs(self.subject_proj(hidden_states), pairs)
        _, objects = gather_pairs(self.object_proj(hidden_states), pairs)
        scores = (subjects * objects).sum(dim=-1).float() * PAIR_RANK**-0.5
        return scores + self.geometry_scores(*gather_pairs(boxes, pairs))

    @torch.no_grad()
    def select(
        self,
        hidden_states: torch.Tensor,
        boxes: torch.Tensor,
        mask: torch.Tensor,
        budget: int,
        required: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The best pairs of different regions.

        Args:
            hidden_states (`torch.FloatTensor` of shape `(batch_size, num_regions, hidden_size)`): The regions.
            boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`): `x0, y0, x1, y1`.
            mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`): True where there is a region.
            budget (`int`): At most this many pairs per image.
            required (`tuple`, *optional*): Rows of the batch `(num_required,)`, and pairs in them as
                `subject * num_regions + object` `(num_required,)`, that are kept before all others.

        Returns:
            Pairs of shape `(batch_size, num_pairs, 2)`, best first and of equals the one with the lower subject, then
            with the lower object, and a mask `(batch_size, num_pairs)`, True where there is a pair. `num_pairs` is the
            budget, or the number of ordered pairs of regions where that is less, but at least one.
        """
        num_regions = mask.shape[1]
        budget = max(min(budget, num_regions * (num_regions - 1)), 1)  # at least one, masked: no empty shapes
        objects = self.object_proj(hidden_states).transpose(1, 2)  # (batch_size, rank, num_regions)
        scores = torch.matmul(self.subject_proj(hidden_states), objects).float() * PAIR_RANK**-0.5
        scores = scores + self.geometry_scores(boxes[:, :, None], boxes[:, None])  # (batch_size, subjects, objects)
        # whole steps: equal pairs stay equal whatever the rounding of sums
        scores = (scores.nan_to_num() * FINENESS).round().flatten(1)  # (batch_size, num_regions * num_regions)
        if required is not None:
            scores[required] = torch.finfo(scores.dtype).max
        is_other = ~torch.eye(num_regions, dtype=torch.bool, device=mask.device)
        exists = (mask[:, :, None] & mask[:, None] & is_other).flatten(1)
        scores, ids = scores.masked_fill(~exists, -torch.inf).sort(dim=1, descending=True, stable=True)
        pair_mask = scores[:, :budget] > -torch.inf
        ids = ids[:, :budget] * pair_mask
        pairs = torch.stack([torch.div(ids, num_regions, rounding_mode="floor"), ids % num_regions], dim=-1)
        return pairs, pair_mask  # (batch_size, budget, 2), (batch_size, budget)
