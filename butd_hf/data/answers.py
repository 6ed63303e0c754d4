# SPDX-License-Identifier: Apache-2.0
"""Answers to questions: their official spelling, how much each counts, and the vocabulary of a data set."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal


# apostrophes as VQA's evaluation puts them back: each word that has lost some, and what it becomes
CONTRACTIONS_TABLE = """
aint ain't arent aren't cant can't couldve could've couldnt couldn't couldn'tve couldn't've couldnt've couldn't've
didnt didn't doesnt doesn't dont don't hadnt hadn't hadnt've hadn't've hadn'tve hadn't've hasnt hasn't havent haven't
hed he'd hed've he'd've he'dve he'd've hes he's howd how'd howll how'll hows how's isnt isn't itd it'd
itd've it'd've it'dve it'd've itll it'll maam ma'am mightnt mightn't mightnt've mightn't've mightn'tve mightn't've
mightve might've mustnt mustn't mustve must've neednt needn't notve not've oclock o'clock oughtnt oughtn't
ow's'at 'ow's'at 'ows'at 'ow's'at 'ow'sat 'ow's'at shant shan't shed've she'd've she'dve she'd've shouldve should've
shouldnt shouldn't shouldnt've shouldn't've shouldn'tve shouldn't've somebody'd somebodyd
somebodyd've somebody'd've somebody'dve somebody'd've somebodyll somebody'll somebodys somebody's someoned someone'd
someoned've someone'd've someone'dve someone'd've someonell someone'll someones someone's somethingd something'd
somethingd've something'd've something'dve something'd've somethingll something'll thats that's thered there'd
thered've there'd've there'dve there'd've therere there're theres there's theyd they'd theyd've they'd've
they'dve they'd've theyll they'll theyre they're theyve they've twas 'twas wasnt wasn't wed've we'd've we'dve we'd've
weve we've werent weren't whatll what'll whatre what're whats what's whatve what've whens when's whered where'd
wheres where's whereve where've whod who'd whod've who'd've who'dve who'd've wholl who'll whos who's whove who've
whyll why'll whyre why're whys why's wont won't wouldve would've wouldnt wouldn't wouldnt've wouldn't've
wouldn'tve wouldn't've yall y'all yall'll y'all'll y'allll y'all'll yall'd've y'all'd've y'alld've y'all'd've
y'all'dve y'all'd've youd you'd youd've you'd've you'dve you'd've youll you'll youre you're youve you've
"""
WORDS_OF_TABLE = CONTRACTIONS_TABLE.split()
CONTRACTIONS = dict(zip(WORDS_OF_TABLE[::2], WORDS_OF_TABLE[1::2], strict=True))

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBER_WORDS)}}
ARTICLES = frozenset({"a", "an", "the"})

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
THOUSANDS = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
MOST_PERIODS = 32  # the official script passes a flag of this value where the number of replacements belongs

# how many of the other nine people must agree for an answer to be wholly right
AGREEING = 3

TargetForm = Literal["leave_one_out", "simplified"]


def normalize_answer(answer: str) -> str:
    """An answer in the spelling that the official evaluation of VQA v2 compares (Antol et al. 2015, arXiv 1505.00468).

    Punctuation goes, number words become digits, articles go, contractions get their apostrophes back. What would
    leave nothing, such as "a" or "?", is kept in lower case: two different answers never both become the empty string.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_thousands = THOUSANDS.search(text) is not None
    cleaned = text
    for sign in PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if beside_space or has_thousands else " ")
    cleaned = PERIOD.sub("", cleaned, count=MOST_PERIODS)
    words = [NUMBERS.get(word, word) for word in cleaned.lower().split()]
    words = [CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES]
    return " ".join(words) or " ".join(text.lower().split())


def answer_scores(
    answers: Sequence[str], *, together: bool = False, form: TargetForm = "leave_one_out"
) -> dict[str, float]:
    """How right each answer is, in (0, 1], given what people said.

    Args:
        answers: Of several people, or one answer, or a set.
        together: The answers are a set that is right together ("what is on the table": books and lamp), each with the
            score 1; by default they are alternatives, of which more count the more people agree.
        form: `"simplified"` is min(1, n / 3) for n who agree. `"leave_one_out"`, the official form, averages that over
            all groups that leave out one person: .3, .6, .9 and 1 for 1, 2, 3 and 4 or more of ten.

    Returns:
        Normalised answers with their scores, those with most agreement first.

    Raises:
        ValueError: If `form` is neither of the two.
    """
    if form not in ("leave_one_out", "simplified"):
        raise ValueError(f"form must be 'leave_one_out' or 'simplified', got {form!r}.")
    counts = Counter(normalize_answer(answer) for answer in answers)
    if together or len(answers) == 1:
        return dict.fromkeys(counts, 1.0)
    scores = {}
    for answer, count in counts.most_common():
        with_it = min(1.0, count / AGREEING)
        if form == "leave_one_out":
            without_one = min(1.0, (count - 1) / AGREEING)
            with_it = (count * without_one + (len(answers) - count) * with_it) / len(answers)
        if with_it > 0:
            scores[answer] = with_it
    return scores


def build_answers(
    questions: Iterable[dict[str, Any]], *, min_count: int = 1, max_answers: int | None = None
) -> list[str]:
    """The answers worth learning: normalised, most frequent first, ties in alphabetical order.

    Args:
        questions: Rows with `answers` and `together`, as `load_questions` gives them. An answer counts once for every
            question that it is right for; where people differ, the one that most of them gave counts alone.
        min_count: Rarer answers are left out. Published VQA v2 models use 9 and have 3,129 answers.
        max_answers: At most this many.

    Returns:
        The answers, whose places are their labels.

    Raises:
        ValueError: If no answer is frequent enough.
    """
    counts: Counter[str] = Counter()
    for row in questions:
        scores = answer_scores(row["answers"], together=row["together"])
        counts.update(scores if row["together"] else list(scores)[:1])
    answers = sorted((answer for answer in counts if counts[answer] >= min_count), key=lambda a: (-counts[a], a))
    if not answers:
        raise ValueError(f"no answer is seen at least min_count={min_count} times, the vocabulary would be empty.")
    return answers[:max_answers]


def answer_kind(answers: Sequence[str]) -> str:
    """What kind of answer VQA v2 would call it: `yes/no`, `number` or `other`; the majority's where people differ."""
    best = next(iter(answer_scores(answers)), "")
    if best in ("yes", "no"):
        return "yes/no"
    return "number" if best.replace(".", "").isdecimal() else "other"


__all__ = ["answer_kind", "answer_scores", "build_answers", "normalize_answer"]
