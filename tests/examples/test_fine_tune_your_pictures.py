"""The tutorial, command by command, on pictures of one colour each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "examples" / "fine_tune_your_pictures.md").read_text()
COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with twelve pictures and half as many that are kept for the evaluation."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "my_pictures").mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    lines = []
    for index in range(18):
        name = list(COLOURS)[index % 3]
        noise = np.random.default_rng(index).integers(-30, 30, (64, 96, 3))
        Image.fromarray((noise + COLOURS[name]).clip(0, 255).astype(np.uint8)).save(
            folder / "my_pictures" / f"{index}.png"
        )
        split = "train" if index < 12 else "dev"
        lines.append({"file_name": f"{index}.png", "text": f"a {name} wall in the light", "split": split})
    (folder / "my_pictures" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def command(name: str) -> str:
    """A command of the tutorial."""
    return re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", TUTORIAL, re.DOTALL).group(1)


def test_from_a_folder_to_what_is_pushed(folder):
    """In one shell, as its readers type it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = "set -e\n" + "".join(command(name) for name in ("before", "train", "after", "push"))
    ran = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=550
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    before, after = (json.loads((folder / f"{name}.json").read_text()) for name in ("before", "after"))
    assert before["num_images"] == after["num_images"] == 6
    assert after["metrics"]["cider"] > before["metrics"]["cider"]
    card = (folder / "to_upload" / "README.md").read_text()
    assert "12 images with 12 captions" in card and "my_pictures" in card
    assert (folder / "to_upload" / "model.safetensors").is_file() and "nothing was uploaded" in ran.stdout
