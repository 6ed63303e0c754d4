# SPDX-License-Identifier: Apache-2.0
import torch
import torch.nn.functional as F

from butd_hf.modeling.losses.scene_graph import ButdGraphTarget, ButdMatchedGraph, object_loss, relation_losses
from butd_hf.modeling.outputs import ButdSceneGraphGenerationOutput


def test_regions_without_an_object_count_a_tenth():
    logits, mask = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    target = ButdGraphTarget(class_labels=torch.tensor([2]), boxes=torch.rand(1, 4), relations=None)
    loss = object_loss(logits, torch.tensor([[0, -1, 0]]), mask, [target])
    each = F.cross_entropy(logits[0, :2], torch.tensor([2, 3]), reduction="none")  # the last column is "no object"
    torch.testing.assert_close(loss, (each[0] + 0.1 * each[1]) / 1.1)


def test_losses_of_relations_by_hand():
    """Three pairs and one that isn't there; the first has two predicates; of the second image nobody knows any."""
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2], [0, 0]]).expand(2, 4, 2)
    exists = torch.tensor([True, True, True, False]).expand(2, 4)
    selection, related, predicates = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4, 3)
    made = ButdSceneGraphGenerationOutput(
        pairs=pairs, pair_mask=exists, selection_logits=selection, pair_logits=related, predicate_logits=predicates
    )
    relations = torch.zeros(2, 3, 3, 3, dtype=torch.bool)
    relations[0, [0, 0, 0], [1, 1, 2], [2, 0, 1]] = True
    losses = relation_losses(made, ButdMatchedGraph(None, relations, torch.tensor([True, False]), None))
    log_shares = predicates[0].log_softmax(dim=-1)
    expected = -((log_shares[0, 2] + log_shares[0, 0]) / 2 + log_shares[2, 1]) / 2
    torch.testing.assert_close(losses["loss_predicate"], expected)
    is_related = torch.tensor([1.0, 0.0, 1.0])
    for name, logits in (("loss_selection", selection), ("loss_pair", related)):
        torch.testing.assert_close(losses[name], F.binary_cross_entropy_with_logits(logits[0, :3], is_related))
