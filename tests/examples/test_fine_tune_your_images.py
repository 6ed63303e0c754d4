# SPDX-License-Identifier: Apache-2.0
"""The tutorial, command by command, on images of one colour each."""

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from butd_hf.cli import app


ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "examples" / "fine_tune_your_images.md").read_text()
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with twelve images and half as many that are kept for the evaluation."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "my_images").mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    lines = []
    for index in range(18):
        name = list(COLOURS)[index % 3]
        noise = np.random.default_rng(index).integers(-30, 30, (64, 96, 3))
        Image.fromarray((noise + COLOURS[name]).clip(0, 255).astype(np.uint8)).save(
            folder / "my_images" / f"{index}.png"
        )
        split = "train" if index < 12 else "dev"
        lines.append({"file_name": f"{index}.png", "text": f"a {name} wall in the light", "split": split})
    (folder / "my_images" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def type_in(name: str) -> str:
    """
    A command of the tutorial, read as a shell reads it and run in this process, which has imported everything already.

    Returns:
        What it printed, if that went to no file.
    """
    text = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", TUTORIAL, re.DOTALL).group(1)
    text = re.sub(r"\$\(python -c '(.*?)'\)", lambda code: printed(exec, code[1]).strip(), text)
    words = shlex.split(text.replace("\\\n", ""))
    *words, file = [*words[:-2], words[-1]] if ">" in words else [*words, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words[words[0] == "python" :])
        said = printed(app if words[0] == "butd-hf" else lambda: runpy.run_path(words[1], run_name="__main__"))
    if file is not None:
        Path(file).write_text(said)
    return said


def printed(function: Callable, *arguments: Any) -> str:
    """What a function prints; commands end the process when they are done."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            function(*arguments)
        except SystemExit as ended:
            assert not ended.code, said.getvalue()
    return said.getvalue()


@pytest.mark.slow
def test_from_a_folder_to_what_is_pushed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    *_, pushed = (type_in(name) for name in ("before", "train", "after", "push"))
    before, after = (json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after"))
    assert before["num_images"] == after["num_images"] == 6
    assert after["metrics"]["cider"] > before["metrics"]["cider"]
    card = (folder / "to_upload" / "README.md").read_text()
    assert "12 images with 12 captions" in card and "my_images" in card
    assert (folder / "to_upload" / "model.safetensors").is_file() and "nothing was uploaded" in pushed
