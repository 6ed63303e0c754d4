# SPDX-License-Identifier: Apache-2.0
"""The caption scores behind the interface of the `evaluate` library."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from .cider import DocumentFrequencies
from .inputs import check_captions, check_references
from .scores import CaptionMetrics


_DESCRIPTION = """
BLEU-1 to 4, ROUGE-L and CIDEr as coco-caption computes them, but without Java; METEOR on demand, where Java exists.
"""

_CITATION = """
@article{chen2015microsoft,
  title   = {Microsoft {COCO} Captions: Data Collection and Evaluation Server},
  author  = {Chen, Xinlei and Fang, Hao and Lin, Tsung-Yi and Vedantam, Ramakrishna and Gupta, Saurabh and
             Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  journal = {arXiv preprint arXiv:1504.00325},
  year    = {2015}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (list of str): one caption per image, raw text.
    references (list of lists of str): each image's captions, raw text.
    tokenize (bool): False for captions that already are lowercase tokens separated by spaces.
    meteor (bool, optional): True insists on METEOR, None computes it where Java and pycocoevalcap exist; False, the
        default, saves the 10 s that its Java program takes to start.
    document_frequencies (DocumentFrequencies, optional): for CIDEr; None counts over the references given.

Returns:
    bleu_1, bleu_2, bleu_3, bleu_4, rouge_l, meteor: in 0..100; meteor is absent unless computed.
    cider: what coco-caption and the literature call CIDEr (CIDEr-D) times 100, as in 113.5.
    cider_original: CIDEr without the modifications of CIDEr-D, times 100.
    degenerate_endings: share in 0..100 of the predictions that break off, as "a man in a".

Example:
    >>> metric = CaptioningMetric()
    >>> scores = metric.compute(predictions=["a dog runs"], references=[["A dog runs.", "A dog is running."]])
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class CaptioningMetric(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
            codebase_urls=["https://github.com/tylin/coco-caption"],
        )

    def add_batch(
        self, *, predictions: Sequence[str] | None = None, references: Sequence[Sequence[str]] | None = None
    ) -> None:
        """Keeps the captions of a batch of images and their references until `compute`."""
        # checked here, since the library would turn numbers into text and report the rest as an Arrow error
        check_captions(predictions, references)
        evaluate.Metric.add_batch(self, predictions=predictions, references=references)

    def add(self, *, prediction: str | None = None, reference: Sequence[str] | None = None) -> None:
        """Keeps the caption of one image and its references until `compute`."""
        if not isinstance(prediction, str):
            raise TypeError(f"prediction must be a str, got {type(prediction).__name__}: {prediction!r}")
        check_references("reference", reference)
        evaluate.Metric.add(self, prediction=prediction, reference=reference)

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[Sequence[str]] | None = None,
        **options: Any,
    ) -> dict[str, float] | None:
        """Scores the captions given here or, without arguments, those added before."""
        if predictions is None and references is None and len(self) == 0:
            raise ValueError("predictions is empty: give captions to `compute`, or to `add_batch` before it")
        return evaluate.Metric.compute(self, predictions=predictions, references=references, **options)

    def _compute(
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenize: bool = True,
        meteor: bool | None = False,
        document_frequencies: DocumentFrequencies | None = None,
    ) -> dict[str, float]:
        metrics = CaptionMetrics(tokenize=tokenize, meteor=meteor, document_frequencies=document_frequencies)
        return metrics.compute(predictions, references)
