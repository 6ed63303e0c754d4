# SPDX-License-Identifier: Apache-2.0
"""Accuracy of answers as the official evaluation of VQA v2 counts it, exact match, and WUPS."""

from collections import defaultdict
from collections.abc import Sequence

from ..data.answers import answer_scores, normalize_answer
from .inputs import check_captions
from .wups import WordNetUnavailableError, wordnet_unavailable_reason, wups


def score_answers(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    together: bool = False,
    question_types: Sequence[str] | None = None,
    answer_types: Sequence[str] | None = None,
    wups: bool | None = False,
) -> dict[str, float]:
    """Scores answers to questions. Both sides are normalised; the official script leaves both as they are where all
    people agree to the letter.

    Args:
        predictions: One answer per question; with `together`, several may be separated by commas.
        references: Of each question the answers of several people, or one answer, or a set.
        together: The answers to a question are a set that is right together, as in DAQUAR.
        question_types, answer_types: Of each question, for a table of accuracy for each of them.
        wups: True insists on WUPS, None computes it with `together` where WordNet is available; False saves seconds.

    Returns:
        In 0..100: `exact_match`, answers that are the right one (that of most people, or the whole set), and
        `exact_match_single`, the same of the questions that have a single right answer. Without `together`,
        `vqa_accuracy`, which leaves out one person at a time, and `vqa_accuracy_simplified`, min(1, n / 3) for n who
        agree. `wups_90`, `wups_0`, if computed. `accuracy_answer_type_number`, `accuracy_question_type_what is`, ...:
        vqa_accuracy, or exact_match with `together`.

    Raises:
        TypeError: An argument or one of its items has the wrong type.
        ValueError: There is nothing to score, lengths differ, or a question has no reference.
        WordNetUnavailableError: `wups` is True, and there is no WordNet.
    """
    check_captions(predictions, references)
    marks: dict[str, list[float]] = defaultdict(list)
    predicted, right = [], [sorted(set(map(normalize_answer, answers))) for answers in references]
    for prediction, answers, normalized in zip(predictions, references, right, strict=True):
        parts = prediction.split(",") if together else [prediction]
        predicted.append(sorted(set(map(normalize_answer, parts))))
        if together:
            exact = float(predicted[-1] == normalized)
        else:
            (answer,) = predicted[-1]
            official = answer_scores(answers)
            exact = float(official.get(answer, -1.0) == max(official.values(), default=0.0))
            marks["vqa_accuracy"].append(official.get(answer, 0.0))
            marks["vqa_accuracy_simplified"].append(answer_scores(answers, form="simplified").get(answer, 0.0))
        marks["exact_match"].append(exact)
        if len(normalized) == 1:
            marks["exact_match_single"].append(exact)

    scores = {name: 100.0 * sum(values) / len(values) for name, values in marks.items()}
    if wups or (wups is None and together and wordnet_unavailable_reason() is None):
        scores.update(wups_scores(predicted, right))
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


def wups_scores(predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """WUPS@0.9 and WUPS@0.0 of normalised answers."""
    return {"wups_90": wups(predicted, right, 0.9), "wups_0": wups(predicted, right, 0.0)}


__all__ = ["WordNetUnavailableError", "score_answers"]
