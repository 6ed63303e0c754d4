# SPDX-License-Identifier: Apache-2.0
import torch

from butd_hf.modeling.heads.frequency_prior import ButdFrequencyPrior, own_counts
from butd_hf.modeling.heads.pair_rivals import NUM_STANDINGS, pair_standings


def test_the_nearest_of_several_with_one_label_has_no_rival():
    # a person, a hat on the head, another hat far away
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.9], [0.15, 0.15, 0.25, 0.25], [0.8, 0.1, 0.9, 0.2]]])
    labels, mask = torch.tensor([[0, 1, 1]]), torch.ones(1, 3, dtype=torch.bool)
    standings = pair_standings(boxes, labels, mask, torch.tensor([[[0, 1], [0, 2], [1, 2]]]))
    assert standings.shape == (1, 3, NUM_STANDINGS) and standings.isfinite().all()
    nearest, second, _ = standings[0]
    for distance in range(3):
        number, none = 4 * distance, 4 * distance + 1
        assert nearest[number] == 0 and nearest[none] == 1
        torch.testing.assert_close(second[number], torch.tensor(2.0).log())
        assert second[none] == 0
    torch.testing.assert_close(nearest[-3:].exp(), torch.tensor([1.0, 2.0, 3.0]))


def test_standings_depend_neither_on_padding_nor_on_order():
    boxes, labels = torch.rand(1, 4, 4).sort(dim=-1).values, torch.tensor([[0, 1, 1, 0]])
    pairs = torch.tensor([[[0, 1], [3, 2]]])
    alone = pair_standings(boxes[:, :4], labels, torch.ones(1, 4, dtype=torch.bool), pairs)
    padded = torch.cat([boxes, torch.zeros(1, 2, 4)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(pair_standings(padded, torch.cat([labels, labels[:, :2]], 1), mask, pairs), alone)
    order = torch.tensor([2, 0, 3, 1])
    moved = pair_standings(
        boxes[:, order], labels[:, order], torch.ones(1, 4, dtype=torch.bool), order.argsort()[pairs]
    )
    torch.testing.assert_close(moved, alone)


def test_no_regions_at_all():
    nothing = pair_standings(
        torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.bool),
        torch.zeros(1, 1, 2, dtype=torch.long),
    )  # fmt: skip
    assert nothing.isfinite().all()


def test_forgetting_an_image_is_as_never_having_counted_it():
    from butd_hf import ButdConfig

    def prior():
        return ButdFrequencyPrior(ButdConfig(num_labels=4, num_predicates=3))

    generator = torch.Generator().manual_seed(0)
    graphs = []
    for _ in range(200):
        relations = torch.randint(0, 5, (6, 3), generator=generator)
        relations = relations[relations[:, 0] != relations[:, 1]] % torch.tensor([5, 5, 3])
        graphs.append({"class_labels": torch.randint(0, 4, (5,), generator=generator), "relations": relations})
    whole, rest = prior(), prior()
    whole.fit(graphs)
    rest.fit(graphs[1:])
    labels, pairs = graphs[0]["class_labels"], (~torch.eye(5, dtype=torch.bool)).nonzero()
    relations = graphs[0]["relations"].unique(dim=0)
    own = own_counts(labels[None], torch.ones(1, 5, dtype=torch.bool), pairs[None], [relations], 4, 3)[0]
    subjects, objects = labels[pairs].unbind(dim=1)
    torch.testing.assert_close(whole(subjects, objects, own).exp(), rest(subjects, objects).exp(), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        whole.log_odds(subjects, objects, own), rest.log_odds(subjects, objects), atol=2e-2, rtol=0
    )
    assert own[:, -1].tolist() == [
        float(sum(1 for a, b in pairs.tolist() if (labels[a], labels[b]) == (labels[s], labels[o])))
        for s, o in pairs.tolist()
    ]
    triples = {(int(labels[s]), p, int(labels[o])) for s, o, p in relations.tolist()}
    assert triples <= whole.counted_triples()
