# SPDX-License-Identifier: Apache-2.0
"""The table of caption scores, computed from raw captions."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from .bleu import bleu
from .cider import Cider, CiderD
from .inputs import check_captions
from .meteor import meteor, meteor_unavailable_reason
from .rouge import rouge_l
from .tokenizer import tokenize_captions


logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaptionMetrics:
    """Scores captions as coco-caption does, on the scale of the literature's tables.

    Example:
        >>> scores = CaptionMetrics().compute(["a dog runs"], [["A dog runs.", "A dog is running."]])
        >>> round(scores["bleu_1"], 1)
        100.0
    """

    tokenize: bool = True  # False for captions that already are lowercase tokens separated by spaces
    meteor: bool | None = False  # True insists, None computes it where it can; its Java program takes 10 s to start

    def compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Scores one caption per image against that image's references.

        Returns:
            - `bleu_1` to `bleu_4`, `rouge_l` in 0..100.
            - `cider`: what coco-caption and the literature's tables call CIDEr, which is CIDEr-D (sigma 6) times 100:
              113.5 where pycocoevalcap's `Cider` gives 1.135. Its range is 0..1000. It depends on the other images of
              the set through the document frequencies, and is 0 for a set of one image.
            - `cider_original`: CIDEr without clipping and length weight, times 100; not comparable with the tables.
            - `meteor` in 0..100, if asked for; where it cannot be computed it is absent and the reason is logged.

        Raises:
            TypeError, ValueError: for input that cannot be scored (see `check_captions`).
            MeteorUnavailableError: when `meteor=True` and it cannot run.
        """
        check_captions(predictions, references)
        if self.tokenize:
            predictions = tokenize_captions(predictions)
            references = [tokenize_captions(captions) for captions in references]
        scores = {f"bleu_{order}": score for order, score in enumerate(bleu(predictions, references).corpus, start=1)}
        scores["rouge_l"] = rouge_l(predictions, references).mean()
        scores["cider"] = CiderD(references).score(predictions).mean()
        scores["cider_original"] = Cider(references).score(predictions).mean()
        reason = None if self.meteor is not None else meteor_unavailable_reason()
        if reason:
            logger.info("no METEOR: %s", reason)
        elif self.meteor is not False:
            scores["meteor"] = meteor(predictions, references)[0]
        return {name: 100 * float(score) for name, score in scores.items()}
