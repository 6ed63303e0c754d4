# SPDX-License-Identifier: Apache-2.0
"""Question encoders: one state per word, and one for the whole question."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..configuration_butd import ButdTopDownConfig
from .transformer import ButdRegionLayer, attention_mask_of


LONGEST_NGRAM = 3
FACTOR, PRIME = 1_000_003, 2**31 - 1  # of hashes: products stay below 2**63, so that every device counts alike
NGRAM_SCALE = 3.0  # to the size of the encoder's state, whose numbers are near 1
WORD_SCALE = 0.3  # standard deviation of new word embeddings


@dataclass
class ButdQuestion(ModelOutput):
    """A question, encoded."""

    # (num_questions, length, hidden_size): one state per word, words first; zero where there is none
    last_hidden_state: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None  # (num_questions, hidden_size): the whole question
    hidden_states: tuple[torch.FloatTensor, ...] | None = None  # embeddings and each layer's output


def words_first(values: torch.Tensor, is_word: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves padding `(num_questions, length)` behind the words, and cuts what comes after the first `longest`."""
    order = (~is_word).long().argsort(dim=1, stable=True)[:, :longest]  # (num_questions, at most longest)
    is_word = is_word.gather(1, order)
    if values.dim() == 3:
        order = order[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, order), is_word


def words_last(values: torch.Tensor, is_word: torch.Tensor, length: int) -> torch.Tensor:
    """Words `(num_questions, up to length, size)` at the end of `length` places, zero before, as published models."""
    counts = is_word.sum(dim=1, keepdim=True)  # (num_questions, 1)
    places = torch.arange(length, device=values.device)[None] - (length - counts)  # (num_questions, length)
    order = places.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, order) * (places >= 0)[..., None].to(values.dtype)  # (num_questions, length, size)


class ButdQuestionNgrams(nn.Module):
    """A bag of the words, pairs and triples of words of a question (Joulin et al. 2017, section 2), in hashed buckets.

    The sum is divided by the square root of their number, so that its size doesn't grow with the question.
    """

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.embed_buckets = nn.Embedding(config.question_ngrams, config.hidden_size)
        self.dropout = config.dropout

    def init_own_weights(self):
        init.normal_(self.embed_buckets.weight, std=0.02)

    def buckets(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Of the n-grams that begin at each token `(num_questions, length)`, -1 where there is none."""
        length = input_ids.shape[1]
        following = nn.functional.pad(input_ids + 1, (0, LONGEST_NGRAM - 1))
        hashed = following[:, :length]
        all_hashed = [hashed]
        for step in range(1, LONGEST_NGRAM):
            hashed = (hashed * FACTOR + following[:, step : step + length]) % PRIME
            all_hashed.append(hashed)
        return torch.stack(all_hashed, dim=-1) % self.embed_buckets.num_embeddings

    def forward(self, input_ids: torch.Tensor, is_word: torch.Tensor) -> torch.Tensor:
        """Tokens `(num_questions, length)`, words first, and which are words, as a bag `(num_questions, hidden_size)`,
        which is 0 for a question without a word.
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


class ButdQuestionEncoder(nn.Module):
    """Reads a question by a transformer, a GRU or an LSTM, as `config.decoder` says; with `question_ngrams`, a bag of
    its n-grams is added to the state of the question.

    Words beyond the first `max_position_embeddings` aren't read. The result depends neither on the padding nor on its
    side. The state of a question without a word is zero for a transformer, and the initial state of a recurrent one.
    """

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.longest = config.max_position_embeddings
        self.dropout = nn.Dropout(config.dropout)
        self.kind = config.decoder
        self.ngrams = ButdQuestionNgrams(config) if config.question_ngrams else None
        embedding_size = config.embedding_size or config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, embedding_size, padding_idx=config.pad_token_id)
        if self.kind == "transformer":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
            # a word's position is to a question what a region's box is to an image
            self.layers = nn.ModuleList([ButdRegionLayer(config) for _ in range(config.num_hidden_layers)])
            self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        else:
            network = {"gru": nn.GRU, "lstm": nn.LSTM}[self.kind]
            self.rnn = network(embedding_size, config.hidden_size, batch_first=True)

    def init_own_weights(self):
        if self.kind not in ("gru", "lstm"):
            return
        for weight in self.rnn.parameters():  # torch's own
            init.uniform_(weight, -(self.config.hidden_size**-0.5), self.config.hidden_size**-0.5)
        # no norm follows, as in a transformer, and small embeddings hardly move gates: as large as those of GloVe
        words = self.embed_tokens.weight
        if not getattr(words, "_is_hf_initialized", False):
            init.normal_(words, std=WORD_SCALE)
            if self.embed_tokens.padding_idx is not None:
                init.zeros_(words[self.embed_tokens.padding_idx])

    def forward(
        self,
        input_ids: torch.Tensor | None,  # (num_questions, length)
        attention_mask: torch.Tensor | None = None,  # (num_questions, length): 1 on tokens; everywhere by default
        inputs_embeds: torch.Tensor | None = None,  # (num_questions, length, embedding_size): instead of tokens
    ) -> ButdQuestion:
        given = input_ids if inputs_embeds is None else inputs_embeds
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], device=given.device)
        if attention_mask.shape != given.shape[:2]:
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}, expected {tuple(given.shape[:2])}."
            )
        if given.shape[1] == 0:  # nothing but empty questions
            given = given.new_zeros((given.shape[0], 1, *given.shape[2:])).to(given.dtype)
            attention_mask = torch.zeros(given.shape[:2], device=given.device)
        if self.ngrams is not None and inputs_embeds is not None:
            raise ValueError(
                "`inputs_embeds` have no n-grams, expected `input_ids` with question_ngrams="
                f"{self.config.question_ngrams}."
            )
        given, is_word = words_first(given, attention_mask.bool(), self.longest)
        words = self.embed_tokens(given.long()) if inputs_embeds is None else given
        # a question that is read alone isn't padded: padding must not differ from nothing
        words = words * is_word[..., None].to(words.dtype)
        if self.kind == "transformer":
            question = self.read_by_transformer(words, is_word)
        else:
            question = self.read_by_rnn(words, is_word)
        if self.ngrams is not None:
            question.pooled = question.pooled + self.dropout(self.ngrams(given, is_word))
        return question

    def read_by_transformer(self, words: torch.Tensor, is_word: torch.Tensor) -> ButdQuestion:
        positions = self.embed_positions.weight[None, : words.shape[1]]  # (1, length, hidden_size)
        hidden_states = self.dropout(words)
        mask = attention_mask_of(self.config, hidden_states, is_word)
        all_hidden_states = (hidden_states,)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions, mask)
            all_hidden_states += (hidden_states,)
        hidden_states = self.norm(hidden_states) * is_word[..., None].to(hidden_states.dtype)
        counts = is_word.sum(dim=1, keepdim=True).clamp(min=1)  # (num_questions, 1)
        pooled = hidden_states.sum(dim=1) / counts  # (num_questions, hidden_size)
        return ButdQuestion(hidden_states, pooled, all_hidden_states)

    def read_by_rnn(self, words: torch.Tensor, is_word: torch.Tensor) -> ButdQuestion:
        # CODEPATH: published models read the padding before a question too
        if self.config.question_variant != "hops":
            words = words_last(words, is_word, self.longest)  # (num_questions, longest, embedding_size)
            hidden_states, _ = self.rnn(words)
            return ButdQuestion(hidden_states, hidden_states[:, -1], (words, hidden_states))
        words = self.dropout(words)
        hidden_states, _ = self.rnn(words)  # (num_questions, length, hidden_size)
        hidden_states = hidden_states * is_word[..., None].to(hidden_states.dtype)
        last = (is_word.sum(dim=1, keepdim=True) - 1).clamp(min=0)  # (num_questions, 1)
        pooled = hidden_states.gather(1, last[..., None].expand(-1, -1, hidden_states.shape[-1]))[:, 0]
        return ButdQuestion(hidden_states, self.dropout(pooled), (words, hidden_states))
