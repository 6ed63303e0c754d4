# SPDX-License-Identifier: Apache-2.0
"""The most likely pairs: the search equals a full table, and ties have one order."""

import pytest
import torch

from butd_hf.modeling.configuration_butd import ButdTopDownConfig
from butd_hf.modeling.top_down import pairs as pair_selection
from butd_hf.modeling.top_down.pairs import ButdPairScorer, pair_geometry


@pytest.fixture
def scorer():
    return ButdPairScorer(ButdTopDownConfig(hidden_size=16, num_attention_heads=2))


def regions(batch_size=2, number=9):
    low = torch.rand(batch_size, number, 2) * 0.6
    boxes = torch.cat([low, low + 0.05 + torch.rand(batch_size, number, 2) * 0.3], dim=-1)
    return torch.randn(batch_size, number, 16), boxes, torch.rand(batch_size, number) > 0.2


def test_equals_a_full_table(scorer):
    states, boxes, mask = regions()
    pairs, pair_mask = scorer.select(states, boxes, mask, budget=7)
    every = torch.cartesian_prod(torch.arange(9), torch.arange(9)).expand(2, -1, -1)
    scores = scorer(states, boxes, every).detach()
    exists = mask.gather(1, every[..., 0]) & mask.gather(1, every[..., 1]) & (every[..., 0] != every[..., 1])
    for row in range(2):
        ranked = every[row, exists[row]][scores[row, exists[row]].argsort(descending=True, stable=True)]
        assert pair_mask[row].all() and pairs[row].tolist() == ranked[:7].tolist()


def test_equals_come_in_the_order_of_regions(scorer):
    states, boxes = torch.zeros(1, 6, 16), torch.tensor([0.1, 0.1, 0.4, 0.4]).expand(1, 6, 4)
    pairs, _ = scorer.select(states, boxes, torch.ones(1, 6, dtype=torch.bool), budget=8)
    assert pairs[0].tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [1, 0], [1, 2], [1, 3]]


def test_required_pairs_come_first(scorer):
    states, boxes, _ = regions(1, 5)
    mask = torch.ones(1, 5, dtype=torch.bool)
    required = torch.zeros(1, 5, 5, dtype=torch.bool)
    required[0, [3, 0], [1, 4]] = True
    pairs, _ = scorer.select(states, boxes, mask, budget=4, required=required)
    assert pairs[0, :2].tolist() == [[0, 4], [3, 1]]


@pytest.mark.parametrize("number", [0, 1])
def test_no_pairs(scorer, number):
    states, boxes, _ = regions(1, max(number, 1))
    mask = torch.tensor([[number == 1]])
    pairs, pair_mask = scorer.select(states, boxes, mask, budget=4)
    assert pairs.tolist() == [[[0, 0]]] and pair_mask.tolist() == [[False]]


def test_geometry_is_finite_and_has_a_direction():
    boxes = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [0.2, 0.2, 0.4, 0.4], [0.6, 0.2, 0.8, 0.4]])
    geometry = pair_geometry(boxes[:, None], boxes[None])
    assert geometry.shape == (4, 4, pair_selection.NUM_GEOMETRY) and geometry.isfinite().all()
    # of a small box and another to its right: one after another as the docstring lists them
    right = [1.443635, 0.0, 1.443635, 0.0, 0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.2, -0.2, 0.12]
    assert geometry[2, 3].tolist() == pytest.approx(right, abs=1e-5)
    assert geometry[3, 2, 0] < 0  # to the left
    # of the small box in the image
    within = [0.881374, 0.881374, 0.198690, 0.198690, 0.2, 0.2, 1.609438, 1.609438, 0.04, 1.0, 0.04, -0.2, -0.2, 1.0]
    assert geometry[2, 1].tolist() == pytest.approx(within, abs=1e-5)
