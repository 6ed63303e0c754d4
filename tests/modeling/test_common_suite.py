# SPDX-License-Identifier: Apache-2.0
"""
Runs the tests that transformers applies to each of its own models on this package's (`common_suite_*.py`).

They come with the source distribution of transformers alone, so pip downloads that of the installed version; pytest's
cache keeps it. They make a package named `tests`, hence a process of their own.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import pytest
import transformers


# file beside this one -> the name that it gets among transformers' tests, and how many tests must run at least
SUITES = {
    "common_suite_butd.py": ("test_modeling_butd.py", 95),
    "common_suite_detection_butd.py": ("test_modeling_detection_butd.py", 90),
    "common_suite_scene_graph.py": ("test_modeling_scene_graph_butd.py", 80),
    "common_suite_question_answering.py": ("test_modeling_question_answering.py", 80),
}

# what the tests import besides one another, but the source distribution leaves out
STAND_INS = {
    "__init__.py": "",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "is_encoder_decoder": True,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}
""",
    "models/__init__.py": "",
    "models/butd/__init__.py": "",
}

# why the suite itself passes tests over: they are about machines or features that are not here
PASSED_OVER = [
    r"requires (multiple )?accelerators?$",
    r"requires (Flash Attention( \d)?|MPS|deepspeed|the kernels library|bitsandbytes|PEFT.*)$",
    r"test is slow$",
    r"does not support grouped_mm$",  # nor any experts
    r"no sparse experts",
    r"no `output_router_logits`",
    r"does not (support|have) RoPE",
    r"no axial RoPE layer",
    r"does not have position embeddings$",  # that could be resized
    r"does not support sliding window mask$",
    r"does not have a TP plan",
    r"no _keep_in_fp32_modules n?or _keep_in_fp32_modules_strict attribute",
    r"No `_keep_in_fp32_modules_strict` defined$",
    r"No model with a differentiable loss",  # to verify `enable_input_require_grads` with, of words
    r"No (decoder-only|sequence-to-sequence) language modeling head to check$",
    r"doesn.t use `inputs_embeds`$",
    r"no `base_model_class` defined in tester",
    r"Do not take a cache as input to forward$",
    r"No conversion found for",  # of older checkpoints' names
    r"No usage of the `capture_outputs` decorator",
    r"Cannot capture hidden states",  # with that decorator
    r"Encoder-decoder logits are already aligned",
    r"does not support SDPA$",  # as a model that is not composite; see the next
    r"has no `base_model_class` defined in tester",  # nor a base model
    r"No (decoder-only|sequence-to-sequence) language modeling head to check",
    r"Do not take a cache as input to forward",
    r"no `base_model_class` defined",
    r"Do not take a cache as input",  # scene graphs have no text, and so none of the next four
    r"No (decoder-only|sequence-to-sequence) language modeling head",
    r"No model with a differentiable loss was available to verify enable_input_require_grads",
    r"doesn't use `inputs_embeds`",
    r"does not have both a non-text modality tower and a language sub-model",  # that are models of their own
]


@dataclass
class SuiteRun:
    """What came of a suite: names of passed tests, and reasons by name of those skipped or failed."""

    name: str
    passed: list[str]
    skipped: dict[str, str]
    failed: dict[str, str]
    output: str


def download_tests(version: str, folder: Path) -> None:
    """
    Puts transformers' tests into `folder / "tests"`.

    Raises:
        RuntimeError: pip can't download the source distribution.
    """
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    download += ["--dest", str(folder), f"transformers=={version}"]
    # pip builds the metadata of what it downloads: in this environment at once, else in a new one, minutes later
    for isolation in (["--no-build-isolation"], []):
        process = subprocess.run([*download, *isolation], capture_output=True, text=True, timeout=900)
        if process.returncode == 0:
            break
    else:
        raise RuntimeError(f"pip could not download the source of transformers {version}: {process.stderr[-500:]}")
    archive = next(folder.glob("transformers-*.tar.gz"))
    top = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as source:
        source.extractall(folder, [name for name in source if name.name.startswith(f"{top}/tests/")], filter="data")
    archive.unlink()
    for name, text in STAND_INS.items():
        path = folder / top / "tests" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")  # so that this project's options stay out
    (folder / top / "tests").rename(folder / "tests")  # last: what has this name is complete
    shutil.rmtree(folder / top)


@pytest.fixture(scope="module", params=SUITES)
def suite(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> SuiteRun:
    folder = Path(pytestconfig.cache.mkdir(f"transformers-{transformers.__version__}"))
    if not (folder / "tests").exists():
        try:
            download_tests(transformers.__version__, folder)
        except (RuntimeError, subprocess.TimeoutExpired) as failure:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(failure))
    target = f"tests/models/butd/{SUITES[request.param][0]}"
    shutil.copy(Path(__file__).with_name(request.param), folder / target)
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", target, "--quiet", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*command, "--disable-warnings", "--tb=short", f"--junitxml={report.name}"],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    output = process.stdout[-20000:] + process.stderr[-2000:]
    assert report.exists(), output
    run = SuiteRun(name=request.param, passed=[], skipped={}, failed={}, output=output)
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        name = case.get("name")
        if outcome is None:
            run.passed.append(name)
        elif outcome.tag == "skipped":
            run.skipped[name] = outcome.get("message")
        else:
            run.failed[name] = outcome.get("message")
    return run


def test_every_applicable_test_passes(suite: SuiteRun):
    assert not suite.failed, suite.output
    assert len(suite.passed) >= SUITES[suite.name][1], f"only {len(suite.passed)} tests ran:\n{suite.output}"


def test_what_is_left_out_is_listed_with_its_reason(suite: SuiteRun):
    assignment = next(
        node
        for node in ast.parse(Path(__file__).with_name(suite.name).read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "LEFT_OUT"
    )
    listed = ast.literal_eval(assignment.value)
    left_out = {name: reason for name, reason in suite.skipped.items() if reason.startswith("left out: ")}
    assert {name: f"left out: {reason}" for name, reason in listed.items()} == left_out
    others = {name: reason for name, reason in suite.skipped.items() if name not in left_out}
    unexpected = {
        name: reason
        for name, reason in others.items()
        if not any(re.search(pattern, reason) for pattern in PASSED_OVER)
    }
    assert not unexpected
