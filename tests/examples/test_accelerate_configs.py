# SPDX-License-Identifier: Apache-2.0
"""The configurations of accelerate."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from butd_hf.training.loop import require_whole_models


EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "accelerate_configs").glob("*.yaml"))
PROCESSES = {"laptop": 1, "one_gpu": 1, "eight_gpus_ddp": 8, "fsdp2": 8, "deepspeed_zero2": 8, "two_nodes": 16}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_accelerate_takes_it(file):
    """Unknown keys are errors, and so is what the launcher would refuse."""
    config = load_config_from_file(str(file))
    assert config.num_processes == PROCESSES[file.stem]
    arguments, _, _ = _validate_launch_command(
        launch_command_parser().parse_args(["--config_file", str(file), "train.py"])
    )
    assert arguments.num_processes == PROCESSES[file.stem]
    assert (arguments.use_fsdp, arguments.use_deepspeed) == (file.stem == "fsdp2", file.stem == "deepspeed_zero2")
    readme = (file.parent / "README.md").read_text()
    assert file.name in readme


def test_all_are_there():
    assert {file.stem for file in CONFIGS} == set(PROCESSES)


def test_the_loop_needs_whole_models():
    require_whole_models(DistributedType.MULTI_GPU)
    with pytest.raises(ValueError, match=r"configured for FSDP: take examples/accelerate_configs/eight_gpus_ddp.yaml"):
        require_whole_models(DistributedType.FSDP)
