# SPDX-License-Identifier: Apache-2.0
"""Streams of captions: who reads what, where readers go on, and what is passed over."""

import io
import json
import logging
import tarfile
from itertools import islice

import pytest
from datasets import Dataset, Image

import butd_hf
from butd_hf.data.caption_streams import as_stream_table, first_captions, is_stream, open_captions
from butd_hf.data.data_errors import DataError
from butd_hf.data.splits import mix, numbered
from butd_hf.training import CaptionStream, SelfCriticalTask


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(image_paths, tmp_path_factory):
    """Four shards of five pictures; the eighth is broken, the ninth has no caption."""
    folder = tmp_path_factory.mktemp("shards")
    for number in range(20):
        mode = "w" if number % 5 == 0 else "a"
        with tarfile.open(folder / f"{number // 5}.tar", mode) as archive, open(image_paths[0], "rb") as picture:
            add(archive, f"{number:02d}.png", b"nothing" if number == 7 else picture.read())
            captions = [] if number == 8 else [f"number {number}", "a picture"]
            add(archive, f"{number:02d}.json", json.dumps({"captions": captions, "author": "nobody"}).encode())
    return folder


def number_of(example):
    return int(example.captions[0].split()[1])


def round_of(stream, reader, num_readers, start=(0, 0)):
    """What a reader sees until its next round begins, and its places."""
    found = []
    for place, example in stream.examples(reader, num_readers, start):
        if place[0] > start[0]:
            return found
        found.append((place, example))


@pytest.mark.parametrize("num_readers", [1, 2, 3, 4])
def test_readers_share_and_go_on(shards, num_readers):
    """Every whole sample is read once in each round, and from any place on, the rest of the round is what it was."""
    stream = CaptionStream(open_captions(str(shards)), captions_per_image=0, shuffle_buffer=4, strict=False)
    orders = []
    for number in range(2):
        rounds = [round_of(stream, reader, num_readers, (number, 0)) for reader in range(num_readers)]
        orders.append([number_of(example) for each in rounds for _, example in each])
        assert sorted(orders[-1]) == [number for number in range(20) if number not in (7, 8)]
    assert orders[0] != orders[1]
    whole = rounds[-1]
    rest = round_of(stream, num_readers - 1, num_readers, whole[1][0])
    assert [place for place, _ in rest] == [place for place, _ in whole[2:]]
    assert [number_of(example) for _, example in rest] == [number_of(example) for _, example in whole[2:]]


def test_broken_samples_are_named_counted_and_passed_over(shards, caplog):
    stream = CaptionStream(open_captions(str(shards / "*.tar")), shuffle_buffer=0, strict=False)
    with caplog.at_level(logging.WARNING, "butd_hf"):
        assert len(list(islice(stream.examples(0, 1), 40))) == 40  # more than two rounds
    first, second = (message for message in caplog.messages if "so far" in message)  # once each
    assert "1.tar: 07.png" in first and "the 1. so far" in first
    assert "1.tar: 08 has no captions" in second and "the 2. so far" in second
    with pytest.raises(OSError, match=r"07\.png.* passed over without --strict"):
        list(islice(CaptionStream(stream.rows, shuffle_buffer=0).examples(0, 1), 8))
    broken = CaptionStream(stream.rows.skip(7).take(2), shuffle_buffer=0, strict=False)
    with pytest.raises(OSError, match="Reader 1 of 1 finds no sample"):
        next(broken.examples(0, 1))


def test_a_damaged_shard_is_told_from_a_broken_sample(shards, tmp_path):
    content = (shards / "0.tar").read_bytes()
    for name, end in (("a.tar", None), ("b.tar", len(content) * 3 // 4)):
        (tmp_path / name).write_bytes(content[:end])
    stream = CaptionStream(open_captions(str(tmp_path)), shuffle_buffer=0, strict=False)
    with pytest.raises(RuntimeError, match=r"broke off after .*b\.tar: 0\d: "):
        list(islice(stream.examples(0, 1), 10))


def test_anything_that_datasets_streams(image_paths, tmp_path):
    table = Dataset.from_dict({"image": image_paths, "filename": list("abc"), "caption": ["one", "two", "three"]})
    table.cast_column("image", Image()).to_parquet(tmp_path / "train-0.parquet")
    assert is_stream(f"stream:{tmp_path}") and not is_stream(str(tmp_path))
    (tmp_path / "images.tar").touch()
    assert is_stream(str(tmp_path))
    (tmp_path / "captions.jsonl").touch()  # which were packed with the images
    assert not is_stream(str(tmp_path))
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "images.tar").unlink()
    rows = list(open_captions(f"stream:{tmp_path}"))
    assert [(row["image_id"], row["captions"]) for row in rows] == [("a", ["one"]), ("b", ["two"]), ("c", ["three"])]
    assert [
        example.image.size
        for _, example in islice(CaptionStream(open_captions(f"stream:{tmp_path}")).examples(0, 1), 3)
    ]
    table.rename_column("caption", "words").to_parquet(tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"found the columns .*'words'.* expected images in one of"):
        open_captions(f"stream:{tmp_path}")


def test_sources_are_mixed_in_shares(shards, image_paths):
    table = Dataset.from_dict({"image": image_paths, "image_id": list("abc"), "captions": [["x"], ["y"], ["z"]]})
    assert mix([table, numbered(table, 1)])["image_id"][:] == ["a", "b", "c", "1/a", "1/b", "1/c"]
    tables = mix([table, numbered(table, 1)], [8, 2], seed=1)["image_id"][:]
    assert {"1/a", "1/b", "1/c"} < set(tables) and sum("/" not in name for name in tables) > len(tables) / 2

    streams = mix([open_captions(str(shards)), as_stream_table(table)], [1, 3], seed=1)
    captions = [row["captions"] for row in streams.take(40)]
    assert 20 < sum(each in (["x"], ["y"], ["z"]) for each in captions) < 40
    turns = first_captions(mix([open_captions(str(shards)), as_stream_table(table)]), 4)
    assert list(turns) == ["number 0", "a picture", "x", "number 1", "a picture", "y"]
    assert next(CaptionStream(streams, shuffle_buffer=3, strict=False).examples(1, 2))[1].image is not None
    with pytest.raises(ValueError, match="weights must be 2 positive numbers"):
        mix([table, table], [1])


def test_rewards_need_a_table(shards, tiny_checkpoint):
    stream = CaptionStream(open_captions(str(shards)))
    model = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint)
    with pytest.raises(ValueError, match="must be a CaptionDataset, got CaptionStream"):
        SelfCriticalTask(model, processor, stream, stream)
