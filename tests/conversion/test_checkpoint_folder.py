# SPDX-License-Identifier: Apache-2.0
"""The way from a file to a checkpoint folder, with a kind of checkpoint made for these tests."""

import pickle

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file
from typer.testing import CliRunner

import butd_hf
from butd_hf.cli import app
from butd_hf.conversion import checkpoint_folder, kinds
from butd_hf.conversion.checkpoint_folder import convert_checkpoint
from butd_hf.conversion.checkpoint_kind import CheckpointKind, ConversionOptions, ConvertedCheckpoint
from butd_hf.conversion.sources import ConversionError, check_tensors, read_source


SHAPES = {"mark.weight": (3, 2), "mark.bias": (3,)}
CARD = {"data": "Nothing.", "licence": "As the original's."}


@pytest.fixture
def kind(tiny_checkpoint) -> CheckpointKind:
    """Whatever has a `mark.weight`; it becomes the tiny checkpoint with that weight inside."""

    def convert(source, options):
        check_tensors(source, SHAPES, kind="a marked one")
        model = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
        with torch.no_grad():
            model.model.top_down.region_proj.weight[:3, :2] = source.tensors["mark.weight"]
        return ConvertedCheckpoint(model, butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint), CARD)

    return CheckpointKind("a marked one", lambda names: "mark.weight" in names, convert)


def tensors(**changes) -> dict[str, torch.Tensor]:
    made = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    return {name: tensor for name, tensor in {**made, **changes}.items() if tensor is not None}


def saved(folder, content, suffix=".pth"):
    file = folder / f"source{suffix}"
    if suffix == ".safetensors":
        save_file(content, file)
    elif suffix == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in content.items()}
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    else:
        torch.save(content, file)
    return file


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pkl", ".safetensors"])
def test_every_format_is_read(tmp_path, suffix):
    content = tensors()
    saved(tmp_path, content, suffix)
    for source in (tmp_path, tmp_path / f"source{suffix}"):  # the folder will do if it holds one
        read = read_source(source)
        assert read.tensors.keys() == content.keys()
        assert all(torch.equal(read.tensors[name], content[name]) for name in content)
    assert read.extras == ({"__author__": "somebody"} if suffix == ".pkl" else {})


@pytest.mark.parametrize("container", ["state_dict", "model_state", "model"])
def test_containers_and_parallel_prefixes_are_opened(tmp_path, container):
    content = tensors()
    wrapped = {container: {f"module.{name}": tensor for name, tensor in content.items()}, "epoch": 3}
    read = read_source(saved(tmp_path, wrapped))
    assert read.tensors.keys() == content.keys() and read.extras == {"epoch": 3}


def test_code_in_a_checkpoint_is_refused(tmp_path):
    file = tmp_path / "model.pth"
    torch.save({"weight": torch.zeros(2), "net": torch.nn.Linear(2, 2)}, file)
    with pytest.raises(ConversionError, match=r"model\.pth cannot be read: .*[Ww]eights.only"):
        read_source(file)


@pytest.mark.parametrize(
    ("content", "message"), [([1, 2], "no named tensors"), ({}, "no named tensors"), ({"a": 1}, "no named tensors")]
)
def test_what_holds_no_tensors_is_refused(tmp_path, content, message):
    with pytest.raises(ConversionError, match=message):
        read_source(saved(tmp_path, content))


def test_folders_without_one_clear_file_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="no file or folder"):
        read_source(tmp_path / "nothing")
    with pytest.raises(ConversionError, match=r"holds none of .*\.pth"):
        read_source(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(tensors(), tmp_path / name)
    with pytest.raises(ConversionError, match=r"several \.pth files \(a\.pth, b\.pth\)"):
        read_source(tmp_path)


def test_the_folder_is_complete(tmp_path, kind):
    content = tensors()
    file, folder = saved(tmp_path, content), tmp_path / "there" / "converted"
    options = ConversionOptions(vocabulary=tmp_path / "words.json")
    assert convert_checkpoint(file, folder, options, kinds=(kind,)) is kind
    assert [entry.name for entry in folder.parent.iterdir()] == ["converted"]
    model = butd_hf.ButdForConditionalGeneration.from_pretrained(folder)
    assert torch.equal(model.model.top_down.region_proj.weight[:3, :2], content["mark.weight"])
    butd_hf.ButdProcessor.from_pretrained(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "modeling_butd.py"):
        assert (folder / name).is_file()
    card = ModelCard.load(folder / "README.md").text
    assert "# converted" in card
    assert "butd-hf convert source.pth --to converted --vocabulary words.json" in card
    assert str(tmp_path) not in card

    with pytest.raises(FileExistsError, match="is there already"):
        convert_checkpoint(file, folder, kinds=(kind,))
    convert_checkpoint(saved(tmp_path, tensors()), folder, name="another", overwrite=True, kinds=(kind,))
    assert "# another" in ModelCard.load(folder / "README.md").text


def test_all_that_does_not_fit_is_listed_and_nothing_is_left(tmp_path, kind):
    wrong = tensors(**{"mark.bias": None, "mark.weight": torch.zeros(3, 4), "mark.more": torch.zeros(1)})
    with pytest.raises(ConversionError) as refusal:
        convert_checkpoint(saved(tmp_path, wrong), tmp_path / "converted", kinds=(kind,))
    message = str(refusal.value)
    assert "source.pth looks like a marked one, but does not fit" in message
    assert "missing: mark.bias (3,)" in message
    assert "misshapen: mark.weight (3, 4), expected (3, 2)" in message
    assert "not known: mark.more (1,)" in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["source.pth"]


def test_what_breaks_while_writing_leaves_the_old_folder(tmp_path, kind):
    folder = tmp_path / "converted"
    convert_checkpoint(saved(tmp_path, tensors()), folder, kinds=(kind,))
    before = (folder / "model.safetensors").read_bytes()
    broken = CheckpointKind("broken", kind.recognises, lambda *_: ConvertedCheckpoint(None, None))
    with pytest.raises(AttributeError):
        convert_checkpoint(saved(tmp_path, tensors()), folder, overwrite=True, kinds=(broken,))
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["converted", "source.pth"]


def test_kinds_are_told_apart_by_names(tmp_path, kind):
    source = read_source(saved(tmp_path, tensors()))
    other = CheckpointKind("another one", lambda names: "other" in names, kind.convert)
    assert kinds.recognise(source, (other, kind)) is kind
    with pytest.raises(ConversionError, match=r"none of the known kinds:\n  another one\n.* mark\.weight, mark\.bias"):
        kinds.recognise(source, (other,))
    with pytest.raises(ConversionError, match="any of: a marked one, a marked one"):
        kinds.recognise(source, (kind, kind))


def test_command(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(
        checkpoint_folder.convert_checkpoint,
        "__kwdefaults__",
        {**checkpoint_folder.convert_checkpoint.__kwdefaults__, "kinds": (kind,)},
    )
    folder = tmp_path / "converted"

    def convert(source, *options, code=0):
        result = CliRunner().invoke(app, ["convert", str(source), "--to", str(folder), *options])
        assert result.exit_code == code, result.output
        return result

    assert "converted from a marked one" in convert(saved(tmp_path, tensors())).stdout
    assert (folder / "config.json").is_file()
    assert "--overwrite" in convert(saved(tmp_path, tensors()), code=2).stderr
    unlike = saved(tmp_path, {"x": torch.zeros(1)})
    assert "none of the known kinds" in convert(unlike, "--overwrite", code=1).stderr
    assert "does not exist" in convert(unlike, "--overwrite", "--vocabulary", "nothing", code=2).stderr
    assert (folder / "config.json").is_file()
