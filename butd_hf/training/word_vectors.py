# SPDX-License-Identifier: Apache-2.0
"""Words that mean much the same begin alike: embeddings of labels and tokens from word vectors in a text file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F


def read_word_vectors(file: str | Path, words: set[str]) -> dict[str, torch.Tensor]:
    """
    Vectors of some words from a file in the text format of GloVe (Pennington et al. 2014) or word2vec.

    Args:
        file: A word and its numbers on each line, separated by spaces; a head line of two numbers may come first.
        words: The words to keep.

    Raises:
        ValueError: A line of one of the words holds something else than numbers, or not as many as that before.
    """
    vectors: dict[str, torch.Tensor] = {}
    size = None
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            word, *values = line.rstrip().split(" ")
            if word not in words or (number == 1 and len(values) == 1):
                continue
            try:
                vectors[word] = torch.tensor([float(value) for value in values])
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {word!r} has no vector of numbers.") from error
            size = len(values) if size is None else size
            if len(values) != size or size == 0:
                raise ValueError(
                    f"{file}, line {number}: {word!r} has {len(values)} numbers, expected {size or 'some'}."
                )
    return vectors


def label_embeddings(names: Sequence[str], file: str | Path, hidden_size: int) -> torch.Tensor:
    """
    What labels begin as: the mean of the vectors of their words, less that of all labels, in a random direction of
    `hidden_size` for each number; of the size of random embeddings, so that they are heard and learn alike.

    Returns:
        Shape `(num_labels, hidden_size)`. Labels of which no word is in the file are 0: an average thing.

    Raises:
        ValueError: The file doesn't have a word of any label, or is flawed.
    """
    words = [re.findall(r"\w+", name.lower()) for name in names]
    vectors = read_word_vectors(file, {word for each in words for word in each})
    known = [[vectors[word] for word in each if word in vectors] for each in words]
    if not any(known):
        raise ValueError(
            f"{file} has no word of the labels {list(names)[:5]}: it must be a text file of word vectors."
        )
    means = {place: torch.stack(each).mean(dim=0) for place, each in enumerate(known) if each}
    table = torch.stack(list(means.values()))  # (num_known, size)
    table = F.normalize(table - table.mean(dim=0), dim=1)
    spread = torch.randn(table.shape[1], hidden_size)
    embeddings = torch.zeros(len(names), hidden_size)
    embeddings[list(means)] = table @ spread
    return embeddings


def fill_token_embeddings(embeddings: torch.Tensor, vocabulary: Mapping[str, int], file: str | Path) -> int:
    """
    Puts the vectors of the words of a tokenizer where their embeddings are. Others stay as they were.

    Args:
        embeddings: Shape `(vocab_size, size)`, changed in place.
        vocabulary: Tokens and their rows, as `tokenizer.get_vocab()`.

    Returns:
        How many tokens the file has a vector for.

    Raises:
        ValueError: The file doesn't have any of the words, is flawed, or its vectors are of another size.
    """
    vectors = read_word_vectors(file, set(vocabulary))
    if not vectors:
        raise ValueError(f"{file} has none of the {len(vocabulary)} tokens: it must be a text file of word vectors.")
    table = torch.stack(list(vectors.values()))  # (num_known, size)
    if table.shape[1] != embeddings.shape[1]:
        raise ValueError(f"{file} has vectors of {table.shape[1]} numbers, expected {embeddings.shape[1]}.")
    embeddings[[vocabulary[word] for word in vectors]] = table.to(embeddings.dtype)
    return len(vectors)


__all__ = ["fill_token_embeddings", "label_embeddings", "read_word_vectors"]
