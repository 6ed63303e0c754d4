# SPDX-License-Identifier: Apache-2.0
import random

import pytest
from transformers import AutoTokenizer

from butd_hf.data import train_tokenizer


CAPTIONS = [
    "A man's T-shirt, with “quotes”, is 3.5 m long .",
    "The dogs' ball -- it isn't red; isn\u2019t it?",
    "A man 's hat is n't on the table.",
    "Two women in the 1,000-seat café at 10:30 p.m. rock 'n' roll!",
    "a dog—running  (fast) past the 'd' key & more…",
]
WORDS = [
    "a man's t-shirt with quotes is 3.5 m long",
    "the dogs ball it isn't red isn't it",
    "a man's hat isn't on the table",
    "two women in the 1,000-seat café at 10:30 pm rock n roll",
    "a dog running fast past the d key more",
]
SENTENCES = [
    "a man's t-shirt, with “quotes”, is 3.5 m long.",
    "the dogs' ball -- it isn't red; isn't it?",
    "a man's hat isn't on the table.",
    "two women in the 1,000-seat café at 10:30 p.m. rock 'n' roll!",
    "a dog—running (fast) past the 'd' key & more...",
]


@pytest.fixture(params=["word", "bpe"])
def kind(request):
    return request.param


def text_of(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


def test_decoding_gives_readable_text(kind):
    tokenizer = train_tokenizer(CAPTIONS, kind=kind, min_frequency=1)
    for caption, expected in zip(CAPTIONS, WORDS if kind == "word" else SENTENCES, strict=True):
        assert text_of(tokenizer, tokenizer(caption).input_ids) == expected
        assert text_of(tokenizer, tokenizer(expected).input_ids) == expected  # normalised text stays as it is


@pytest.mark.parametrize(
    ("text", "word"),
    [("it`s", "it's"), ("it\u00b4s", "it's"), ("\uff2d\uff21\uff2e", "man"), ("U.S.A.", "usa"), ("-- 'x' --", "x")],
)
def test_one_spelling_of_each_word(text, word):
    tokenizer = train_tokenizer([text, "a"], min_frequency=1)
    assert text_of(tokenizer, tokenizer(text).input_ids) == word


def test_special_tokens_sides_and_bounds(kind):
    tokenizer = train_tokenizer(CAPTIONS, kind=kind, min_frequency=1, model_max_length=7)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3) and tokenizer.model_max_length == 7
    assert tokenizer("").input_ids == [1]
    batch = tokenizer(["a", "a man's hat"], padding=True)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch.input_ids[0][-2] == 1 and batch.input_ids[0][0] == 0 and batch.attention_mask[0][0] == 0
    assert 2 not in batch.input_ids[1] and text_of(tokenizer, [0, 1, 2]) == ""
    assert (3 in tokenizer("zebra ☃").input_ids) == (kind == "word")
    smallest = 270 if kind == "bpe" else 9
    assert len(train_tokenizer(CAPTIONS, kind=kind, vocab_size=smallest, min_frequency=1)) == smallest
    rare = train_tokenizer(["a dog", "a cat"], min_frequency=2)
    assert rare.get_vocab() == {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "a": 4}


def test_same_captions_give_the_same_bytes_and_saving_keeps_them(kind, tmp_path):
    captions = CAPTIONS * 3
    contents = set()
    for seed in range(2):
        random.Random(seed).shuffle(captions)
        tokenizer = train_tokenizer(iter(captions), kind=kind, vocab_size=300, min_frequency=2)
        tokenizer.save_pretrained(tmp_path)
        contents.add((tmp_path / "tokenizer.json").read_bytes())
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    contents.add((tmp_path / "again" / "tokenizer.json").read_bytes())
    assert len(contents) == 1
    assert loaded.padding_side == "left" and loaded(CAPTIONS).input_ids == tokenizer(CAPTIONS).input_ids


@pytest.mark.parametrize(
    ("captions", "options", "message"),
    [
        ([], {}, "none with any text"),
        ("a dog", {}, "got one str"),
        (["a dog", None], {}, r"captions\[1\]: got NoneType"),
        (CAPTIONS, {"kind": "char"}, "char"),
        (CAPTIONS, {"vocab_size": 4}, "at least 5"),
        (CAPTIONS, {"kind": "bpe", "vocab_size": 259}, "at least 260"),
        (CAPTIONS, {"min_frequency": 0}, "min_frequency"),
        (CAPTIONS, {"min_frequency": 99}, "min_frequency=99"),
    ],
)
def test_arguments_that_cannot_be_used(captions, options, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(captions, **options)
