# SPDX-License-Identifier: Apache-2.0
"""How a pair of regions stands among its rivals: the pairs that people could have meant instead."""

import torch

from .pair_selection import pair_measures


NUM_STANDINGS = 27
NUDGE = 0.01  # what the distance of centres adds where two overlap alike


def pair_standings(boxes: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """
    How each pair stands among the pairs with the same subject and another object, and the other way round.

    People relate the nearest of several things with one name. Memory grows with pairs times regions.

    Args:
        boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`): `x0, y0, x1, y1` in [0, 1].
        labels (`torch.LongTensor` of shape `(batch_size, num_regions)`): What the regions are.
        mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`): True where there is a region.
        pairs (`torch.LongTensor` of shape `(batch_size, num_pairs, 2)`): Subjects and objects.

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
            for rivals in (nearer & same, nearer):
                number = rivals.sum(dim=-1).float()
                values += [number.log1p(), (number == 0).float()]
    values += [(same & mask[:, None]).sum(dim=-1).clamp(min=1).log() for same in alike]
    values.append(mask.sum(dim=1, keepdim=True).clamp(min=1).log().expand(-1, pairs.shape[1]))
    return torch.stack(values, dim=-1)  # (batch_size, num_pairs, NUM_STANDINGS)


def distances(boxes: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three distances of boxes (batch_size, num_pairs, 4) to all of (batch_size, num_regions, 4)."""
    measures = pair_measures(boxes[:, :, None], others[:, None])  # (batch_size, num_pairs, num_regions, 14)
    centres = measures[..., 4:6].norm(dim=-1)
    edges = measures[..., 11:13].clamp(min=0).norm(dim=-1)
    within = torch.maximum(measures[..., 9], measures[..., 10])
    return centres, edges + NUDGE * centres, NUDGE * centres - within


__all__ = ["NUM_STANDINGS", "pair_standings"]
