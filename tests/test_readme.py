# SPDX-License-Identifier: Apache-2.0
"""What the README shows works as it stands there."""

import re
import shutil
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_blocks_run(code, tmp_path, monkeypatch):
    shutil.copy(ROOT / "examples" / "images" / "cat.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    if "outputs" in names:
        attention = names["outputs"].region_attentions
        assert attention.shape[-1] == names["outputs"].regions.boxes.shape[1]
    elif "segmenter" in names:
        assert names["detector"]("photo.jpg")[0]["label"] == names["segmenter"]("photo.jpg")[0]["label"] == "cat"
    else:
        assert names["captioner"]("photo.jpg")[0]["generated_text"]


def test_files_it_names_are_there():
    named = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert named
    assert [link for link in named if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", ["caption", "test"])
def test_commands_are_one_line(name):
    block = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert len(block.group(1).strip().splitlines()) == 1
