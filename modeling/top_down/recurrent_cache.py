# SPDX-License-Identifier: Apache-2.0
"""What recurrent decoders remember of a text between two words, as `generate` keeps and reorders it."""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class ButdRecurrentCacheLayer(CacheLayerMixin):
    """States of a recurrent decoder after the words so far; of one size, however long the text."""

    is_sliding = False

    def __init__(self):
        super().__init__()
        self.states: torch.Tensor | None = None
        self.seq_length = 0

    def lazy_initialization(self, states: torch.Tensor, length: int = 0) -> None:
        self.dtype, self.device = states.dtype, states.device
        self.is_initialized = True

    def update(
        self,
        states: torch.Tensor,  # (num_texts, num_states, hidden_size): after the latest word
        length: int,  # how many words led to them from the ones before
    ) -> torch.Tensor:
        """Replaces the states."""
        self.lazy_initialization(states)
        self.states = states
        self.seq_length += length
        return states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seq_length + query_length, 0

    def get_seq_length(self) -> int:
        return self.seq_length

    def get_max_length(self) -> int:
        return -1  # no longest text

    def reset(self) -> None:
        self.states, self.seq_length, self.is_initialized = None, 0, False

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self.states is not None:
            self.states = self.states.index_select(0, indices.to(self.states.device))  # (num_chosen, num_states, ...)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.states is not None:
            self.states = self.states.repeat_interleave(repeats, dim=0)  # (num_texts * repeats, num_states, ...)

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise ValueError(f"a recurrent state can't forget its last {abs(tokens_to_remove)} words.")

    def offload(self) -> None:
        if self.states is not None:
            self.states = self.states.to("cpu", non_blocking=True)

    def prefetch(self) -> None:
        if self.states is not None:
            self.states = self.states.to(self.device, non_blocking=True)


class ButdRecurrentCache(Cache):
    """Cache of a recurrent decoder: the one layer that `generate` asks for lengths, reorders and repeats."""

    def __init__(self):
        super().__init__(layers=[ButdRecurrentCacheLayer()])
