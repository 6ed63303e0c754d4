# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other projects as they lie on a disk: tensors by name, and what else their file holds."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .pickles import PickleError, read_pickle


WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model")  # under which projects put their state dict
PARALLEL_PREFIX = "module."  # of models that were saved inside DataParallel


class ConversionError(ValueError):
    """A checkpoint that cannot be converted, with all that is wrong with it."""


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint of another project, read.

    Args:
        file: The file that holds the tensors.
        tensors: Tensors by their names there, without the prefix of `DataParallel`.
        extras: Whatever else the file holds beside its state dict.
    """

    file: Path
    tensors: dict[str, torch.Tensor]
    extras: dict[str, Any] = field(default_factory=dict)


def read_source(source: str | Path) -> SourceCheckpoint:
    """Reads a checkpoint without running code from it.

    Args:
        source: A `.safetensors` file, a PyTorch file (read with `weights_only=True`), a pickle of arrays as
            detectron2 writes (read by `PlainUnpickler`), or a folder with exactly one such file.

    Raises:
        ConversionError: There is no such file, or it holds no named tensors.
    """
    file = weights_file(Path(source))
    try:
        content = _read(file)
    except (PickleError, pickle.UnpicklingError, SafetensorError, RuntimeError, OSError, EOFError) as error:
        raise ConversionError(f"{file} cannot be read: {error}") from error
    extras: dict[str, Any] = {}
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            extras = {key: value for key, value in content.items() if key != container}
            content = content[container]
            break
    tensors = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if torch.is_tensor(value):
            tensors[name] = value.detach()
        else:
            extras[name] = value
    if not tensors:
        raise ConversionError(f"{file} holds no named tensors: expected a state dict.")
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return SourceCheckpoint(file=file, tensors=tensors, extras=extras)


def weights_file(source: Path) -> Path:
    """The file that holds a checkpoint's tensors: the source itself, or the only one of its kind in that folder."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise ConversionError(f"There is no file or folder {source}.")
    for suffix in WEIGHT_SUFFIXES:  # a folder may hold a checkpoint in several formats: the safest first
        found = sorted(source.glob(f"*{suffix}"))
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ConversionError(f"{source} holds several {suffix} files ({names}): name the one to convert.")
    raise ConversionError(f"{source} holds none of {', '.join('*' + suffix for suffix in WEIGHT_SUFFIXES)}.")


def check_tensors(source: SourceCheckpoint, expected: Mapping[str, tuple[int, ...]], kind: str) -> None:
    """Makes sure that a checkpoint has exactly the tensors that its kind has.

    Args:
        source: The checkpoint.
        expected: Shape by name.
        kind: What the checkpoint was recognised as, for the message.

    Raises:
        ConversionError: Lists every tensor that is missing, of another shape, or not known.
    """
    problems = [f"missing: {name} {shape}" for name, shape in expected.items() if name not in source.tensors]
    for name, tensor in source.tensors.items():
        if name not in expected:
            problems.append(f"not known: {name} {tuple(tensor.shape)}")
        elif tuple(tensor.shape) != tuple(expected[name]):
            problems.append(f"misshapen: {name} {tuple(tensor.shape)}, expected {tuple(expected[name])}")
    if problems:
        listed = "\n  ".join(problems)
        raise ConversionError(f"{source.file} looks like {kind}, but does not fit:\n  {listed}")


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".pkl":
        return read_pickle(file)
    return torch.load(file, map_location="cpu", weights_only=True)
