# SPDX-License-Identifier: Apache-2.0
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from typer.testing import CliRunner

import butd_hf
from butd_hf.cards import write_card
from butd_hf.commands import app


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


def push(*arguments, code=0):
    result = CliRunner().invoke(app, ["push", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_without_a_token_it_only_tells_and_writes_the_very_folder(checkpoint, token, tmp_path):
    token(None)
    told = push(checkpoint, "someone/captioner", "--out", tmp_path / "out").stdout
    written = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert {"model.safetensors", "config.json", "README.md", "modeling_butd.py", "tokenizer.json"} <= written
    assert "complete.json" not in written
    assert "nothing was uploaded" in told and all(name in told for name in written)
    for folder in (checkpoint, tmp_path / "out"):  # the same model
        model = butd_hf.ButdForConditionalGeneration.from_pretrained(folder)
        butd_hf.ButdProcessor.from_pretrained(folder)
    before = butd_hf.ButdForConditionalGeneration.from_pretrained(checkpoint).state_dict()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert "no token" in push(checkpoint, "someone/captioner", "--upload", code=1).stderr


def test_all_goes_in_one_commit(checkpoint, token, monkeypatch):
    token("a token")
    calls = []
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, repo, **options: calls.append((repo, options)))
    monkeypatch.setattr(
        api, "upload_folder", lambda self, **options: calls.append(options) or SimpleNamespace(commit_url="the commit")
    )
    assert push(checkpoint, "someone/captioner", "--private").stdout == "the commit\n"
    (repo, made), sent = calls
    assert (repo, made["private"], sent["repo_id"], sent["folder_path"]) == (
        repo,
        True,
        "someone/captioner",
        checkpoint,
    )
    assert "complete.json" in sent["ignore_patterns"]
    push(checkpoint, "someone/captioner", "--dry-run")
    assert len(calls) == 2


def test_what_is_missing_is_named(checkpoint, token, tmp_path):
    token(None)
    assert "there is no folder" in push(tmp_path / "nothing", "someone/captioner", code=2).stderr
    assert "REPO" in push(checkpoint, "some one/captioner", code=2).stderr
    (checkpoint / "README.md").unlink()
    assert "has no README.md: the card" in push(checkpoint, "someone/captioner", code=1).stderr
