# SPDX-License-Identifier: Apache-2.0
"""The tokenizer against literals verified with the Java program and, where Java exists, against the program itself."""

import random
import shutil

import pytest

from butd_hf.metrics import tokenize, tokenize_captions


# each right-hand side is what pycocoevalcap's PTBTokenizer gives
VERIFIED = [
    ("A man, a plan; a canal: Panama!", "a man a plan a canal panama"),
    ("A black dog and a tri-colored dog on the road .", "a black dog and a tri-colored dog on the road"),
    # contractions and words written together
    ("I cannot say they'll go, don't you?", "i can not say they 'll go do n't you"),
    ("gonna wanna gotta gimme lemme dunno", "gon na wan na got ta gim me lem me dunno"),
    ("gonna's", "gonna 's"),
    ("CAN'T won't ain't wouldn't've don\u2019t it\u2019s", "ca n't wo n't ai n't would n't 've do n't it 's"),
    ("a child 's toy is n't here", "a child 's toy is n't here"),
    ("the dogs' bird's-eye view", "the dogs bird 's eye view"),
    ("o'clock O'Neil y'all 'tis 'twas 'em 'til", "o'clock o'neil y' all 't is 't was 'em 'til"),
    ("rock'n'roll in the '90s, the 1990's and 90s", "rock 'n' roll in the '90s the 1990 's and 90s"),
    ("ma'am c'mon s'mores jack-o'-lantern", "ma'am c'mon s'mores jack-o lantern"),
    # quotes, brackets, dashes, dots
    ("\"hello\" 'hello' ``hi'' “hi” \u2018hi\u2019 «ab»", "hello hello hi hi hi ab"),
    ("(a man) [b] {c} <br>", "-lrb- a man -rrb- -lsb- b -rsb- -lcb- c -rcb- <br>"),
    ("a - b -- c --- d \u2013 e — f a--b semi-", "a b c d e f a b semi"),
    ("wait... wait. . . wait.... wait…", "wait wait wait wait"),
    ("hello!! hello?? ?! hello!", "hello !! hello ?? ?! hello"),
    ("dog.A man a,b end.Start", "dog.a man a b end.start"),
    ("a white,t-shirt", "a white,t-shirt"),
    # numbers, currency, symbols
    ("1,000 3.5 .5 -5 +5 1/2 3-1/2 1:30 10:30pm 5%", "1,000 3.5 .5 -5 +5 1/2 3-1/2 1:30 10:30 pm 5 %"),
    ("3 1/2 feet", "3\u00a01/2 feet"),
    ("call (555) 555-5555", "call -lrb-555-rrb-\u00a0555-5555"),
    ("$5.00 £10 €20 5¢ US$ ½ cup", "$ 5.00 # 10 $ 20 5 cents us$ 1/2 cup"),
    ("1st 2nd 4x4 3-d 4-wheel 5.5-inch 5'6\"", "1st 2nd 4x4 3-d 4-wheel 5.5-inch 5 6"),
    ("#1 #tag @name & AT&T at&t R&B b&w &amp;", "# 1 #tag @name & at&t at & t r&b b & w &"),
    ("a/b black/white w/ w/o 24/7 * a_b = C++", "a/b black/white w / w/o 24/7 * a_b = c++"),
    ("http://a.com/b?c=d www.foo.com a@b.com", "http://a.com/b?c=d www.foo.com a@b.com"),
    # abbreviations keep their period, words lose it
    ("Mr. and Mrs. Smith at St. Paul.", "mr. and mrs. smith at st. paul"),
    ("in the U.S. at 5 p.m. in an R.V. etc.", "in the u.s. at 5 p.m. in an r.v. etc."),
    ("No. 5 is no. Fig. 3 is a fig.", "no. 5 is no fig. 3 is a fig"),
    ("plan B. The dog, plan B. of it", "plan b the dog plan b. of it"),
    ("dog., Ph.D. U.S.-based", "dog. ph.d. u.s.-based"),
    # beyond ASCII: emoji vanish, symbols stay
    ("😀dog a😀b ♥ café naïve 日本語 °C ™", "dog a b ♥ café naïve 日本語 ° c ™"),
    (":) :-( ^_^ <3", ":-rrb- :--lrb- ^_^ < 3"),
    ("", ""),
    (" . ", ""),
]

NOISY_WORDS = """
a the man woman dogs dog's child's isn't can't they're tri-colored t-shirt 4x4 two-story Mr. St. U.S. p.m. 5 12 1,000
3.5 1/2 1990s cannot gonna o'clock black/white AT&T R&B #5 $20 50% 10:30 street. park, (young) "stop" 'hello' red;
wait... look! why? end.Start white,t-shirt men's - -- & runs jumping café “sign” don\u2019t :)
"""


@pytest.mark.parametrize(("caption", "expected"), VERIFIED)
def test_matches_the_java_tokenizer_literally(caption: str, expected: str) -> None:
    assert " ".join(tokenize(caption)) == expected


def test_is_stable_on_its_own_words() -> None:
    caption = "two tri-colored dogs do n't run at 5 p.m. on the child 's 4x4"
    assert " ".join(tokenize(caption)) == caption


def test_line_ends_are_spaces() -> None:
    assert tokenize_captions(["a\ndog\r\nruns\u2028fast", ""]) == ["a dog runs fast", ""]


def test_rejects_what_is_not_text() -> None:
    with pytest.raises(TypeError, match="caption must be a str, got list"):
        tokenize(["a dog"])


@pytest.mark.skipif(shutil.which("java") is None, reason="the reference tokenizer is a Java program; no `java` here")
def test_matches_the_java_tokenizer() -> None:
    ptbtokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="needs pycocoevalcap")
    captions = [caption for caption, _ in VERIFIED if caption.strip()] + noisy_captions(2000)
    # a word after each caption, since the program looks past line ends at the next caption
    captions = [f"{caption} x" for caption in captions]
    given = {index: [{"caption": caption}] for index, caption in enumerate(captions)}
    expected = ptbtokenizer.PTBTokenizer().tokenize(given)
    assert tokenize_captions(captions) == [expected[index][0] for index in range(len(captions))]


def noisy_captions(count: int) -> list[str]:
    """Random captions with the punctuation and the spellings that people write."""
    rng = random.Random(0)
    return [" ".join(rng.choices(NOISY_WORDS.split(), k=rng.randint(3, 12))) for _ in range(count)]
