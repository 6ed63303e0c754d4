# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from butd_hf.commands import app
from butd_hf.commands.photos import NoPhotosError, find_photos


runner = CliRunner()


@pytest.fixture
def photos(tmp_path):
    """A folder of three pictures, one of them in colours of its own, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.radial_gradient("L").resize((64, 48)).save(folder / "a.png")
    Image.new("RGB", (48, 64), "green").save(folder / "b.jpg")
    Image.new("RGB", (64, 64), "red").save(folder / "[c].jpg")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def caption(*arguments, code=0):
    result = runner.invoke(app, ["caption", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_help_and_wrong_usage():
    assert "caption" in runner.invoke(app, ["--help"]).output
    assert "--draw" in caption("--help").output
    assert caption(code=2)
    assert "no such file" in caption("missing.jpg", code=2).stderr


def test_json_is_all_that_is_printed(tiny_checkpoint, photos):
    result = caption(photos, "--model", tiny_checkpoint, "--json", "--batch-size", 2)
    captions = json.loads(result.stdout)
    assert [entry["image"] for entry in captions] == [str(photos / name) for name in ("[c].jpg", "a.png", "b.jpg")]
    assert all(set(entry) == {"image", "caption"} for entry in captions)
    alone = json.loads(caption(photos / "a.png", "--model", tiny_checkpoint, "--json").stdout)
    assert alone == [captions[1]]


def test_table_goes_on_one_line_each(tiny_checkpoint, photos):
    lines = caption(photos, "--model", tiny_checkpoint, "--num-beams", 1, "--max-new-tokens", 8).stdout.splitlines()
    assert [sum(name in line for line in lines) for name in ("[c].jpg", "a.png", "b.jpg")] == [1, 1, 1]


def test_prompt_begins_every_caption(tiny_checkpoint, photos):
    captions = json.loads(caption(photos, "--model", tiny_checkpoint, "--json", "--prompt", "a").stdout)
    assert all(entry["caption"].split()[0] == "a" for entry in captions)


def test_unreadable_picture_is_named_and_the_rest_is_captioned(tiny_checkpoint, photos):
    (photos / "broken.jpg").write_bytes(b"nothing")
    result = caption(photos, "--model", tiny_checkpoint, "--json", code=1)
    assert "broken.jpg" in result.stderr
    captions = {entry["image"]: entry for entry in json.loads(result.stdout)}
    assert "error" in captions.pop(str(photos / "broken.jpg"))
    assert len(captions) == 3 and all("caption" in entry for entry in captions.values())


def test_draws_one_figure_per_photo(tiny_checkpoint, photos, tmp_path):
    figure = tmp_path / "figures" / "one.png"
    caption(photos / "a.png", "--model", tiny_checkpoint, "--draw", figure, "--max-new-tokens", 3)
    assert Image.open(figure).width > 500
    several = [photos / "a.png", photos / "b.jpg", "--draw", tmp_path / "two.png", "--max-new-tokens", 2, "--json"]
    captions = json.loads(caption(*several, "--model", tiny_checkpoint).stdout)
    assert [entry["drawing"] for entry in captions] == [str(tmp_path / f"two-{number}.png") for number in (1, 2)]
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two-1.png", "two-2.png"]


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["--draw", "figure.nothing"], "suffix"),
        (["--num-beams", "0"], "--num-beams"),
        (["--model", "no/such/model-anywhere"], "--model"),
        (["--device", "abacus"], "--device"),
    ],
)
def test_bad_options_are_named(photos, arguments, mentioned, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert mentioned in caption(photos, *arguments, code=2).stderr


def test_other_models_are_turned_away(photos, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    assert "blip" in caption(photos, "--model", tmp_path, code=2).stderr


def test_find_photos(photos):
    names = [str(photos / name) for name in ("[c].jpg", "a.png", "b.jpg")]
    assert find_photos([str(photos)]) == names
    assert find_photos([str(photos / "*.jpg")]) == [names[0], names[2]]
    assert find_photos([names[0]]) == [names[0]]  # a file, though it looks like a pattern
    assert find_photos([str(photos.parent / "**" / "*.png")]) == [names[1]]
    url = "https://example.org/photo"
    assert find_photos([url, names[1]]) == [url, names[1]]
    for nothing in (photos.parent / "nothing", photos / "*.webp"):
        with pytest.raises(NoPhotosError, match=r"nothing|webp"):
            find_photos([str(nothing)])
    (photos.parent / "empty").mkdir()
    with pytest.raises(NoPhotosError, match="empty"):
        find_photos([str(photos.parent / "empty")])
