# SPDX-License-Identifier: Apache-2.0
"""CIDEr and CIDEr-D (Vedantam et al., 2015): how much a caption says what people say about the image.

A caption is a vector of TF-IDF weights per n-gram length; the score is ten times its cosine to the references' ones,
averaged over references and over lengths 1 to 4. CIDEr-D also clips each weight to the reference's and weighs by a
Gaussian of the difference in length, against captions that repeat or pad. The "CIDEr" of coco-caption and of the
literature's tables is CIDEr-D. What differs from the paper, as in coco-caption: words are not stemmed.

Own code instead of pycocoevalcap, whose scores are the same: that installs 105 MB of Java programs, takes 1.5 times as
long for a table, and counts document frequencies anew in every batch of rewards.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .bleu import Ngram, count_ngrams
from .inputs import check_references


MAX_ORDER = 4  # the paper's N
SIGMA = 6.0  # width of the Gaussian over the difference in length, in words
MAX_CACHED_IMAGES = 50_000  # whose reference vectors are kept, about 20 kB each with five captions


Postings = tuple[tuple[int, int], ...]  # of an n-gram the references of an image that have it, and how often


class _ReferenceVectors(NamedTuple):
    """The references of one image."""

    counts: dict[Ngram, Postings]
    inverse_norms: list[list[float]]  # per reference and order; 0 for a vector without weight
    lengths: list[int]  # in bigrams, as coco-caption counts


class Cider:
    """The original CIDEr, without the modifications of CIDEr-D, for a fixed set of references.

    Document frequencies are counted once, and an image's reference vectors are kept after their first use, so that
    scoring is quick enough for a reward during training.

    Args:
        references: each image's captions, tokens separated by spaces (`tokenize_captions`), by image id or, for a
            list, by position.
    """

    def __init__(self, references: Mapping[Hashable, Sequence[str]] | Sequence[Sequence[str]]) -> None:
        self._references = dict(references if isinstance(references, Mapping) else enumerate(references))
        if not self._references:
            raise ValueError("references is empty: expected at least one image")
        for image, captions in self._references.items():
            check_references(f"references[{image!r}]", captions)
        self._frequencies: Counter[Ngram] = Counter()  # in how many images' references each n-gram occurs
        for captions in self._references.values():
            self._frequencies.update({gram for text in captions for gram in count_ngrams(text.split(), MAX_ORDER)})
        # by document frequency; an n-gram of no reference counts as one of a single image
        log_num_documents = math.log(len(self._references))
        self._idf = [log_num_documents - math.log(max(count, 1)) for count in range(len(self._references) + 1)]
        # nearly all postings are alike (once, in one reference): one object for all halves the time
        self._postings: dict[Postings, Postings] = {}
        self._vectors = lru_cache(MAX_CACHED_IMAGES)(self._reference_vectors)

    def score(self, candidates: Sequence[str], ids: Sequence[Hashable] | None = None) -> np.ndarray:
        """Scores captions against the references of their images.

        Args:
            candidates: captions, their tokens separated by spaces; an empty one scores 0.
            ids: the image of each caption, any number of captions per image; `None` when there is exactly one caption
                per image, in the order of the references.

        Returns:
            One score in 0..10 per caption (num_candidates,). With a single document every weight is log 1 = 0, and so
            is every score.
        """
        ids = list(self._references) if ids is None else ids
        if len(candidates) != len(ids):
            raise ValueError(
                f"candidates and ids must have the same length, got {len(candidates)} candidates and {len(ids)} ids"
            )
        return np.array([self._score(candidate, image) for candidate, image in zip(candidates, ids, strict=True)])

    def _score(self, candidate: str, image: Hashable) -> float:
        if not isinstance(candidate, str):
            raise TypeError(
                f"candidates must be str, got {type(candidate).__name__} for image {image!r}: {candidate!r}"
            )
        references, words = self._vectors(image), candidate.split()
        squares = [0.0] * MAX_ORDER
        products = [[0.0] * MAX_ORDER for _ in references.lengths]
        for ngram, count in count_ngrams(words, MAX_ORDER).items():
            order = len(ngram) - 1
            squared_idf = self._idf[self._frequencies.get(ngram, 0)] ** 2
            squares[order] += count * count * squared_idf
            for reference, reference_count in references.counts.get(ngram, ()):
                products[reference][order] += self._product(count, reference_count) * squared_idf
        own_norms, total = _inverse_norms(squares), 0.0
        for product, norms, length in zip(products, references.inverse_norms, references.lengths, strict=True):
            similarity = sum(value * norm * own for value, norm, own in zip(product, norms, own_norms, strict=True))
            total += similarity * self._length_weight(max(len(words) - 1, 0) - length)
        return 10 * total / (MAX_ORDER * len(products))

    def _reference_vectors(self, image: Hashable) -> _ReferenceVectors:
        if image not in self._references:
            raise KeyError(f"ids: no references for image {image!r}; there are {len(self._references)} images")
        vectors = _ReferenceVectors({}, [], [])
        for reference, caption in enumerate(self._references[image]):
            words, squares = caption.split(), [0.0] * MAX_ORDER
            for ngram, count in count_ngrams(words, MAX_ORDER).items():
                squares[len(ngram) - 1] += (count * self._idf[self._frequencies.get(ngram, 0)]) ** 2
                postings = (*vectors.counts.get(ngram, ()), (reference, count))
                vectors.counts[ngram] = self._postings.setdefault(postings, postings)
            vectors.inverse_norms.append(_inverse_norms(squares))
            vectors.lengths.append(max(len(words) - 1, 0))
        return vectors

    def _product(self, count: int, reference_count: int) -> int:
        return count * reference_count

    def _length_weight(self, difference: int) -> float:
        return 1.0


def _inverse_norms(squares: list[float]) -> list[float]:
    return [1 / math.sqrt(square) if square > 0 else 0.0 for square in squares]


class CiderD(Cider):
    """CIDEr-D: the score that coco-caption and the literature's tables call CIDEr. Arguments as in `Cider`."""

    def _product(self, count: int, reference_count: int) -> int:
        return min(count, reference_count) * reference_count  # clipped, so that repeating a word gains nothing

    def _length_weight(self, difference: int) -> float:
        return math.exp(-(difference**2) / (2 * SIGMA**2))
