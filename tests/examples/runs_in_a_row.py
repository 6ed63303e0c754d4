# SPDX-License-Identifier: Apache-2.0
"""
Trains captioners one after another in this process, and kills it where the test says so:

    python runs_in_a_row.py '[[null, "--data", "FOLDER", "--output_dir", "RUN"], [3, ...]]'

Each run is a number and the options of `examples/train_captioning.py`: in that save of a checkpoint the main process
kills itself with half of the files written; null lets the run end.
"""

import json
import os
import runpy
import signal
import sys
from pathlib import Path

from butd_hf.training import checkpoints


EXAMPLE = Path(__file__).parents[2] / "examples" / "train_captioning.py"


def kill_at(save: int) -> None:
    """Makes this process kill itself in a save, when all files are there but not marked as complete."""
    saves = iter(range(1, save + 1))
    finish = checkpoints.finish

    def finish_or_die(folder: Path, description: dict) -> None:
        if folder.name.startswith(checkpoints.STATE_PREFIX) and next(saves) == save:
            victim = max(folder.rglob("*.bin"), key=lambda file: file.stat().st_size)
            os.truncate(victim, victim.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        finish(folder, description)

    checkpoints.finish = finish_or_die


def train(runs: list[list]) -> None:
    """Trains as the module says."""
    for save, *options in runs:
        if save is not None:
            kill_at(save)
        sys.argv = [str(EXAMPLE), *options]
        runpy.run_path(str(EXAMPLE), run_name="__main__")


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
