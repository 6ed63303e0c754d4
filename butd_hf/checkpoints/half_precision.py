# SPDX-License-Identifier: Apache-2.0
"""Weights at half their size on disk."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def store_half_precision(folder: str | Path) -> None:
    """
    Rewrites the float32 weights of a saved checkpoint as float16; everything else stays, also its config's `dtype`.

    `dtype="auto"`, which `pipeline` and `from_pretrained` default to, follows the config: such a checkpoint takes half
    the space and is still computed in float32. Tensors with values beyond float16's range stay float32.

    Args:
        folder: A folder that `save_pretrained` wrote.

    Raises:
        FileNotFoundError: If there are no `*.safetensors` files in it.
        ValueError: If its config doesn't say `"dtype": "float32"`.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no *.safetensors files in {folder}, expected a folder saved by save_pretrained.")
    dtype = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("dtype")
    if dtype != "float32":
        raise ValueError(f"{folder / 'config.json'} says dtype={dtype!r}, expected 'float32'.")
    for file in files:
        save_file({name: _half(weight) for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})


def _half(weight: torch.Tensor) -> torch.Tensor:
    if weight.dtype != torch.float32:
        return weight
    half = weight.half()
    return half if half.isfinite().all() else weight
