# SPDX-License-Identifier: Apache-2.0
import math

import torch

from butd_hf.modeling.top_down.pairs import NUM_RANKS, pair_ranks


def test_nearest_of_several_with_one_label_has_rank_zero():
    # a person, a hat on the head, another hat far away
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.9], [0.15, 0.15, 0.25, 0.25], [0.8, 0.1, 0.9, 0.2]]])
    labels, mask = torch.tensor([[0, 1, 1]]), torch.ones(1, 3, dtype=torch.bool)
    ranks = pair_ranks(boxes, labels, mask, torch.tensor([[[0, 1], [0, 2], [1, 2]]]))
    assert ranks.shape == (1, 3, NUM_RANKS) and ranks.isfinite().all()
    nearest, second, _ = ranks[0]
    for distance in range(3):
        number, none = 4 * distance, 4 * distance + 1
        assert nearest[number] == 0 and nearest[none] == 1
        torch.testing.assert_close(second[number], torch.tensor(2.0).log())
        assert second[none] == 0
    # among other subjects: nobody else of the person's label, but the first hat, is nearer to the second than she is
    torch.testing.assert_close(nearest[12:16], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(second[12:16], torch.tensor([0.0, 1.0, math.log(2), 0.0]))
    torch.testing.assert_close(nearest[-3:].exp(), torch.tensor([1.0, 2.0, 3.0]))


def test_ranks_depend_neither_on_padding_nor_on_order():
    boxes, labels = torch.rand(1, 4, 4).sort(dim=-1).values, torch.tensor([[0, 1, 1, 0]])
    pairs = torch.tensor([[[0, 1], [3, 2]]])
    alone = pair_ranks(boxes[:, :4], labels, torch.ones(1, 4, dtype=torch.bool), pairs)
    padded = torch.cat([boxes, torch.zeros(1, 2, 4)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(pair_ranks(padded, torch.cat([labels, labels[:, :2]], 1), mask, pairs), alone)
    order = torch.tensor([2, 0, 3, 1])
    moved = pair_ranks(boxes[:, order], labels[:, order], torch.ones(1, 4, dtype=torch.bool), order.argsort()[pairs])
    torch.testing.assert_close(moved, alone)


def test_no_regions_at_all():
    nothing = pair_ranks(
        torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.bool),
        torch.zeros(1, 1, 2, dtype=torch.long),
    )  # fmt: skip
    assert nothing.isfinite().all()


def test_of_two_objects_the_one_that_lies_within_is_nearer():
    # a subject, a small object inside it, and one of its own size that it half covers
    boxes = torch.tensor([[[0.0, 0.0, 0.4, 0.4], [0.3, 0.3, 0.4, 0.4], [0.2, 0.0, 0.6, 0.4]]])
    labels, mask = torch.tensor([[0, 1, 1]]), torch.ones(1, 3, dtype=torch.bool)
    inside, beside = pair_ranks(boxes, labels, mask, torch.tensor([[[0, 1], [0, 2]]]))[0]
    assert inside[8:10].tolist() == [0.0, 1.0] and beside[9] == 0
    # in an image where the first object doesn't exist, the other is the nearest
    mask[0, 1] = False
    assert pair_ranks(boxes, labels, mask, torch.tensor([[[0, 2]]]))[0, 0, 8:10].tolist() == [0.0, 1.0]
