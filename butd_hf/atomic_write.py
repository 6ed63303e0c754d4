# SPDX-License-Identifier: Apache-2.0
"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(target: str | os.PathLike) -> Iterator[Path]:
    """A path beside `target` to write a file or a folder to. It takes the place of `target` when the block ends, and
    is removed if the block raises.
    """
    target = Path(target)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield unfinished
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(unfinished, target)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink(missing_ok=True)
