# SPDX-License-Identifier: Apache-2.0
"""Bag of hashed n-grams of a question, beside the state of its encoder: learns faster from few questions."""

import torch
from torch import nn
from transformers import initialization as init

from ..configuration_butd import ButdTopDownConfig


LONGEST_NGRAM = 3
FACTOR, PRIME = 1_000_003, 2**31 - 1  # products stay below 2**63, so that every device counts alike
NGRAM_SCALE = 3.0  # to the size of the encoder's state, whose numbers are near 1


class ButdQuestionNgrams(nn.Module):
    """
    A bag of the words, pairs and triples of words of a question (Joulin et al. 2017, section 2), in hashed buckets.

    The sum is divided by the square root of their number, so that its size doesn't grow with the question.
    """

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.embed_buckets = nn.Embedding(config.question_ngrams, config.hidden_size)
        self.dropout = config.dropout

    def init_own_weights(self):
        init.normal_(self.embed_buckets.weight, std=0.02)

    def buckets(self, input_ids: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(num_questions, length)`): Tokens, -1 where there is none.

        Returns:
            `torch.LongTensor` of shape `(num_questions, length, LONGEST_NGRAM)`: Of the n-grams that begin at each
            token; those at the end are padded.
        """
        length = input_ids.shape[1]
        following = nn.functional.pad(input_ids + 1, (0, LONGEST_NGRAM - 1))
        hashed = following[:, :length]
        all_hashed = [hashed]
        for step in range(1, LONGEST_NGRAM):
            hashed = (hashed * FACTOR + following[:, step : step + length]) % PRIME
            all_hashed.append(hashed)
        return torch.stack(all_hashed, dim=-1) % self.embed_buckets.num_embeddings

    def forward(self, input_ids: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(num_questions, length)`): Tokens, words first.
            is_word (`torch.BoolTensor` of shape `(num_questions, length)`): False on padding.

        Returns:
            `torch.FloatTensor` of shape `(num_questions, hidden_size)`: 0 for a question without a word.
        """
        buckets = self.buckets(input_ids.long().masked_fill(~is_word, -1))
        is_kept = is_word[..., None].expand(buckets.shape)
        counts = is_kept.sum(dim=(1, 2)).clamp(min=1)[:, None]  # (num_questions, 1)
        if self.training and self.dropout > 0:
            is_kept = is_kept & (torch.rand(buckets.shape, device=buckets.device) >= self.dropout)
            counts = counts * (1 - self.dropout) ** 2  # the expected size is that without dropout
        ngrams = self.embed_buckets(buckets)  # (num_questions, length, LONGEST_NGRAM, hidden_size)
        bag = (ngrams * is_kept[..., None].to(ngrams.dtype)).sum(dim=(1, 2))
        return NGRAM_SCALE * bag / counts.to(ngrams.dtype).sqrt()
