# Copyright 2026 The butd_hf authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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
