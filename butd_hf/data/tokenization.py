# SPDX-License-Identifier: Apache-2.0
"""Caption tokenizers: trained on a handful of captions or on millions, saved as stock `transformers` tokenizers."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast


PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0, 1, 2, 3

# What both kinds agree on: one spelling of each word, whatever keyboard or corpus it comes from.
SPELLING = (
    # before NFKC, which takes the acute accent apart
    normalizers.Replace(Regex("(?<=\\p{L})[\u0060\u00b4](?=\\p{L})"), "'"),
    normalizers.NFKC(),
    normalizers.Lowercase(),
    normalizers.Replace(Regex("[\u2018\u2019\u02bc]"), "'"),
    normalizers.Replace(Regex("[\u2010\u2011]"), "-"),
    normalizers.Replace(Regex("[\u00ad\u200b\ufeff]"), ""),
    # pre-tokenized corpora write "a man 's hat" and "is n't"
    normalizers.Replace(Regex(r"(?<=\p{L})\s+(?='(?:s|re|ve|ll|d|m|t)\b(?!'))"), ""),
    normalizers.Replace(Regex(r"(?<=\p{L})\s+(?=n't\b)"), ""),
)
# Words are letters and digits, with apostrophes and hyphens inside ("man's", "t-shirt"); "3.5", "10:30" and "p.m." are
# one word each, the last without its periods.
WORDS = (
    normalizers.Replace(Regex(r"(?<=\b\p{L})\.(?=\p{L}\b)"), ""),
    normalizers.Replace(Regex(r"(?!(?<=\p{N})[.,:](?=\p{N}))[^\p{L}\p{M}\p{N}'\-]"), " "),
    normalizers.Replace(Regex(r"(?<![\p{L}\p{M}\p{N}])['\-]|['\-](?![\p{L}\p{N}])"), " "),
)
# Sentences as people type them: no space before punctuation, single spaces.
SENTENCES = (
    normalizers.Replace(Regex(r"\s+(?=[.,!?;:](?:\s|$))"), ""),
    normalizers.Replace(Regex(r"\s+"), " "),
)


def train_tokenizer(
    captions: Iterable[str],
    *,
    kind: Literal["word", "bpe"] = "word",
    vocab_size: int = 10000,
    min_frequency: int = 5,
    model_max_length: int = 64,
) -> PreTrainedTokenizerFast:
    """
    Learns the vocabulary of captions. The same captions give byte-identical tokenizers, in whatever order they come.

    Text is normalised with NFKC and lowercased. `"word"` follows the idea of Karpathy and Fei-Fei's splits (2015):
    sentence punctuation is dropped and rare words become `<unk>`; unlike there, apostrophes and hyphens inside words
    stay, so that decoding gives readable text. `"bpe"` keeps punctuation and splits rare words, into bytes at worst.

    Args:
        captions: Plain captions; read once, so that a generator will do.
        kind: One token per word, or byte-level pieces of words.
        vocab_size: Upper bound on the number of tokens, the 4 special ones included; at least 260 for `"bpe"`, which
            starts from the 256 bytes.
        min_frequency: Words (or, for `"bpe"`, pairs to merge) seen fewer times are left out.
        model_max_length: Longest text in tokens that the model takes.

    Returns:
        A tokenizer with `<pad>`, `<s>`, `</s>`, `<unk>` as ids 0 to 3. It puts `<s>` before each text and nothing
        after, so that a text is the beginning of a caption, and it pads on the left.

    Raises:
        ValueError: If there are no captions, one of them is not a string, none holds a word frequent enough, or an
            argument is out of its range.
    """
    if kind not in ("word", "bpe"):
        raise ValueError(f"kind must be 'word' or 'bpe', got {kind!r}.")
    smallest = len(SPECIAL_TOKENS) + (1 if kind == "word" else 256)
    for name, value, least in (
        ("vocab_size", vocab_size, smallest),
        ("min_frequency", min_frequency, 1),
        ("model_max_length", model_max_length, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least} for kind={kind!r}, got {value!r}.")
    if isinstance(captions, (str, bytes)):
        raise ValueError(f"captions: got one {type(captions).__name__}, expected many strings.")

    tokenizer, trainer_class, options = (_word_level if kind == "word" else _byte_level)()
    trainer = trainer_class(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        **options,
    )
    # counting does not depend on the order, and sorting makes ties between merges independent of it too
    tokenizer.train_from_iterator(sorted(_checked(captions)), trainer=trainer)
    if kind == "word" and tokenizer.get_vocab_size() == len(SPECIAL_TOKENS):
        raise ValueError(
            f"no word is seen at least min_frequency={min_frequency} times, the vocabulary would be empty."
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TOKEN} $A",
        pair=f"{BOS_TOKEN} $A $B",
        special_tokens=[(BOS_TOKEN, SPECIAL_TOKENS.index(BOS_TOKEN))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        bos_token=BOS_TOKEN,
        eos_token=EOS_TOKEN,
        unk_token=UNK_TOKEN,
        padding_side="left",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,  # the decoders below leave nothing to clean up
    )


def _word_level() -> tuple[Tokenizer, type, dict[str, Any]]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK_TOKEN))
    tokenizer.normalizer = normalizers.Sequence([*SPELLING, *WORDS, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer, trainers.WordLevelTrainer, {}


def _byte_level() -> tuple[Tokenizer, type, dict[str, Any]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([*SPELLING, *SENTENCES, normalizers.Strip()])
    # the first word gets a space too, so that it is the same token as inside the caption
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return tokenizer, trainers.BpeTrainer, {"initial_alphabet": sorted(pre_tokenizers.ByteLevel.alphabet())}


def _checked(captions: Iterable[str]) -> Iterator[str]:
    is_empty = True
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise ValueError(f"captions[{index}]: got {type(caption).__name__}, expected a string.")
        is_empty = is_empty and not caption.strip()
        yield caption
    if is_empty:
        raise ValueError("captions: got none with any text in it, expected at least one.")
