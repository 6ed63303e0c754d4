# SPDX-License-Identifier: Apache-2.0
"""What to do when a run breaks off."""

import errno
import shutil
from pathlib import Path

import torch


FULL_BELOW = 64 * 2**20  # bytes: with less room than this, a failed save is the disk's doing
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
LOST_CONNECTION = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def advice(error: BaseException, folder: Path, latest: Path | None) -> str:
    """
    A sentence or two on what to do about an error that ended a run.

    Args:
        error: What ended it.
        folder: The run folder.
        latest: The last whole state in it, if there is one.
    """
    if latest is None:
        going_on = "Nothing was saved yet: the run has to start anew."
    else:
        going_on = f"The last good state is {latest}: the same command with --resume goes on from there."
    return " ".join(filter(None, [remedy(error, folder), going_on]))


def remedy(error: BaseException, folder: Path) -> str | None:
    """What helps against the error itself; None where it speaks for itself."""
    text = str(error).lower()
    if is_disk_full(error, folder):
        free = shutil.disk_usage(folder).free / 2**20
        return f"The disk that holds {folder} is full ({free:.0f} MB are free): make room."
    if isinstance(error, ConnectionError) or any(sign in text for sign in LOST_CONNECTION):
        return (
            "Another process of this run has died: what it said last, or the system's log if it was killed for using "
            "too much memory, tells why."
        )
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        return "Memory is short: halve --batch_size and double --gradient_accumulation_steps."
    return None


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether a write failed for want of room: PyTorch says so in words that have nothing to do with it."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return True
    writes = isinstance(error, OSError) or "inline_container" in str(error) or "PytorchStreamWriter" in str(error)
    try:
        return writes and shutil.disk_usage(folder).free < FULL_BELOW
    except OSError:
        return False


__all__ = ["advice"]
