# SPDX-License-Identifier: Apache-2.0
"""How right answers to questions about pictures are, as a table and behind the interface of the `evaluate` library."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from ..data.answers import answer_scores, normalize_answer
from .inputs import check_captions
from .wups import WordNetUnavailableError, wordnet_unavailable_reason, wups


_DESCRIPTION = """
Accuracy of answers as the official evaluation of VQA v2 counts it, exact match, and WUPS where WordNet is available.
"""

_CITATION = """
@inproceedings{antol2015vqa,
  title     = {{VQA}: Visual Question Answering},
  author    = {Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
               Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {International Conference on Computer Vision},
  year      = {2015}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (list of str): one answer per question; with `together`, several may be separated by commas.
    references (list of lists of str): the answers of several people, or one answer, or a set.
    together (bool): the answers to a question are a set that is right together, as in DAQUAR; False by default.
    question_types, answer_types (list of str, optional): a table of accuracy for each of them.
    wups (bool, optional): True insists on WUPS, None computes it with `together` where WordNet is available; False,
        the default, saves the seconds that this takes.

Returns:
    exact_match: answers that are the right one, in 0..100: that of most people, or the whole set.
    exact_match_single: the same of the questions that have a single right answer.
    vqa_accuracy, vqa_accuracy_simplified: the official accuracy, which leaves out one person at a time, and
        min(1, n / 3) for n who agree; without `together`.
    wups_90, wups_0: WUPS with the thresholds 0.9 and 0.0, if computed.
    accuracy_answer_type_number, accuracy_question_type_what is, ...: vqa_accuracy, or exact_match with `together`.

Example:
    >>> metric = VqaMetric()
    >>> scores = metric.compute(predictions=["2"], references=[["two", "2", "3", "2"]])
"""


def score_answers(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    together: bool = False,
    question_types: Sequence[str] | None = None,
    answer_types: Sequence[str] | None = None,
    wups: bool | None = False,
) -> dict[str, float]:
    """
    Scores answers; arguments and results are those of `VqaMetric`.

    Both sides are normalised. (The official script leaves both as they are where all people agree to the letter.)

    Raises:
        TypeError: An argument or one of its items has the wrong type.
        ValueError: There is nothing to score, lengths differ, or a question has no reference.
        WordNetUnavailableError: `wups` is True, and there is no WordNet.
    """
    check_captions(predictions, references)
    marks: dict[str, list[float]] = defaultdict(list)
    found: list[list[str]] = []
    for prediction, answers in zip(predictions, references, strict=True):
        parts = prediction.split(",") if together else [prediction]
        found.append(sorted({normalize_answer(part) for part in parts}))
        right = {normalize_answer(answer) for answer in answers}
        if together:
            exact = float(set(found[-1]) == right)
        else:
            official = answer_scores(answers)
            best = max(official.values(), default=0.0)
            exact = float(official.get(found[-1][0], -1.0) == best)
            marks["vqa_accuracy"].append(official.get(found[-1][0], 0.0))
            simplified = answer_scores(answers, form="simplified")
            marks["vqa_accuracy_simplified"].append(simplified.get(found[-1][0], 0.0))
        marks["exact_match"].append(exact)
        if len(right) == 1:
            marks["exact_match_single"].append(exact)

    scores = {name: 100.0 * sum(values) / len(values) for name, values in marks.items()}
    if wups or (wups is None and together and wordnet_unavailable_reason() is None):
        scores.update(wups_scores(found, references))
    accuracy = marks["exact_match" if together else "vqa_accuracy"]
    for kind, types in (("answer_type", answer_types), ("question_type", question_types)):
        if types is None:
            continue
        if len(types) != len(accuracy):
            raise ValueError(f"{kind}s must have one item per prediction ({len(accuracy)}), got {len(types)}.")
        of_type: dict[str, list[float]] = defaultdict(list)
        for name, value in zip(types, accuracy, strict=True):
            of_type[name].append(value)
        for name, values in sorted(of_type.items(), key=lambda item: (-len(item[1]), item[0])):
            scores[f"accuracy_{kind}_{name}"] = 100.0 * sum(values) / len(values)
    return scores


def wups_scores(found: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """WUPS@0.9 and WUPS@0.0 of normalised answers."""
    right = [sorted({normalize_answer(answer) for answer in answers}) for answers in references]
    return {"wups_90": wups(found, right, threshold=0.9), "wups_0": wups(found, right, threshold=0.0)}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS_DESCRIPTION)
class VqaMetric(evaluate.Metric):
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
            codebase_urls=["https://github.com/GT-Vision-Lab/VQA"],
        )

    def compute(
        self,
        *,
        predictions: Sequence[str] | None = None,
        references: Sequence[Sequence[str]] | None = None,
        **options: Any,
    ) -> dict[str, float] | None:
        """Scores the answers given here or, without arguments, those added before."""
        if predictions is not None and references is not None:
            # the library would turn numbers into text and report the rest as an Arrow error
            check_captions(predictions, references)
        elif len(self) == 0:
            raise ValueError("predictions is empty: give answers to `compute`, or to `add_batch` before it")
        return evaluate.Metric.compute(self, predictions=predictions, references=references, **options)

    def _compute(
        self, *, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
    ) -> dict[str, float]:
        return score_answers(predictions, references, **options)


__all__ = ["VqaMetric", "WordNetUnavailableError", "score_answers"]
