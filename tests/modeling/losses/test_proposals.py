# SPDX-License-Identifier: Apache-2.0
"""Which cells and regions learn which object, and the boxes near labels."""

from types import SimpleNamespace

import pytest
import torch

from butd_hf.modeling.bottom_up.rpn import ButdProposals
from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.losses.proposals import assign_cells, noised_regions, proposal_losses
from butd_hf.modeling.losses.targets import match_boxes, prepare_targets


def target_of(boxes: list[list[float]], crowd: list[int] | None = None):
    labels = {"class_labels": torch.zeros(len(boxes), dtype=torch.long), "boxes": torch.tensor(boxes).reshape(-1, 4)}
    if crowd is not None:
        labels["iscrowd"] = torch.tensor(crowd)
    return prepare_targets([labels], ButdConfig(), 1)[0]


def test_cells_are_assigned_to_the_object_that_they_fit():
    points = torch.tensor([[0.25, 0.25], [0.3, 0.3], [0.75, 0.75], [0.95, 0.05]])
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.0, 0.0, 0.9, 0.9], [0.6, 0.6, 0.9, 0.9], [0.9, 0.0, 1.0, 0.1]])
    target = target_of([[0.25, 0.25, 0.3, 0.3], [0.75, 0.75, 0.3, 0.3]])
    matched, objectness, counted = assign_cells(points, boxes, torch.full((4,), 0.5), target)
    assert matched.tolist() == [0, 0, 1, -1]
    torch.testing.assert_close(objectness[[0, 2]], torch.ones(2))  # the best cell learns its fit, which is perfect
    assert 0 < objectness[1] < 0.01 and objectness[3] == 0
    assert counted.all()


def test_a_speck_takes_the_nearest_cell_and_crowds_count_for_none():
    points = torch.tensor([[0.25, 0.25], [0.75, 0.75]])
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    speck = target_of([[0.6, 0.7, 0.01, 0.01]])
    assert assign_cells(points, boxes, torch.full((2,), 0.5), speck)[0].tolist() == [-1, 0]
    crowd = target_of([[0.25, 0.25, 0.5, 0.5]], crowd=[1])
    matched, objectness, counted = assign_cells(points, boxes, torch.full((2,), 0.5), crowd)
    assert matched.tolist() == [-1, -1] and not objectness.any()
    assert counted.tolist() == [False, True]


def test_losses_of_proposals_by_hand():
    """One cell that fits half an object, one empty, one padding."""
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.75], [0.0, 0.0]]])
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.25], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    logits = torch.tensor([[0.3, -0.4, 5.0]])
    proposals = ButdProposals(logits=logits, boxes=boxes, points=points, mask=torch.tensor([[True, True, False]]))
    losses = proposal_losses(proposals, [target_of([[0.25, 0.25, 0.5, 0.5]])])
    positive, empty = logits[0, :2].sigmoid()
    matched = -0.5 * (0.5 * positive.log() + 0.5 * (1 - positive).log())  # weighed by the fit of 0.5
    expected = matched - 0.75 * empty**2 * (1 - empty).log()
    torch.testing.assert_close(losses["loss_objectness"], expected)
    torch.testing.assert_close(losses["loss_proposal_box"], torch.tensor(0.5 * 0.5))


def test_regions_match_the_object_that_they_overlap_most_by_half():
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.9], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.4, 0.4]]])
    mask = torch.tensor([[True, True, True, False]])
    target = target_of([[0.75, 0.75, 0.5, 0.5], [0.2, 0.2, 0.4, 0.4]])
    assert match_boxes(boxes, mask, [target]).tolist() == [[1, -1, 0, -1]]


def test_noised_boxes_stay_near_and_inside():
    selector = SimpleNamespace(region_head=lambda pyramid, boxes, saliency, mask: mask)
    target = target_of([[0.5, 0.5, 0.4, 0.2]] * 40)
    boxes, mask = noised_regions(selector, None, [target_of([[0.95, 0.1, 0.3, 0.3]] * 40), target, target_of([])])
    assert mask.sum(dim=1).tolist() == [80, 80, 0] and ((boxes >= 0) & (boxes <= 1)).all()
    boxes = boxes[1:]
    centre, size = (boxes[0, :40, :2] + boxes[0, :40, 2:]) / 2, boxes[0, :40, 2:] - boxes[0, :40, :2]
    assert ((centre - 0.5).abs() <= torch.tensor([0.08, 0.04]) + 1e-6).all()
    assert ((size / torch.tensor([0.4, 0.2]) - 1).abs() <= 0.4 + 1e-5).all()
    assert centre.std(dim=0).min() > 0.01 and size.std(dim=0).min() > 0.01
    assert noised_regions(selector, None, [target_of([[0.5, 0.5, 0.4, 0.2]] * 150)])[1].sum() == 200  # at most


@pytest.mark.parametrize("outside", [[0.5, 0.5, 0.0, 0.0], [2.0, 2.0, 0.1, 0.1], [float("nan"), 0.5, 0.1, 0.1]])
def test_boxes_without_area_are_no_objects(outside):
    target = target_of([outside, [0.5, 0.9, 0.2, 0.4]])
    torch.testing.assert_close(target.boxes, torch.tensor([[0.4, 0.7, 0.6, 1.0]]))
