# SPDX-License-Identifier: Apache-2.0
"""Vocabularies that lie beside published captioners, and tokenizers that read and write their words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .pickles import PickleError, read_pickle
from .sources import ConversionError


END_TOKEN = "</s>"  # index 0, which begins, ends and pads captions and has no word of its own
UNKNOWN_TOKEN = "UNK"
WORD_TABLES = ("vocab", "ix_to_word")  # under which infos and data set files keep their words
PUNCTUATION = r"[!-/:-@\[-`{-~]"  # Python's string.punctuation


@dataclass(frozen=True)
class PublishedVocabulary:
    """
    Args:
        words: Of the indices 1, 2, ...
        options: What the model was trained with, if the file tells.
    """

    words: list[str]
    options: dict[str, Any] = field(default_factory=dict)


def read_vocabulary(file: Path) -> PublishedVocabulary:
    """Reads the words of a captioner.

    Args:
        file: The infos pickle of ruotianluo's code (`vocab` and `opt`; read as plain data, nothing in it is run), or
            JSON: its data set file (`ix_to_word`), or indices and words alone, `{"1": "a", "2": "dog"}`.

    Raises:
        ConversionError: The file cannot be read, or its indices are not 1, 2, ... without a gap.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else read_pickle(file)
    except (PickleError, OSError, ValueError) as error:
        raise ConversionError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ConversionError(f"{file} holds a {type(content).__name__}, expected a dict with {WORD_TABLES}.")
    table = next((content[name] for name in WORD_TABLES if name in content), content)
    options = content.get("opt", {})
    if not isinstance(options, Mapping):
        options = vars(options) if hasattr(options, "__dict__") else {}
    try:
        words = {int(index): word for index, word in table.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ConversionError(f"{file} has no table from indices to words ({error}).") from error
    if sorted(words) != list(range(1, len(words) + 1)) or not words:
        raise ConversionError(f"{file}: indices must be 1 to {len(words)}, got {shown(sorted(words))}.")
    strange = [(index, word) for index, word in words.items() if not isinstance(word, str) or not word]
    if strange:
        raise ConversionError(f"{file}: every index needs a word, got {shown(strange)}.")
    return PublishedVocabulary([words[index] for index in sorted(words)], dict(options))


def build_tokenizer(words: list[str], model_max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are a published model's indices: `</s>` is 0, `words[i]` is `i + 1`.

    It splits text as the vocabulary was made (neuraltalk2, `prepro.py`): lower case, without punctuation, at spaces.
    """
    vocabulary = {END_TOKEN: 0, **{word: index for index, word in enumerate(words, start=1)}}
    if len(vocabulary) != len(words) + 1:
        repeated = sorted({word for word in words if words.count(word) > 1 or word == END_TOKEN})
        raise ConversionError(f"the vocabulary has words twice: {shown(repeated)}.")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(PUNCTUATION), ""), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_TOKEN} $A", pair=f"{END_TOKEN} $A $B", special_tokens=[(END_TOKEN, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_TOKEN,
        bos_token=END_TOKEN,
        eos_token=END_TOKEN,
        unk_token=UNKNOWN_TOKEN if UNKNOWN_TOKEN in vocabulary else None,
        padding_side="left",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def shown(values: list, count: int = 5) -> str:
    """The first few of many values."""
    return ", ".join(map(str, values[:count])) + (f", ... ({len(values)} in all)" if len(values) > count else "")
