# SPDX-License-Identifier: Apache-2.0
"""Embeddings of labels and tokens that begin as word vectors: what means much the same begins alike."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F


def read_word_vectors(file: str | Path, words: set[str]) -> dict[str, torch.Tensor]:
    """Vectors of some words from a file in the text format of GloVe (Pennington et al. 2014) or word2vec.

    Raises:
        ValueError: It has none of the words, or a line holds something else than numbers, or not as many as others.
    """
    vectors: dict[str, torch.Tensor] = {}
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            word, *values = line.rstrip().split(" ")
            if word not in words or (number == 1 and len(values) == 1):  # word2vec begins with two numbers
                continue
            try:
                vectors[word] = torch.tensor([float(value) for value in values])
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {word!r} has no vector of numbers.") from error
            size = len(next(iter(vectors.values())))
            if len(values) != size or size == 0:
                raise ValueError(
                    f"{file}, line {number}: {word!r} has {len(values)} numbers, expected {size or 'some'}."
                )
    if not vectors:
        raise ValueError(f"{file} has none of {sorted(words)[:5]}: it must be a text file of word vectors.")
    return vectors


def label_embeddings(names: Sequence[str], file: str | Path, hidden_size: int) -> torch.Tensor:
    """What labels begin as, (num_labels, hidden_size): the mean of the vectors of their words, less that of all
    labels, in a random direction for each number, as large as random embeddings. Labels without a vector are 0.
    """
    words = [re.findall(r"\w+", name.lower()) for name in names]
    vectors = read_word_vectors(file, {word for each in words for word in each})
    known = [[vectors[word] for word in each if word in vectors] for each in words]
    means = {place: torch.stack(each).mean(dim=0) for place, each in enumerate(known) if each}
    table = torch.stack(list(means.values()))  # (num_known, size)
    table = F.normalize(table - table.mean(dim=0), dim=1)
    embeddings = torch.zeros(len(names), hidden_size)
    embeddings[list(means)] = table @ torch.randn(table.shape[1], hidden_size)
    return embeddings


def fill_token_embeddings(embeddings: torch.Tensor, vocabulary: Mapping[str, int], file: str | Path) -> None:
    """Puts the vectors of the words of a tokenizer where their embeddings (vocab_size, size) are; others stay.

    Raises:
        ValueError: The vectors are of another size.
    """
    vectors = read_word_vectors(file, set(vocabulary))
    table = torch.stack(list(vectors.values()))  # (num_known, size)
    if table.shape[1] != embeddings.shape[1]:
        raise ValueError(f"{file} has vectors of {table.shape[1]} numbers, expected {embeddings.shape[1]}.")
    embeddings[[vocabulary[word] for word in vectors]] = table.to(embeddings.dtype)


__all__ = ["fill_token_embeddings", "label_embeddings", "read_word_vectors"]
