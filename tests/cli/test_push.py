# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from transformers import pipeline

import butd_hf
from butd_hf.cards import write_card


WITHOUT_PACKAGE = """
import sys
sys.modules["butd_hf"] = None
from transformers import pipeline
captioner = pipeline("image-to-text", model=sys.argv[1], trust_remote_code=True, device="cpu")
print(captioner(sys.argv[2])[0]["generated_text"])
"""


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "best")
    write_card(folder, name="captioner", data="None.", licence="None.")
    (folder / "complete.json").write_text("{}")
    return folder


@pytest.fixture
def token(monkeypatch):
    """Sets what the Hub's library finds as the user's token."""
    return lambda value: monkeypatch.setattr("huggingface_hub.get_token", lambda: value)


def test_without_a_token_it_only_lists_and_writes_the_very_folder(call, checkpoint, token, tmp_path):
    token(None)
    listed = call("push", checkpoint, "someone/captioner", "--out", tmp_path / "out").stdout
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {"model.safetensors", "config.json", "README.md", "modeling_butd.py", "tokenizer.json"} <= written
    assert "complete.json" not in written
    assert "nothing was uploaded" in listed and all(name in listed for name in written)
    for name in written:
        assert (tmp_path / "out" / name).read_bytes() == (checkpoint / name).read_bytes()
    assert "no token" in call("push", checkpoint, "someone/captioner", "--upload", code=1).stderr


def test_all_goes_in_one_commit(call, checkpoint, token, monkeypatch):
    token("a token")
    calls = []
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, repo, **options: calls.append((repo, options)))
    uploaded = SimpleNamespace(commit_url="the commit")
    monkeypatch.setattr(api, "upload_folder", lambda self, **options: calls.append(options) or uploaded)
    assert call("push", checkpoint, "someone/captioner", "--private").stdout == "the commit\n"
    (repo, made), sent = calls
    assert (repo, made["private"], sent["repo_id"]) == ("someone/captioner", True, "someone/captioner")
    assert sent["folder_path"] == checkpoint and "complete.json" in sent["ignore_patterns"]
    call("push", checkpoint, "someone/captioner", "--dry-run")
    assert len(calls) == 2


def test_what_is_missing_is_named(call, plain, checkpoint, token, tmp_path):
    token(None)
    assert "there is no folder" in plain(call("push", tmp_path / "nothing", "someone/captioner", code=2).stderr)
    assert "REPO" in call("push", checkpoint, "some one/captioner", code=2).stderr
    assert "either REPO or --to" in plain(call("push", checkpoint, code=2).stderr)
    assert "expected one of image-to-text" in plain(call("push", "nonsense", "--to", tmp_path / "a", code=2).stderr)
    assert "is there already" in plain(call("push", "image-to-text", "--to", tmp_path, code=2).stderr)
    (checkpoint / "README.md").unlink()
    assert "has no README.md: the card" in call("push", checkpoint, "someone/captioner", code=1).stderr


def test_embedded_models_go_to_a_folder(call, tmp_path):
    call("push", "object-detection", "--to", tmp_path / "new" / "detector")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["detector"]
    for name in ("modeling_detection_butd.py", "model.safetensors", "preprocessor_config.json", "README.md"):
        assert (tmp_path / "new" / "detector" / name).is_file()
    config = json.loads((tmp_path / "new" / "detector" / "config.json").read_text())
    assert "AutoModelForObjectDetection" in config["auto_map"]


@pytest.mark.slow
def test_an_embedded_model_captions_alike_without_the_package(call, image_paths, tmp_path):
    call("push", "image-to-text", "--to", tmp_path / "captioner")
    expected = pipeline("image-to-text", model=butd_hf.default_checkpoint("image-to-text"), device="cpu")(
        image_paths[0]
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(tmp_path / "captioner"), image_paths[0]],
        capture_output=True,
        text=True,
        cwd=tmp_path,  # in the repository, the package's own folders could be imported
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == expected[0]["generated_text"].strip()
