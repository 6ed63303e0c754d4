# SPDX-License-Identifier: Apache-2.0
"""Rules of the house that no linter knows."""

import ast
import subprocess
import sys
import zipfile
from importlib.util import resolve_name
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SOURCES = [
    file for folder in ("butd_hf", "modeling", "examples", "tests") for file in sorted((ROOT / folder).rglob("*.py"))
]

# rooms of modeling/ from the ground up: each may import from itself and from those above it in this list
ROOMS = (
    ("remote_code",),
    ("configuration_butd",),
    ("boxes", "regions", "images", "annotations"),
    ("bottom_up",),
    ("outputs",),
    ("top_down",),
    ("heads",),
    ("losses",),
    ("modeling_*",),
    ("post_processing", "image_processing_butd", "processing_butd"),
    ("pipelines",),
)
LEVELS = {name: level for level, names in enumerate(ROOMS) for name in names}


def test_no_file_is_too_long_to_read():
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in SOURCES}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_files_are_named_by_nouns_that_say_something():
    vague = {"utils", "misc", "helpers", "common", "base"}
    assert [file.name for file in SOURCES if file.stem in vague] == []


def imports_of(file: Path) -> list[tuple[str, bool]]:
    """Modules that a file of modeling/ imports, those of modeling/ as `modeling.room.name`; and whether lazily."""
    package = ".".join(file.relative_to(ROOT).with_suffix("").parts[:-1])
    tree = ast.parse(file.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert node.module, f"{file.relative_to(ROOT)}:{node.lineno} imports a package, expected `from .name`"
            name = resolve_name("." * node.level + node.module, package)
            found.append((name, node not in tree.body))
    return found


MODELING = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for file in sorted((ROOT / "modeling").rglob("*.py"))
    if file.stem != "__init__"
}


def level_of(module: str) -> int:
    room = module.split(".")[1]
    return LEVELS["modeling_*"] if room.startswith("modeling_") else LEVELS[room]


def test_modeling_stands_alone():
    """What travels with a checkpoint imports its neighbours relatively, and nothing else of ours."""
    outside = {
        name: [other for other, _ in imports_of(file) if other.split(".")[0] == "butd_hf"]
        for name, file in MODELING.items()
    }
    assert {name: others for name, others in outside.items() if others} == {}


def test_rooms_import_downwards_and_in_no_circle():
    arrows = {
        name: {other for other, is_lazy in imports_of(file) if other.startswith("modeling.") and not is_lazy}
        for name, file in MODELING.items()
    }
    assert sum(map(len, arrows.values())) > 100 and all(arrows[name] <= set(MODELING) for name in arrows)
    upwards = [(name, other) for name in arrows for other in arrows[name] if level_of(other) > level_of(name)]
    assert upwards == []
    while ground := [name for name, others in arrows.items() if not others]:  # take away what stands on nothing
        arrows = {name: others - set(ground) for name, others in arrows.items() if name not in ground}
    assert arrows == {}, "these import one another"


@pytest.mark.slow
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
