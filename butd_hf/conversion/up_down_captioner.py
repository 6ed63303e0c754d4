# SPDX-License-Identifier: Apache-2.0
"""Up-Down captioners of ruotianluo's PyTorch port (`ImageCaptioning.pytorch`, `self-critical.pytorch`)."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_butd import ButdModel
from ..modeling.modeling_captioning_butd import ButdForConditionalGeneration
from ..modeling.processing_butd import ButdProcessor
from .checkpoint_kind import CheckpointKind, ConversionOptions, ConvertedCheckpoint
from .published_vocabulary import PublishedVocabulary, build_tokenizer, read_vocabulary
from .sources import ConversionError, SourceCheckpoint, check_tensors


NAME = "an Up-Down captioner of ruotianluo's PyTorch port"

# module there -> module of the decoder here; `att_embed` and `logit` apart
MODULES = {
    "embed.0": "embed_tokens",
    "fc_embed.0": "pooled_proj",
    "ctx2att": "key_proj",
    "core.att_lstm": "cell.attention_lstm",
    "core.lang_lstm": "cell.language_lstm",
    "core.attention.h2att": "cell.attention.query_proj",
    "core.attention.alpha_net": "cell.attention.score_proj",
}
PUBLISHED_SIZES = {"vocabulary": 9488, "embedding": 1000, "hidden": 1000, "attention": 512, "region": 2048}
LONGEST_CAPTION = 16  # words, the port's seq_length
NUM_BEAMS = 5  # as published
NORM_EPSILON = 1e-5  # torch's BatchNorm1d


def recognises(names: Collection[str]) -> bool:
    """Two LSTMs of such names are Up-Down's and nobody else's."""
    return all(any(name.startswith(part) for name in names) for part in ("core.att_lstm.", "core.lang_lstm."))


def convert(source: SourceCheckpoint, options: ConversionOptions) -> ConvertedCheckpoint:
    """A captioner with the decoder `"lstm"` in its variant `"port"`.

    Raises:
        ConversionError: A tensor is missing, unknown or misshapen, the vocabulary is not given or of another size, or
            the regions of `options.bottom_up` have another size.
    """
    sizes = find_sizes(source.tensors)
    check_tensors(source, expected_shapes(source.tensors, sizes), NAME)
    if options.vocabulary is None:
        raise ConversionError(f"{source.file} is {NAME}: give its infos pickle, or its words as JSON (--vocabulary).")
    vocabulary = read_vocabulary(options.vocabulary)
    if len(vocabulary.words) + 1 != sizes["vocabulary"]:
        raise ConversionError(
            f"{options.vocabulary} has {len(vocabulary.words)} words, {source.file} knows {sizes['vocabulary'] - 1}."
        )
    for option in ("bos_idx", "eos_idx", "pad_idx"):
        if vocabulary.options.get(option, 0) != 0:
            raise ConversionError(f"{options.vocabulary}: {option} is {vocabulary.options[option]}, expected 0.")

    bottom_up, bottom_up_config, image_processor = None, {"selector": "given", "region_size": sizes["region"]}, None
    if options.bottom_up is not None:
        named = ButdModel.from_pretrained(options.bottom_up)
        bottom_up, bottom_up_config = named.bottom_up, named.config.bottom_up_config.to_dict()
        image_processor = ButdImageProcessor.from_pretrained(options.bottom_up)
        if bottom_up.region_size != sizes["region"]:
            raise ConversionError(
                f"--bottom-up {options.bottom_up} has regions of size {bottom_up.region_size}, {source.file} wants "
                f"{sizes['region']}."
            )
    model = build_model(source.tensors, sizes, vocabulary, bottom_up_config)
    if bottom_up is not None:
        model.model.bottom_up.load_state_dict(bottom_up.state_dict())
    tokenizer = build_tokenizer(vocabulary.words, model.config.top_down_config.max_position_embeddings)
    return ConvertedCheckpoint(
        model=model.eval(),
        processor=ButdProcessor(image_processor or ButdImageProcessor(), tokenizer),
        card=card(source, vocabulary, options),
    )


def find_sizes(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The model's sizes, read off its tensors; of those that are missing or no matrices, the published ones."""
    regions = f"{region_module(tensors)}.weight"
    places = {
        "vocabulary": ("embed.0.weight", 0),
        "embedding": ("embed.0.weight", 1),
        "hidden": (regions, 0),
        "region": (regions, 1),
        "attention": ("ctx2att.weight", 0),
    }
    sizes = dict(PUBLISHED_SIZES)
    for size, (name, dimension) in places.items():
        if name in tensors and tensors[name].dim() == 2:
            sizes[size] = tensors[name].shape[dimension]
    return sizes


def region_module(tensors: Mapping[str, torch.Tensor]) -> str:
    """The port's `use_bn` puts a batch norm before the projection of regions, which then counts as the second."""
    return "att_embed.1" if has_batch_norm(tensors) else "att_embed.0"


def has_batch_norm(tensors: Mapping[str, torch.Tensor]) -> bool:
    return "att_embed.0.running_mean" in tensors


def expected_shapes(tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """All that the port's `TopDownModel` saves, at these sizes."""
    vocabulary, embedding, hidden = sizes["vocabulary"], sizes["embedding"], sizes["hidden"]
    attention, region = sizes["attention"], sizes["region"]
    shapes: dict[str, tuple[int, ...]] = {"embed.0.weight": (vocabulary, embedding)}
    linears = {
        "fc_embed.0": (hidden, region),  # its input is the mean of the regions
        region_module(tensors): (hidden, region),
        "ctx2att": (attention, hidden),
        "core.attention.h2att": (attention, hidden),
        "core.attention.alpha_net": (1, attention),
        "logit": (vocabulary, hidden),
    }
    for module, shape in linears.items():
        shapes |= {f"{module}.weight": shape, f"{module}.bias": shape[:1]}
    for module, num_inputs in (("core.att_lstm", embedding + 2 * hidden), ("core.lang_lstm", 2 * hidden)):
        shapes |= {f"{module}.weight_ih": (4 * hidden, num_inputs), f"{module}.weight_hh": (4 * hidden, hidden)}
        shapes |= {f"{module}.bias_ih": (4 * hidden,), f"{module}.bias_hh": (4 * hidden,)}
    if has_batch_norm(tensors):
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"att_embed.0.{name}"] = (region,)
        if "att_embed.0.num_batches_tracked" in tensors:  # older torch didn't count
            shapes["att_embed.0.num_batches_tracked"] = ()
    return shapes


def region_projection(tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the projection of regions, with the batch norm before it, if any, folded into them."""
    module = region_module(tensors)
    weight, bias = tensors[f"{module}.weight"], tensors[f"{module}.bias"]
    if has_batch_norm(tensors):
        norm = {name: tensors[f"att_embed.0.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / (norm["running_var"] + NORM_EPSILON).sqrt()  # (region_size,)
        bias = bias + weight @ (norm["bias"] - norm["running_mean"] * scale)  # (hidden_size,)
        weight = weight * scale
    return weight, bias


def build_model(
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    vocabulary: PublishedVocabulary,
    bottom_up_config: dict[str, Any],
) -> ButdForConditionalGeneration:
    """The model with the port's weights in its decoder."""
    trained = vocabulary.options
    config = ButdConfig(
        bottom_up_config=bottom_up_config,
        top_down_config={
            "decoder": "lstm",
            "recurrent_variant": "port",
            "vocab_size": sizes["vocabulary"],
            "hidden_size": sizes["hidden"],
            "embedding_size": sizes["embedding"],
            "attention_size": sizes["attention"],
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "num_region_layers": 0,
            "output_bias": True,
            "dropout": float(trained.get("drop_prob_lm", 0.5)),
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        tie_word_embeddings=False,
    )
    model = ButdForConditionalGeneration(config)
    weights = {}
    for theirs, ours in MODULES.items():
        prefix = f"{theirs}."
        weights |= {
            f"{ours}.{name.removeprefix(prefix)}": tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
    weights["region_proj.weight"], weights["region_proj.bias"] = region_projection(tensors)
    model.model.top_down.load_state_dict(weights)  # strictly: every weight is one of the port's
    model.lm_head.load_state_dict({"weight": tensors["logit.weight"], "bias": tensors["logit.bias"]})
    longest = int(trained.get("max_length") or trained.get("seq_length") or LONGEST_CAPTION)
    # the port adds up the words' log probabilities, whatever the length
    model.generation_config.update(max_new_tokens=longest, num_beams=NUM_BEAMS, length_penalty=0.0)
    return model


def card(source: SourceCheckpoint, vocabulary: PublishedVocabulary, options: ConversionOptions) -> dict[str, Any]:
    """What the card says of a checkpoint that others trained."""
    limits = ["The weights were trained elsewhere and converted; nothing was measured again."]
    if options.bottom_up is None:
        limits.append("It has no eyes of its own: it takes region features, those of the detector it was trained on.")
    else:
        limits.append("Its words know the features of the detector that it was trained on: any other's mislead it.")
    if vocabulary.options.get("use_box"):
        limits.append("Regions are appearance and box in one: it was trained with the port's `use_box`.")
    if vocabulary.options.get("norm_att_feat"):
        limits.append("Regions are of unit length: it was trained with the port's `norm_att_feat`.")
    return {
        "data": f"Converted from `{source.file.name}`, {NAME}. The file doesn't tell what it was trained on; those "
        "that were published learned from COCO captions in Karpathy's split.",
        "licence": "That of the weights which were converted: whoever published them decides.",
        "limits": limits,
    }


KIND = CheckpointKind(NAME, recognises, convert)
