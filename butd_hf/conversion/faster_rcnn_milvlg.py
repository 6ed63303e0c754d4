# SPDX-License-Identifier: Apache-2.0
"""Bottom-up detectors of MILVLG's port, which keeps the conventions of the Caffe code: background first."""

from collections.abc import Collection

import torch

from .checkpoint_kind import CheckpointKind, ConversionOptions, ConvertedCheckpoint
from .faster_rcnn_weights import PREDICTOR, convert_detector
from .sources import SourceCheckpoint


NAME = "a bottom-up detector of MILVLG's"
HEADS = {"class_embedding": "cls_embed", "attribute_proj": "attr_linear1", "attribute_classifier": "attr_linear2"}
# as Anderson et al. (2018) select
SETTINGS = {"variant": "caffe", "num_regions": 100, "min_regions": 10, "score_threshold": 0.2, "nms_threshold": 0.3}

# what has a row per class, or per attribute: theirs starts with background, or none
ROWS = ("head.classifier", "head.class_embedding", "head.attribute_classifier")


def recognises(names: Collection[str]) -> bool:
    """Their names of what tells attributes are found nowhere else."""
    return f"{PREDICTOR}.cls_score.weight" in names and any(
        name.startswith((f"{PREDICTOR}.cls_embed.", f"{PREDICTOR}.attr_linear")) for name in names
    )


def convert(source: SourceCheckpoint, options: ConversionOptions) -> ConvertedCheckpoint:
    """The detector with background and none moved to the end, and without the background's box, which nothing uses."""
    return convert_detector(source, options, kind=NAME, heads=HEADS, settings=SETTINGS, shapes=shapes, reorder=reorder)


def shapes(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The file has a box for background, too."""
    return (shape[0] + 4, *shape[1:]) if "head.deltas" in name else shape


def reorder(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Background first becomes background last."""
    if "head.deltas" in name:
        return tensor[4:]
    return tensor.roll(-1, dims=0) if any(rows in name for rows in ROWS) else tensor


KIND = CheckpointKind(NAME, recognises, convert)
