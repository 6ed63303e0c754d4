# SPDX-License-Identifier: Apache-2.0
"""What a converter is: how it knows its checkpoints, and what it makes of them."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .sources import SourceCheckpoint


@dataclass(frozen=True)
class ConversionOptions:
    """What a conversion may need beside the checkpoint. A converter refuses what it needs and wasn't given.

    Args:
        vocabulary: File with the words or labels that the checkpoint's indices mean.
        bottom_up: Folder or Hub name of a checkpoint of this package that selects the regions.
        answers: File with the answers that a model of questions scores.
    """

    vocabulary: Path | None = None
    bottom_up: str | None = None
    answers: Path | None = None


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What a converter makes.

    Args:
        model: The model, with its weights.
        processor: What turns images (and text) into its inputs; anything with `save_pretrained`.
        card: Arguments of `butd_hf.cards.write_card`, without `folder` and `name`.
    """

    model: PreTrainedModel
    processor: Any
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointKind:
    """A kind of checkpoint that can be converted.

    Args:
        name: What messages call it, such as `"an Up-Down captioner of ruotianluo's"`.
        recognises: Whether tensors of these names are of this kind. It looks at what no other kind has and leaves
            the rest to `convert`, which tells what is missing.
        convert: Makes the checkpoint. It raises `ConversionError` for whatever does not fit: `check_tensors` lists
            missing, extra and misshapen tensors.
    """

    name: str
    recognises: Callable[[Collection[str]], bool]
    convert: Callable[[SourceCheckpoint, ConversionOptions], ConvertedCheckpoint]
