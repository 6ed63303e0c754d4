# SPDX-License-Identifier: Apache-2.0
"""Every kind of checkpoint that can be converted: a file for its converter, and a line here."""

from . import faster_rcnn_detectron2, faster_rcnn_milvlg, question_answering, up_down_captioner
from .checkpoint_kind import CheckpointKind
from .sources import ConversionError, SourceCheckpoint


KINDS: tuple[CheckpointKind, ...] = (
    faster_rcnn_detectron2.KIND,
    faster_rcnn_milvlg.KIND,
    question_answering.KIND,
    up_down_captioner.KIND,
)

SHOWN_NAMES = 8  # of an unknown checkpoint's tensors


def recognise(source: SourceCheckpoint, kinds: tuple[CheckpointKind, ...] = KINDS) -> CheckpointKind:
    """The kind of a checkpoint, from the names of its tensors.

    Raises:
        ConversionError: None of the kinds, or more than one of them, has such names.
    """
    found = [kind for kind in kinds if kind.recognises(source.tensors.keys())]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConversionError(f"{source.file} could be any of: {', '.join(kind.name for kind in found)}.")
    known = "".join(f"\n  {kind.name}" for kind in kinds)
    names = list(source.tensors)
    shown = ", ".join(names[:SHOWN_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > SHOWN_NAMES else "")
    raise ConversionError(f"{source.file} is none of the known kinds:{known}\nIts tensors are called {shown}.")
