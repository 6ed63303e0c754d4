# SPDX-License-Identifier: Apache-2.0
"""The learned selector: its proposals, its heads, and captions on top of it."""

import pytest
import torch

from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUp
from butd_hf.modeling.bottom_up.rpn import ButdProposalHead, ButdProposals
from butd_hf.modeling.boxes import refine_boxes
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig


TINY = {"backbone": "test_efficientnet", "num_regions": 8, "min_regions": 3, "fpn_size": 16, "region_head_size": 8}


def build(**changes) -> ButdBottomUp:
    torch.manual_seed(0)
    return ButdBottomUp(ButdBottomUpConfig(**{**TINY, **changes})).eval()


@torch.no_grad()
def test_cells_propose_boxes_around_their_centres():
    head = ButdProposalHead(ButdBottomUpConfig(**TINY))
    logits, boxes, points = head(torch.randn(2, 16, 3, 5))
    assert logits.shape == (2, 15) and boxes.shape == (2, 15, 4)
    assert points[1, 5:7].tolist() == pytest.approx(torch.tensor([[0.1, 0.5], [0.3, 0.5]]).numpy())  # rows first
    head.distances.weight.zero_()
    head.distances.bias.copy_(torch.tensor([0.0, 2.0, 0.5, 9.0]).log())
    head.distances.bias[3] = 9.0  # more than a box may reach
    boxes = head(torch.randn(1, 16, 3, 5))[1][0, 5]
    left, top, right, bottom = (boxes * torch.tensor([5.0, 3.0, 5.0, 3.0])).tolist()
    assert top == pytest.approx(1.5 - 8.0) and right == pytest.approx(0.5 + 2.0)
    assert bottom == pytest.approx(1.5 + 4 * torch.tensor(3.0).exp().item(), rel=1e-5)
    assert left == pytest.approx(0.5 - 4 * torch.tensor(-3.0).exp().item(), rel=1e-5)


@torch.no_grad()
def test_the_best_proposals_are_selected_and_clipped():
    selector = build(num_regions=2, min_regions=1, score_threshold=0.5, nms_threshold=0.5).selector
    logits = torch.tensor([[2.0, 3.0, 1.0, -1.0]])
    boxes = torch.tensor([[[0.1, 0, 0.5, 0.5], [0.1, 0, 0.5, 0.52], [0.6, 0.5, 1.4, 1.0], [0, 0.8, 0.2, 1]]])
    selected, saliency, mask = selector.select(ButdProposals(logits=logits, boxes=boxes))
    torch.testing.assert_close(selected[0], torch.tensor([[0.1, 0.0, 0.5, 0.52], [0.6, 0.5, 1.0, 1.0]]))
    torch.testing.assert_close(saliency[0], torch.tensor([3.0, 1.0]).sigmoid())
    assert mask.all()


@torch.no_grad()
def test_configured_heads_predict_more():
    heads = {"num_region_labels": 6, "num_region_attributes": 5, "region_mask_size": 10}
    regions = build(**heads)(torch.randn(2, 3, 64, 64)).regions
    assert regions.class_logits.shape == (2, 8, 6) and regions.attribute_logits.shape == (2, 8, 5)
    assert regions.masks.shape == (2, 8, 10, 10)
    assert ((regions.masks >= 0) & (regions.masks <= 1)).all()
    plain = build()(torch.randn(2, 3, 64, 64)).regions
    assert plain.class_logits is plain.attribute_logits is plain.masks is None


@torch.no_grad()
def test_boxes_are_refined_from_what_was_proposed():
    model = build()
    torch.nn.init.normal_(model.selector.region_head.box_proj.weight, std=0.1)
    image = model(torch.randn(1, 3, 64, 64))
    deltas = model.selector.region_head.deltas(image.regions.features)
    expected = refine_boxes(image.proposals.selected, deltas).clamp(0, 1)
    torch.testing.assert_close(image.regions.boxes, expected, atol=1e-5, rtol=1e-5)
    assert (image.regions.boxes - image.proposals.selected).abs().max() > 0.01
    boxes = torch.tensor([[[0.2, 0.4, 0.6, 0.5]]])
    moved = refine_boxes(boxes, torch.tensor([[[0.5, -1.0, 2.0, 9.0]]]).clamp(max=9.0))[0, 0].tolist()
    width, height = 0.4 * torch.tensor(2.0).exp().item(), 0.1 * 1000 / 16
    assert moved == pytest.approx([0.6 - width / 2, 0.35 - height / 2, 0.6 + width / 2, 0.35 + height / 2], rel=1e-4)
