# SPDX-License-Identifier: Apache-2.0
"""What labels say of relations, against counts made by hand."""

import pytest
import torch

from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.heads.frequency_prior import ButdFrequencyPrior


def graph(labels, relations):
    return {"class_labels": torch.tensor(labels), "relations": torch.tensor(relations).reshape(-1, 3)}


@pytest.fixture
def prior():
    prior = ButdFrequencyPrior(ButdConfig(num_labels=4, num_predicates=3))
    # 0 and 1 are met twenty times, and related half of them: 8 times by 2, twice by 0
    graphs = [graph([0, 1], [[0, 1, 2]])] * 8 + [graph([0, 1], [[0, 1, 0]])] * 2 + [graph([0, 1], [])] * 10
    prior.fit([*graphs, graph([2], [])])
    return prior


def test_much_counted_pairs_tend_to_their_counts(prior):
    shares = prior(torch.tensor([0]), torch.tensor([1])).exp()[0]
    assert shares.sum() == pytest.approx(1.0, abs=1e-5)
    assert shares[2] == pytest.approx(0.8, abs=0.1) and shares[0] == pytest.approx(0.2, abs=0.1)
    assert 0 < shares[1] < 0.05  # never seen
    related = prior.log_odds(torch.tensor([0, 1]), torch.tensor([1, 0])).sigmoid()
    assert related[0] == pytest.approx(0.5, abs=0.1) and related[1] < 0.1


def test_pairs_never_met_are_composed(prior):
    shares = prior(torch.tensor([0, 3]), torch.tensor([3, 3])).exp()
    assert shares[0, 2] > 0.5 and shares.isfinite().all()
    assert prior.log_odds(torch.tensor([3]), torch.tensor([3])).isfinite().all()
    assert len(prior.pair_keys) == 2  # of 16 pairs of labels, those that were met


def test_repetitions_and_self_relations_do_not_count():
    tidy, untidy = (ButdFrequencyPrior(ButdConfig(num_labels=4, num_predicates=3)) for _ in range(2))
    tidy.fit([graph([0, 1, 1], [[0, 1, 2]])])
    untidy.fit([graph([0, 1, 1], [[0, 1, 2], [0, 1, 2], [1, 1, 0]])])
    for (name, first), (_, second) in zip(tidy.named_buffers(), untidy.named_buffers(), strict=True):
        assert torch.equal(first, second), name


def test_rows_need_enough_examples():
    prior = ButdFrequencyPrior(ButdConfig(num_labels=4, num_predicates=3))
    prior.fit([graph([0, 1], [[0, 1, 2]])] * 3 + [graph([2, 3], [[0, 1, 1]])], min_count=2)
    assert prior.pair_keys.tolist() == [1, 4]


def test_nothing_to_count():
    prior = ButdFrequencyPrior(ButdConfig(num_labels=4, num_predicates=3))
    prior.fit([])
    assert prior(torch.tensor([1]), torch.tensor([2])).exp() == pytest.approx(torch.full((1, 3), 1 / 3), abs=1e-5)
