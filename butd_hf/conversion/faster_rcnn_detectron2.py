# SPDX-License-Identifier: Apache-2.0
"""Bottom-up detectors of the ports to detectron2, such as `unc-nlp/frcnn-vg-finetuned`: background last."""

from collections.abc import Collection

from .checkpoint_kind import CheckpointKind, ConversionOptions, ConvertedCheckpoint
from .faster_rcnn_weights import PREDICTOR, convert_detector
from .sources import SourceCheckpoint


NAME = "a bottom-up detector of the detectron2 ports"
HEADS = {"class_embedding": "cls_embedding", "attribute_proj": "fc_attr", "attribute_classifier": "attr_score"}
# their settings: 36 regions, and a threshold that rises from 0.5 until there are as many
SETTINGS = {
    "variant": "detectron2",
    "num_regions": 36,
    "min_regions": 36,
    "score_threshold": 0.0,
    "nms_threshold": 0.5,
}


def recognises(names: Collection[str]) -> bool:
    """They have the modules of detectron2's C4 detector, and none that MILVLG's code adds."""
    return f"{PREDICTOR}.cls_score.weight" in names and not any(
        name.startswith((f"{PREDICTOR}.cls_embed.", f"{PREDICTOR}.attr_linear")) for name in names
    )


def convert(source: SourceCheckpoint, options: ConversionOptions) -> ConvertedCheckpoint:
    """The detector as it is: its order is ours."""
    return convert_detector(
        source,
        options,
        kind=NAME,
        heads=HEADS,
        settings=SETTINGS,
        shapes=lambda name, shape: shape,
        reorder=lambda name, tensor: tensor,
    )


KIND = CheckpointKind(NAME, recognises, convert)
