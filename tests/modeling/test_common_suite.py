# SPDX-License-Identifier: Apache-2.0
"""Runs the tests that transformers applies to each of its own models on this package's (`common_suite.py`).

They come with the source distribution of transformers alone, so pip downloads that of the installed version; pytest's
cache keeps it. They make a package named `tests`, hence a process of their own.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest
import transformers


# class of common_suite.py -> how many of its tests must pass at least
LEAST_PASSED = {
    "ButdModelTest": 95,
    "ButdQuestionAnsweringTest": 80,
    "ButdDetectionTest": 90,
    "ButdSceneGraphTest": 80,
    "ButdSubConfigTest": 2,
}

pytestmark = pytest.mark.slow

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
    r"No conversion found for",  # of older checkpoints' names
    r"No usage of the `capture_outputs` decorator",
    r"Cannot capture hidden states",  # with that decorator
    r"Encoder-decoder logits are already aligned",
    r"does not support SDPA$",  # as a model that is not composite; see the next
    r"no `base_model_class` defined",  # nor a base model
    r"Do not take a cache as input",  # scene graphs have no text, and so none of the next three
    r"No (decoder-only|sequence-to-sequence) language modeling head",
    r"doesn't use `inputs_embeds`",
    r"does not have both a non-text modality tower and a language sub-model",  # that are models of their own
]


def download_tests(version: str, folder: Path) -> None:
    """Puts transformers' tests into `folder / "tests"`.

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


@pytest.fixture(scope="module")
def cases(pytestconfig: pytest.Config) -> list[tuple[str, str, str, str]]:
    """Class, name, outcome (none, "skipped", "failure" or "error") and message of each test of the suite."""
    folder = Path(pytestconfig.cache.mkdir(f"transformers-{transformers.__version__}"))
    if not (folder / "tests").exists():
        try:
            download_tests(transformers.__version__, folder)
        except (RuntimeError, subprocess.TimeoutExpired) as failure:
            if os.environ.get("CI"):
                raise
            pytest.skip(str(failure))
    target, report = "tests/models/butd/test_modeling_butd.py", folder / "report.xml"
    shutil.copy(Path(__file__).with_name("common_suite.py"), folder / target)
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", target, "--quiet", "-p", "no:cacheprovider", "--disable-warnings"]
    process = subprocess.run(
        [*command, "--tb=short", f"--junitxml={report.name}"],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert report.exists(), process.stdout[-20000:] + process.stderr[-2000:]
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        result = ("", "") if outcome is None else (outcome.tag, f"{outcome.get('message')}\n{outcome.text}")
        found.append((case.get("classname").rpartition(".")[2], case.get("name"), *result))
    return found


def test_every_applicable_test_passes(cases):
    failed = [" ".join(case) for case in cases if case[2] in ("failure", "error")]
    assert not failed, "\n\n".join(failed)
    passed = Counter(test_class for test_class, _, outcome, _ in cases if not outcome)
    assert {name: passed[name] for name, least in LEAST_PASSED.items() if passed[name] < least} == {}


def test_what_is_left_out_has_a_reason(cases):
    reasons = {f"{case[0]}.{case[1]}": case[3].partition("\n")[0] for case in cases if case[2] == "skipped"}
    allowed = [r"^left out: ", *PASSED_OVER]
    assert {
        name: why for name, why in reasons.items() if not any(re.search(pattern, why) for pattern in allowed)
    } == {}
