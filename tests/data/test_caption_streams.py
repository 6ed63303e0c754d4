# SPDX-License-Identifier: Apache-2.0
import io
import json
import tarfile

import pytest
from datasets import Dataset, Image
from datasets.distributed import split_dataset_by_node

from butd_hf.data.caption_streams import as_stream_table, first_captions, is_stream, open_captions
from butd_hf.data.data_errors import DataError
from butd_hf.data.splits import mix, numbered


@pytest.fixture(scope="module")
def shards(image_paths, tmp_path_factory):
    """Four WebDataset shards of three images."""
    folder = tmp_path_factory.mktemp("shards")
    with open(image_paths[0], "rb") as file:
        image = file.read()
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(3 * shard, 3 * shard + 3):
                text = json.dumps({"captions": [f"number {number}", "an  image"], "author": "nobody"}).encode()
                for name, content in ((f"{number:02d}.png", image), (f"{number:02d}.json", text)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def numbers(stream):
    return [int(row["captions"][0].split()[1]) for row in stream]


def test_webdataset_shards_are_shared_and_continued(shards):
    stream = open_captions(str(shards))
    row = next(iter(stream))
    assert row["captions"] == ["number 0", "an image"] and row["image"]["bytes"].startswith(b"\x89PNG")
    assert row["image_id"].endswith("0.tar: 00")
    assert numbers(open_captions(str(shards / "[12].tar"))) == list(range(3, 9))
    parts = [numbers(split_dataset_by_node(stream, rank, 2)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 6 and sorted(parts[0] + parts[1]) == list(range(12))
    rows = iter(stream)
    for _ in range(5):
        next(rows)
    state = stream.state_dict()
    rest = open_captions(str(shards))
    rest.load_state_dict(state)
    assert numbers(rest) == list(range(5, 12))


def test_anything_that_datasets_streams(image_paths, tmp_path):
    table = Dataset.from_dict({"image": image_paths, "filename": list("abc"), "caption": ["one", "two", "three"]})
    table.cast_column("image", Image()).to_parquet(tmp_path / "train-0.parquet")
    assert is_stream(f"stream:{tmp_path}") and not is_stream(str(tmp_path))
    rows = list(open_captions(f"stream:{tmp_path}"))
    assert [(row["image_id"], row["captions"]) for row in rows] == [("a", ["one"]), ("b", ["two"]), ("c", ["three"])]
    (tmp_path / "images.tar").touch()
    assert is_stream(str(tmp_path))
    (tmp_path / "captions.jsonl").touch()  # whose images the archive holds
    assert not is_stream(str(tmp_path))
    (tmp_path / "images.tar").unlink()
    (tmp_path / "captions.jsonl").unlink()
    table.rename_column("caption", "words").to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"found the columns .*'words'.* expected images in one of"):
        open_captions(f"stream:{tmp_path}")


def test_sources_are_mixed_by_weight(shards, image_paths):
    table = Dataset.from_dict({"image": image_paths, "image_id": list("abc"), "captions": [["x"], ["y"], ["z"]]})
    assert mix([table, numbered(table, 1)])["image_id"][:] == ["a", "b", "c", "1/a", "1/b", "1/c"]
    tables = mix([table, numbered(table, 1)], [8, 2], seed=1)["image_id"][:]
    assert {"1/a", "1/b", "1/c"} < set(tables) and sum("/" not in name for name in tables) > len(tables) / 2

    streams = mix([open_captions(str(shards)), as_stream_table(table)], [1, 3], seed=1)
    captions = [row["captions"] for row in streams.take(40)]
    assert 20 < sum(each in (["x"], ["y"], ["z"]) for each in captions) < 40
    turns = first_captions(mix([open_captions(str(shards)), as_stream_table(table)]), 4)
    assert list(turns) == ["number 0", "an image", "x", "number 1", "an image", "y"]
    with pytest.raises(ValueError, match="weights must be 2 positive numbers"):
        mix([table, table], [1])
