# SPDX-License-Identifier: Apache-2.0
import json
import multiprocessing
import os
import sys
import tempfile

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image


@pytest.fixture(scope="session")
def caption_data(tmp_path_factory):
    """Six images of one colour each, four to learn from. Not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    lines = []
    for index, colour in enumerate(("red", "green", "blue", "red", "green", "blue")):
        pixels = np.random.default_rng(index).integers(0, 60, (48, 64, 3), dtype=np.uint8)
        pixels[..., index % 3] += 150
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        captions = [f"a {colour} image", f"something {colour} on the left", f"all {colour}"]
        lines.append({"image": f"{index}.png", "split": "train" if index < 4 else "dev", "captions": captions})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def fork():
    """Starts processes that know one another, as `accelerate launch` does. They are copies of this one, which has
    imported everything already: new ones would take longer to do so than to do what they are for.
    """

    def start(processes, log, work, *arguments):
        """Processes that do `work(*arguments)`; what they say is appended to `log`."""
        context = multiprocessing.get_context("fork")
        store = f"file://{tempfile.mkdtemp()}/store"
        copies = [
            context.Process(target=be_one_of, args=(rank, processes, store, log, work, arguments))
            for rank in range(processes)
        ]
        for copy in copies:
            copy.start()
        return copies

    return start


def be_one_of(rank, processes, store, log, work, arguments):
    """What a copy does."""
    sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115, it lives as long as the process
    torch.set_num_threads(1)  # sums are rounded by how threads share them out
    os.environ["OMP_NUM_THREADS"] = "1"  # as `accelerate launch` does: else accelerate decides
    AcceleratorState._reset_state(reset_partial_state=True)
    if processes > 1:
        os.environ.update(ACCELERATE_USE_CPU="true", LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(processes))
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")  # accelerate asks, though they have met already
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    work(*arguments)
