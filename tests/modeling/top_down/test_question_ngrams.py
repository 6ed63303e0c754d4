# SPDX-License-Identifier: Apache-2.0
import torch

from butd_hf.modeling.configuration_butd import ButdTopDownConfig
from butd_hf.modeling.top_down.question_encoder import ButdQuestionNgrams


def ngrams_of(num_buckets: int) -> ButdQuestionNgrams:
    torch.manual_seed(0)
    return ButdQuestionNgrams(ButdTopDownConfig(hidden_size=16, question_ngrams=num_buckets, dropout=0.5)).eval()


def test_ngrams_know_the_order_of_words_and_where_a_question_ends():
    ngrams = ngrams_of(100_003)
    first, second, longer = torch.tensor([[1, 7, 9, -1], [1, 9, 7, -1], [1, 7, 9, 4]])
    buckets = [set(ngrams.buckets(words[None])[0, :3].flatten().tolist()) for words in (first, second)]
    assert len(buckets[0]) == len(buckets[1]) == 9  # no two of so few share one
    assert len(buckets[0] & buckets[1]) == 3  # the words themselves
    known = set(ngrams.buckets(longer[None]).flatten().tolist())
    assert len(buckets[0] - known) == 3  # of those at the end


@torch.no_grad()
def test_the_bag_is_a_scaled_sum_that_dropout_leaves_as_large():
    ngrams = ngrams_of(100_003)
    tokens, is_word = torch.tensor([[1, 7, 9, 0]]), torch.tensor([[True, True, True, False]])
    bag = ngrams(tokens, is_word)
    buckets = ngrams.buckets(torch.where(is_word, tokens, -1))[0, :3]
    torch.testing.assert_close(bag[0], 3 * ngrams.embed_buckets.weight[buckets].sum(dim=(0, 1)) / 9**0.5)
    assert not ngrams(tokens, torch.zeros_like(is_word)).any()
    ngrams.train()
    bags = torch.cat([ngrams(tokens, is_word) for _ in range(2000)])
    assert bags.std(dim=0).min() > 0
    errors = (bags.mean(dim=0) - bag[0]).abs() / (bags.std(dim=0) / len(bags) ** 0.5)
    assert errors.max() < 6  # standard errors
