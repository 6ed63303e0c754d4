# SPDX-License-Identifier: Apache-2.0
import pytest

from butd_hf.data.answers import answer_kind, answer_scores, build_answers, normalize_answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two", "2"),
        ("The dog.", "dog"),
        ("dont know", "don't know"),
        ("somebody'd", "somebodyd"),  # as the official table has it
        ("t-shirt", "t shirt"),
        ("yes!", "yes"),  # no space beside the sign: it becomes one, which goes at the end
        ("yes, it is", "yes it is"),
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),  # a number with thousands takes every sign away
        ("3.5", "3.5"),
        ("5.30 p.m.", "5.30 pm"),
        ("garbage_bin", "garbage bin"),
        ("new\nyork\tcity ", "new york city"),
        ("ten (10)", "10 10"),
        ("50%", "50%"),
    ],
)
def test_spelling_is_the_official_one(answer, expected):
    """Each case was worked out by hand from the published rules of VQA's evaluation."""
    assert normalize_answer(answer) == expected
    assert normalize_answer(expected) == expected or "." in expected


def test_nothing_becomes_empty():
    assert normalize_answer("a") == "a"
    assert normalize_answer("The") == "the"
    assert normalize_answer("?!") == "?!"
    assert normalize_answer("") == ""
    assert normalize_answer("." * 40) == "." * 8  # the official script stops at the 32nd period


@pytest.mark.parametrize(("count", "expected"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_leave_one_out_of_ten_people(count, expected):
    answers = ["red"] * count + [f"other {index}" for index in range(10 - count)]
    assert answer_scores(answers)["red"] == pytest.approx(expected)
    assert answer_scores(answers, form="simplified")["red"] == pytest.approx(min(1.0, count / 3))


def test_a_set_is_right_together_and_one_answer_alone():
    assert answer_scores(["books", "garbage_bin"], together=True) == {"books": 1.0, "garbage bin": 1.0}
    assert answer_scores(["Two"]) == {"2": 1.0}
    assert answer_scores([]) == {}
    with pytest.raises(ValueError, match="form must be"):
        answer_scores(["a"], form="soft")


def test_vocabulary_counts_questions():
    rows = [
        {"answers": ["2"], "together": True},
        {"answers": ["two", "lamp"], "together": True},
        {"answers": ["Lamp"] * 6 + ["light"] * 4, "together": False},
        {"answers": ["chair"], "together": True},
    ]
    assert build_answers(rows) == ["2", "lamp", "chair"]  # most frequent first, then by the alphabet
    assert build_answers(rows, min_count=2) == ["2", "lamp"]
    assert build_answers(rows, max_answers=1) == ["2"]
    with pytest.raises(ValueError, match="min_count=9"):
        build_answers(rows, min_count=9)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["yes"] * 6 + ["no"] * 4, "yes/no"),
        (["two"], "number"),
        (["3.5"], "number"),
        (["red"], "other"),
        ([], "other"),
    ],
)
def test_kinds_of_answers(answers, kind):
    assert answer_kind(answers) == kind
