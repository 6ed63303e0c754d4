# SPDX-License-Identifier: Apache-2.0
"""What extracted regions depend on: a store is used as long as none of it has changed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn


# only configs of loaded models have a `dtype`; it shows in the weights
NOT_CONTENT = frozenset({"dtype", "transformers_version", "auto_map", "processor_class", "name_or_path"})


def fingerprint_of(
    bottom_up: nn.Module,
    processor: Any,
    pairs: list[tuple[str, str]],
    views: Sequence[str],
    dtype: str,
    boxes: str | None = None,
) -> dict[str, Any]:
    """What regions depend on. Folders of images do not matter; image ids and file sizes do.

    Args:
        boxes: The digest of boxes that were given.
    """
    weights = hashlib.sha256()
    for name, tensor in sorted(bottom_up.state_dict().items()):
        weights.update(name.encode())
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # any dtype, bfloat16 included
        weights.update(values.numpy().tobytes())
    listed = hashlib.sha256()
    for image_id, path in pairs:
        size = Path(path).stat().st_size if Path(path).is_file() else -1  # a missing file is reported when it is read
        listed.update(f"{image_id}\t{size}\n".encode())
    config = getattr(bottom_up, "config", None)
    image_processor = getattr(processor, "image_processor", processor)
    return {
        "bottom_up_config": comparable(config.to_dict()) if config is not None else None,
        "weights": weights.hexdigest(),
        "image_processor": comparable(image_processor.to_dict()) if hasattr(image_processor, "to_dict") else None,
        "images": listed.hexdigest(),
        "views": list(views),
        "dtype": dtype,
        "boxes": boxes,
    }


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as JSON gives them back, without those that don't change regions."""
    content = {name: settings[name] for name in settings if not name.startswith("_") and name not in NOT_CONTENT}
    return json.loads(json.dumps(content, sort_keys=True, default=str))
