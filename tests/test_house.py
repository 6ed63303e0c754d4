# SPDX-License-Identifier: Apache-2.0
"""Rules of the house that no linter knows."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SOURCES = [
    file for folder in ("butd_hf", "modeling", "examples", "tests") for file in sorted((ROOT / folder).rglob("*.py"))
]


def test_no_file_is_too_long_to_read():
    long = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 600} == {}


def test_files_are_named_by_nouns_that_say_something():
    vague = {"utils", "misc", "helpers", "common", "base"}
    assert [file.name for file in SOURCES if file.stem in vague] == []


@pytest.mark.parametrize("file", sorted((ROOT / "modeling").glob("*.py")), ids=lambda file: file.name)
def test_modeling_stands_alone(file):
    """What is copied beside a checkpoint imports its neighbours by `from .name import Name`, and nothing of ours."""
    ours = re.findall(r"^\s*(?:from|import)\s+(?:butd_hf|modeling|\.\s|\.\.|\.\w+\.)", file.read_text(), re.MULTILINE)
    assert ours == []


CARRIED = sorted((ROOT / "butd_hf" / "checkpoints").glob("*/*.py"))


@pytest.mark.parametrize("file", CARRIED, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_embedded_checkpoints_carry_todays_code(file):
    """They can be copied elsewhere and run without the package, so what they carry must not fall behind."""
    today = ROOT / "modeling" / file.name
    assert file.read_text() == today.read_text(), f"copy modeling/{file.name} to {file.relative_to(ROOT)}"


def test_wheel_works_elsewhere(tmp_path):
    """The wheel carries the models, the templates and the default checkpoint, and imports outside the repository."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path]
    # from a copy: building in place leaves folders that the next build would pick up
    copy = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout: the files of the package can't be told from others")
    for name in tracked.stdout.split("\0"):
        if name.startswith(("butd_hf/", "modeling/", "hub_cards/", "pyproject.toml", "README.md", "LICENSE")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*command, copy], check=True, timeout=300)

    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(unpacked)
    code = (
        "import butd_hf, butd_hf.cards, pathlib\n"
        "assert pathlib.Path(butd_hf.ButdModel.__module__.replace('.', '/')).name == 'modeling_butd'\n"
        "assert pathlib.Path(butd_hf.default_checkpoint('image-to-text'), 'model.safetensors').is_file()\n"
        "assert butd_hf.cards.TEMPLATE.is_file()\n"
        "print(butd_hf.__file__)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(unpacked)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(unpacked))
