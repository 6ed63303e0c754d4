# SPDX-License-Identifier: Apache-2.0
"""Rank features of a pair of regions: how many pairs with the same labels are nearer."""

import torch

from .pair_selection import pair_geometry


NUM_RANKS = 27
TIE_BREAK = 0.01  # weight of the distance of centres where the other distances are equal


def pair_ranks(
    boxes: torch.Tensor,  # (batch_size, num_regions, 4): `x0, y0, x1, y1` in [0, 1]
    labels: torch.Tensor,  # (batch_size, num_regions): labels of the regions
    mask: torch.Tensor,  # (batch_size, num_regions): true where there is a region
    pairs: torch.Tensor,  # (batch_size, num_pairs, 2): subjects and objects
) -> torch.Tensor:
    """
    Ranks of each pair among the pairs with the same subject and another object, and the other way round.

    People relate the nearest of several objects with one label. Memory grows with pairs times regions.

    Returns:
        Shape `(batch_size, num_pairs, 27)`. Of each of three distances (between centres, between edges, and how little
        one lies within the other), for other objects and for other subjects: the logarithm of one more than how many
        of the same label are nearer, whether none is, and both of any label. Then the logarithms of how many regions
        there are with the label of the subject, of the object, and at all.
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
