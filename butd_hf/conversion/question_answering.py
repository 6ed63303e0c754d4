# SPDX-License-Identifier: Apache-2.0
"""VQA models of hengyuan-hu's PyTorch port (`bottom-up-attention-vqa`), `baseline0` and `baseline0_newatt`."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_butd import ButdModel
from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from ..modeling.processing_butd import ButdProcessor
from .checkpoint_kind import CheckpointKind, ConversionOptions, ConvertedCheckpoint
from .pickles import PickleError, read_pickle
from .sources import ConversionError, SourceCheckpoint, check_tensors


NAME = "a VQA model of hengyuan-hu's PyTorch port"
PAD_TOKEN = "<pad>"
LONGEST_QUESTION = 14  # words; the port reads padding before shorter ones
ATTENTION_DROPOUT, ANSWER_DROPOUT = 0.2, 0.5  # the port's constants
PUBLISHED_SIZES = {"words": 19902, "embedding": 300, "hidden": 1024, "region": 2048, "answer": 2048, "answers": 3129}

# layer with weight norm there -> here
LAYERS = {
    "v_att.linear": "top_down.score_proj",
    "q_net.main.0": "top_down.question_layer.up_proj",
    "v_net.main.0": "top_down.seen_layer.up_proj",
    "classifier.main.0": "top_down.answer_layer.up_proj",
    "classifier.main.3": "top_down.classifier",
}
CONCATENATING = {"v_att.nonlinear.main.0": "top_down.joint_key.up_proj"}
MULTIPLYING = {
    "v_att.v_proj.main.0": "top_down.region_key.up_proj",
    "v_att.q_proj.main.0": "top_down.question_key.up_proj",
}
PARTS = {"weight_v": "direction", "weight_g": "scale", "bias": "bias"}
RNN = {name: f"question_encoder.rnn.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")}


def recognises(names: Collection[str]) -> bool:
    """Word embeddings and attention of such names are this port's and nobody else's."""
    return all(any(name.startswith(part) for name in names) for part in ("w_emb.emb.", "q_emb.rnn.", "v_att."))


def convert(source: SourceCheckpoint, options: ConversionOptions) -> ConvertedCheckpoint:
    """A model that answers questions, with `question_variant` `"baseline0"` or `"baseline0_newatt"`.

    Raises:
        ConversionError: A tensor is missing, unknown or misshapen, the dictionary is not given, a list is of another
            size than the tensors say, or the regions of `options.bottom_up` have another size.
    """
    by_product = any(name.startswith("v_att.v_proj.") for name in source.tensors)
    layers = {**LAYERS, **(MULTIPLYING if by_product else CONCATENATING)}
    sizes = find_sizes(source.tensors)
    check_tensors(source, expected_shapes(sizes, by_product), NAME)
    if source.tensors["w_emb.emb.weight"][-1].any():
        raise ConversionError(f"{source.file}: the last word of w_emb.emb.weight is padding, expected zeros.")
    if options.vocabulary is None:
        raise ConversionError(
            f"{source.file} is {NAME}: give its dictionary.pkl, or its words as JSON (--vocabulary)."
        )
    words = read_list(options.vocabulary, sizes["words"] - 1, "words", source.file)
    answers = [f"LABEL_{index}" for index in range(sizes["answers"])]
    if options.answers is not None:
        answers = read_list(options.answers, sizes["answers"], "answers", source.file)

    bottom_up, bottom_up_config = None, {"selector": "given", "region_size": sizes["region"]}
    image_processor = ButdImageProcessor()
    if options.bottom_up is not None:
        named = ButdModel.from_pretrained(options.bottom_up)
        bottom_up, bottom_up_config = named.bottom_up, named.config.bottom_up_config.to_dict()
        image_processor = ButdImageProcessor.from_pretrained(options.bottom_up)
        if bottom_up.region_size != sizes["region"]:
            raise ConversionError(
                f"--bottom-up {options.bottom_up} has regions of size {bottom_up.region_size}, {source.file} wants "
                f"{sizes['region']}."
            )
    model = ButdForQuestionAnswering(build_config(sizes, by_product, answers, bottom_up_config))
    weights = {"question_encoder.embed_tokens.weight": source.tensors["w_emb.emb.weight"]}
    weights |= {ours: source.tensors[f"q_emb.rnn.{theirs}"] for theirs, ours in RNN.items()}
    for theirs, ours in layers.items():
        weights |= {f"{ours}.{part}": source.tensors[f"{theirs}.{name}"] for name, part in PARTS.items()}
    if bottom_up is not None:
        weights |= {f"bottom_up.{name}": weight for name, weight in bottom_up.state_dict().items()}
    model.load_state_dict(weights)  # strictly: every weight is one of the port's, or of the bottom-up half
    return ConvertedCheckpoint(
        model=model.eval(),
        processor=ButdProcessor(image_processor, build_tokenizer(words)),
        card=card(source, options),
    )


def find_sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The model's sizes, read off its tensors; of those that are missing or no matrices, the published ones."""
    places = {
        "words": ("w_emb.emb.weight", 0),
        "embedding": ("w_emb.emb.weight", 1),
        "hidden": ("q_net.main.0.weight_v", 0),
        "region": ("v_net.main.0.weight_v", 1),
        "answer": ("classifier.main.3.weight_v", 1),
        "answers": ("classifier.main.3.weight_v", 0),
    }
    sizes = dict(PUBLISHED_SIZES)
    for size, (name, dimension) in places.items():
        if name in tensors and tensors[name].dim() == 2:
            sizes[size] = tensors[name].shape[dimension]
    return sizes


def expected_shapes(sizes: Mapping[str, int], by_product: bool) -> dict[str, tuple[int, ...]]:
    """All that the port's model saves, at these sizes."""
    hidden, region, embedding = sizes["hidden"], sizes["region"], sizes["embedding"]
    shapes: dict[str, tuple[int, ...]] = {"w_emb.emb.weight": (sizes["words"], embedding)}
    shapes |= {"q_emb.rnn.weight_ih_l0": (3 * hidden, embedding), "q_emb.rnn.weight_hh_l0": (3 * hidden, hidden)}
    shapes |= {"q_emb.rnn.bias_ih_l0": (3 * hidden,), "q_emb.rnn.bias_hh_l0": (3 * hidden,)}
    linears = {
        "v_att.linear": (1, hidden),
        "q_net.main.0": (hidden, hidden),
        "v_net.main.0": (hidden, region),
        "classifier.main.0": (sizes["answer"], hidden),
        "classifier.main.3": (sizes["answers"], sizes["answer"]),
    }
    if by_product:
        linears |= {"v_att.v_proj.main.0": (hidden, region), "v_att.q_proj.main.0": (hidden, hidden)}
    else:
        linears |= {"v_att.nonlinear.main.0": (hidden, region + hidden)}
    for layer, shape in linears.items():
        shapes |= {f"{layer}.weight_v": shape, f"{layer}.weight_g": (), f"{layer}.bias": shape[:1]}
    return shapes


def build_config(
    sizes: Mapping[str, int], by_product: bool, answers: list[str], bottom_up_config: dict[str, Any]
) -> ButdConfig:
    """The config of a converted model."""
    names = dict(enumerate(answers))
    return ButdConfig(
        bottom_up_config=bottom_up_config,
        top_down_config={
            "decoder": "gru",
            "question_variant": "baseline0_newatt" if by_product else "baseline0",
            "vocab_size": sizes["words"],
            "hidden_size": sizes["hidden"],
            "embedding_size": sizes["embedding"],
            "answer_size": sizes["answer"],
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "num_region_layers": 0,
            "num_glimpses": 1,
            "max_position_embeddings": LONGEST_QUESTION,
            "dropout": 0.0,
            "attention_dropout": ATTENTION_DROPOUT,
            "answer_dropout": ANSWER_DROPOUT,
            "pad_token_id": sizes["words"] - 1,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        id2label=names,
        label2id={name: index for index, name in names.items()},
        problem_type="multi_label_classification",  # soft scores through sigmoids
        tie_word_embeddings=False,
    )


def read_list(file: Path, count: int, what: str, source: Path) -> list[str]:
    """Words or answers in the order of their indices.

    Args:
        file: A pickle of the port's (`dictionary.pkl`, which is `[word2idx, idx2word]`, or `trainval_label2ans.pkl`;
            read as plain data, nothing in it is run), or a JSON list.
        count: How many there must be.
        what: What messages call them.
        source: The checkpoint they belong to.

    Raises:
        ConversionError: The file cannot be read, holds something else, or another number of them.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else read_pickle(file)
    except (PickleError, OSError, ValueError) as error:
        raise ConversionError(f"{file} cannot be read: {error}") from error
    if isinstance(content, (list, tuple)) and len(content) == 2 and isinstance(content[0], Mapping):
        content = content[1]
    if not isinstance(content, list) or not all(isinstance(entry, str) for entry in content):
        raise ConversionError(f"{file} holds no list of {what}.")
    if len(content) != count:
        raise ConversionError(f"{file} has {len(content)} {what}, {source} knows {count}.")
    if len(set(content)) != count:
        repeated = sorted({entry for entry in content if content.count(entry) > 1})
        raise ConversionError(f"{file} has {what} twice: {', '.join(repeated[:5])}.")
    return content


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose ids are the port's: words from 0, then padding.

    It cleans questions up as the port does: lower case, without commas and question marks, `'s` a word of its own. A
    word that isn't known is read as a blank in its place, as padding is; the port knew every word of its data.
    """
    vocabulary = {**{word: index for index, word in enumerate(words)}, PAD_TOKEN: len(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD_TOKEN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(",", ""),
            normalizers.Replace("?", ""),
            normalizers.Replace("'s", " 's"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        unk_token=PAD_TOKEN,
        padding_side="left",
        model_max_length=LONGEST_QUESTION,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def card(source: SourceCheckpoint, options: ConversionOptions) -> dict[str, Any]:
    """What the card says of a checkpoint that others trained."""
    limits = ["The weights were trained elsewhere and converted; nothing was measured again."]
    if options.bottom_up is None:
        limits.append("It has no eyes of its own: it takes region features, those of the detector it was trained on.")
    else:
        limits.append("It knows the features of the detector that it was trained on: any other's mislead it.")
    if options.answers is None:
        limits.append("Its answers have no names: the list of them wasn't given when it was converted.")
    return {
        "data": f"Converted from `{source.file.name}`, {NAME}. The file doesn't tell what it was trained on; the port "
        "was made for VQA v2.",
        "licence": "That of the weights which were converted: whoever published them decides.",
        "limits": limits,
        "task": "visual-question-answering",
    }


KIND = CheckpointKind(NAME, recognises, convert)
