# SPDX-License-Identifier: Apache-2.0
"""Which questions of a table can be learned from, or scored."""

from collections.abc import Collection

from datasets import Dataset

from .answers import answer_scores
from .flaws import Flaws


def answered_rows(table: Dataset, split: str | None, source: str, limit: int) -> Dataset:
    """The first questions of a split that have answers. Raises `ValueError` if there are none."""
    splits = list(table["split"])
    answered = [len(answers) > 0 for answers in table["answers"]]
    rows = [row for row, name in enumerate(splits) if name == split and answered[row]]
    if not rows:
        raise ValueError(f"{source} has no answers in split {split!r}, but {sorted(set(splits))}.")
    return table.select(rows[: limit or None])


def learnable_rows(table: Dataset, known: Collection[str], strict: bool) -> Dataset:
    """
    The questions with an answer that the model knows: the others teach a cross-entropy nothing.

    Raises:
        ValueError: With `strict`, the first of the others.
    """
    flaws, known, rows = Flaws(ValueError, strict), set(known), []
    for row, (question_id, answers, together) in enumerate(
        zip(table["question_id"], table["answers"], table["together"], strict=True)
    ):
        if known.isdisjoint(answer_scores(answers, together=together)):
            flaws.note("questions with no answer that the model knows", f"question {question_id}: {answers[:3]}")
        else:
            rows.append(row)
    flaws.report()
    return table.select(rows)


__all__ = ["answered_rows", "learnable_rows"]
