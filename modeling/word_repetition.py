# SPDX-License-Identifier: Apache-2.0
"""Captions that say no word twice, as the original Up-Down model was decoded."""

from collections.abc import Collection

import torch
from transformers import LogitsProcessor


class ButdUniqueWordsLogitsProcessor(LogitsProcessor):
    """
    Keeps words from being said again, but for some (the original lists 19 stop words).

    Args:
        repeatable_token_ids (`Collection[int]`): Tokens that may come again; those that end or pad a text belong to
            them.
    """

    def __init__(self, repeatable_token_ids: Collection[int]):
        self.repeatable_token_ids = sorted(set(repeatable_token_ids))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        said = torch.zeros_like(scores, dtype=torch.bool).scatter(1, input_ids, True)  # (num_texts, vocab_size)
        said[:, self.repeatable_token_ids] = False
        return scores.masked_fill(said, -float("inf"))


__all__ = ["ButdUniqueWordsLogitsProcessor"]
