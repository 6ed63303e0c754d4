# SPDX-License-Identifier: Apache-2.0
"""Pairs of regions: geometry features of two boxes, ranks among other pairs, and the most likely pairs."""

import torch
from torch import nn

from ..configuration_butd import ButdTopDownConfig


NUM_GEOMETRY = 14  # features of a pair of boxes
PAIR_RANK = 64  # products of subject and object that make a pair's score
GEOMETRY_SIZE = 16  # hidden units of what geometry adds to it
NUM_RANKS = 27  # features of a pair beside others
TIE_BREAK = 0.01  # weight of the distance of centres where the other distances are equal
FINENESS = 1024  # steps between scores that differ by 1; those closer than one are equal


def pair_geometry(
    subjects: torch.Tensor,  # (..., 4): `x0, y0, x1, y1` in [0, 1]
    objects: torch.Tensor,  # (..., 4): the same; shapes broadcast
) -> torch.Tensor:
    """Geometry features of two boxes, `(..., 14)`: offset of the centres in the subject's sides (logarithmic), in the
    object's, and in the image's; log ratios of width and height; intersection over union, the share of the subject in
    the object and of the object in the subject; gaps between the boxes across and down, negative where they overlap;
    area of the union's box.
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


def pair_ranks(
    boxes: torch.Tensor,  # (batch_size, num_regions, 4): `x0, y0, x1, y1` in [0, 1]
    labels: torch.Tensor,  # (batch_size, num_regions): labels of the regions
    mask: torch.Tensor,  # (batch_size, num_regions): true where there is a region
    pairs: torch.Tensor,  # (batch_size, num_pairs, 2): subjects and objects
) -> torch.Tensor:
    """Ranks `(batch_size, num_pairs, 27)` of each pair among those with the same subject or the same object: people
    relate the nearest of several objects with one label. Memory grows with pairs times regions.

    Of each of three distances (between centres, between edges, and how little one lies within the other), for other
    objects and for other subjects: the logarithm of one more than how many of the same label are nearer, whether none
    is, and both of any label. Then the logarithms of how many regions there are with the label of the subject, of the
    object, and at all.
    """
    values = []
    ends = pairs.unbind(dim=-1)  # subjects and objects, each (batch_size, num_pairs)
    alike = [labels.gather(1, end)[..., None] == labels[:, None] for end in ends]
    places = torch.arange(boxes.shape[1], device=boxes.device)
    for fixed, varied, same in ((ends[0], ends[1], alike[1]), (ends[1], ends[0], alike[0])):
        fixed_boxes = boxes.gather(1, fixed[..., None].expand(-1, -1, 4))
        others = mask[:, None] & (places != fixed[..., None])  # (batch_size, num_pairs, num_regions)
        for distance in distances(fixed_boxes, boxes):
            nearer = (distance < distance.gather(2, varied[..., None])) & others
            for counted in (nearer & same, nearer):
                number = counted.sum(dim=-1).float()
                values += [number.log1p(), (number == 0).float()]
    values += [(same & mask[:, None]).sum(dim=-1).clamp(min=1).log() for same in alike]
    values.append(mask.sum(dim=1, keepdim=True).clamp(min=1).log().expand(-1, pairs.shape[1]))
    return torch.stack(values, dim=-1)  # (batch_size, num_pairs, NUM_RANKS)


def distances(boxes: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three distances of boxes (batch_size, num_pairs, 4) to all of (batch_size, num_regions, 4)."""
    geometry = pair_geometry(boxes[:, :, None], others[:, None])  # (batch_size, num_pairs, num_regions, 14)
    centres = geometry[..., 4:6].norm(dim=-1)
    edges = geometry[..., 11:13].clamp(min=0).norm(dim=-1)
    within = torch.maximum(geometry[..., 9], geometry[..., 10])
    return centres, edges + TIE_BREAK * centres, TIE_BREAK * centres - within


class ButdPairScorer(nn.Module):
    """How likely two regions are related at all, cheap enough for every pair: a bilinear form of low rank, and the
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
        hidden_states: torch.Tensor,  # (batch_size, num_regions, hidden_size)
        boxes: torch.Tensor,  # (batch_size, num_regions, 4): `x0, y0, x1, y1`
        mask: torch.Tensor,  # (batch_size, num_regions): true where there is a region
        budget: int,  # at most this many pairs per image
        required: torch.Tensor | None = None,  # (batch_size, num_regions, num_regions): kept before all others
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best pairs of different regions `(batch_size, num_pairs, 2)`, best first and of equals the one with the
        lower subject, then with the lower object; and a mask `(batch_size, num_pairs)`, True where there is a pair.
        `num_pairs` is the budget, or the number of ordered pairs of regions where that is less, but at least one.
        """
        num_regions = mask.shape[1]
        budget = max(min(budget, num_regions * (num_regions - 1)), 1)  # at least one, masked: no empty shapes
        objects = self.object_proj(hidden_states).transpose(1, 2)  # (batch_size, rank, num_regions)
        scores = torch.matmul(self.subject_proj(hidden_states), objects).float() * PAIR_RANK**-0.5
        scores = scores + self.geometry_scores(boxes[:, :, None], boxes[:, None])  # (batch_size, subjects, objects)
        # whole steps: equal pairs stay equal whatever the rounding of sums
        scores = (scores.nan_to_num() * FINENESS).round().flatten(1)  # (batch_size, num_regions * num_regions)
        if required is not None:
            scores = scores.masked_fill(required.flatten(1), torch.finfo(scores.dtype).max)
        is_other = ~torch.eye(num_regions, dtype=torch.bool, device=mask.device)
        exists = (mask[:, :, None] & mask[:, None] & is_other).flatten(1)
        scores, ids = scores.masked_fill(~exists, -torch.inf).sort(dim=1, descending=True, stable=True)
        pair_mask = scores[:, :budget] > -torch.inf
        ids = ids[:, :budget] * pair_mask
        pairs = torch.stack([torch.div(ids, num_regions, rounding_mode="floor"), ids % num_regions], dim=-1)
        return pairs, pair_mask  # (batch_size, budget, 2), (batch_size, budget)
