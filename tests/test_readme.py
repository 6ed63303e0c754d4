# SPDX-License-Identifier: Apache-2.0
"""What the README shows works as it stands there, on a terminal, where a prompt would wait for an answer."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHECKS = {
    "captioner": "assert captioner('photo.jpg')[0]['generated_text']",
    "segmenter": "assert detector('photo.jpg')[0]['label'] == segmenter('photo.jpg')[0]['label'] == 'cat'",
    "outputs": "assert outputs.region_attentions.shape[-1] == outputs.regions.boxes.shape[1]",
}


def run_on_terminal(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs Python with a pseudo terminal as its standard input; whoever reads from it waits until the timeout."""
    controller, terminal = pty.openpty()
    try:
        return subprocess.run(
            [sys.executable, "-c", f"import sys\nassert sys.stdin.isatty()\n{code}"],
            cwd=folder,
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=240,
        )
    finally:
        os.close(terminal)
        os.close(controller)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_python_blocks_run_on_a_terminal(name, tmp_path):
    shutil.copy(ROOT / "examples" / "images" / "cat.jpg", tmp_path / "photo.jpg")
    blocks = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"{name} = " in code]
    ran = run_on_terminal(f"{blocks[0]}\n{CHECKS[name]}", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "[y/N]" not in ran.stdout + ran.stderr
    assert "is not supported" not in ran.stdout + ran.stderr


@pytest.mark.slow
def test_nothing_asks_of_saved_checkpoints(tmp_path):
    code = (
        "import butd_hf\n"
        "from transformers import AutoProcessor, pipeline\n"
        "for task in ('object-detection', 'image-segmentation', 'scene-graph-generation'):\n"
        "    pipeline(task, model=butd_hf.default_checkpoint(task)).save_pretrained(task)\n"
        "    assert type(pipeline(task, model=task).model).__module__.startswith('butd_hf.')\n"
        "    assert type(AutoProcessor.from_pretrained(task)).__name__ == 'ButdImageProcessor'\n"
    )
    ran = run_on_terminal(code, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "[y/N]" not in ran.stdout + ran.stderr


def test_every_python_block_is_checked():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == len(CHECKS)
    assert all(any(f"{name} = " in code for name in CHECKS) for code in blocks)


def test_files_it_names_are_there():
    named = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert named
    assert [link for link in named if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", ["caption", "test"])
def test_commands_are_one_line(name):
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert len(block.group(1).strip().splitlines()) == 1
