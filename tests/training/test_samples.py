# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from butd_hf.data.data_errors import BrokenSampleError
from butd_hf.data.splits import mix
from butd_hf.training.samples import SampleOrder, SampleStream, SampleTable


def read(row, rng, source):
    """Odd rows divisible by seven are broken."""
    number = row["number"]
    if number % 7 == 1:
        raise OSError(f"row {number} can't be read")
    return {"number": number, "drawn": None if rng is None else int(rng.integers(10**6))}


def rows(count, first=0):
    return Dataset.from_dict({"number": list(range(first, first + count))})


def test_a_sample_depends_on_place_epoch_and_seed_alone():
    table, again = (SampleTable(rows(5), read, training=True, seed=3) for _ in range(2))
    assert [table[place] for place in range(5)] == [again[place] for place in (0, 1, 2, 3, 4)]
    first = table[3]["drawn"]
    table.set_epoch(1)
    assert table[3]["drawn"] != first
    table.set_epoch(0)
    assert table[3]["drawn"] == first
    assert SampleTable(rows(5), read)[3] == {"number": 3, "drawn": None, "row": 3}


def test_broken_samples_are_replaced_named_and_counted(caplog):
    table = SampleTable(rows(9), read, training=True)
    with caplog.at_level(logging.WARNING):
        found = [sample["number"] for sample in DataLoader(table, batch_size=None, num_workers=2)]
    assert found == [0, 2, 2, 3, 4, 5, 6, 7, 0] and len(table.broken) == 2  # counted across loader processes
    assert table[1]["row"] == 2
    assert "row 1 can't be read; another sample takes its place" in caplog.text


@pytest.mark.parametrize("options", [{"training": True, "strict": True}, {}])
def test_strict_and_scored_samples_must_be_whole(options):
    with pytest.raises(BrokenSampleError, match="row 1 can't be read"):
        SampleTable(rows(3), read, **options)[1]


def test_nothing_whole_is_an_error():
    with pytest.raises(BrokenSampleError, match="None of the 1 samples can be read"):
        SampleTable(rows(1, first=8), read, training=True)[0]


@pytest.mark.parametrize("lengths", [None, [place % 10 for place in range(103)]])
def test_every_sample_has_its_turn_once_an_epoch(lengths):
    table = SampleTable(rows(103), read, training=True, lengths=lengths)
    order = list(SampleOrder(table, 4))
    assert sorted(order) == list(range(103)) and list(SampleOrder(table, 4)) == order
    table.set_epoch(1)
    assert list(SampleOrder(table, 4)) != order
    if lengths:
        batches = [[lengths[place] for place in order[start : start + 4]] for start in range(0, 100, 4)]
        spread = [max(batch) - min(batch) for batch in batches]
        assert sum(spread) / len(spread) < 1.5


def test_readers_share_a_stream_and_start_anew_in_another_order():
    streams = [
        SampleStream(rows(20).to_iterable_dataset(4), read, process=process, num_processes=2, shuffle_buffer=5)
        for process in range(2)
    ]
    found = [[row["number"] for row in stream.pass_over(0, stream.process, 2)] for stream in streams]
    assert sorted(found[0] + found[1]) == list(range(20)) and len(found[0]) == 10
    assert [row["number"] for row in streams[0].pass_over(1, 0, 2)] != found[0]
    samples = iter(streams[0])
    drawn = [next(samples)["number"] for _ in range(18)]
    whole = [number for number in found[0] if number % 7 != 1]
    assert drawn[: len(whole)] == whole and len(streams[0].broken) > 0
    again = iter(SampleStream(rows(20).to_iterable_dataset(4), read, num_processes=2, shuffle_buffer=5))
    assert [next(again)["number"] for _ in range(18)] == drawn


def test_loader_processes_share_a_mixed_stream():
    stream = mix([rows(30, 0).to_iterable_dataset(2), rows(30, 100).to_iterable_dataset(2)], [3, 1])
    loader = iter(DataLoader(SampleStream(stream, read, seed=1), batch_size=None, num_workers=2))
    found = [next(loader)["number"] for _ in range(80)]
    assert 0.1 < sum(number >= 100 for number in found) / 80 < 0.4


def test_streams_without_anything_whole():
    with pytest.raises(BrokenSampleError, match="Reader 1 of 1 finds no sample"):
        next(iter(SampleStream(rows(1, 8).to_iterable_dataset(), read)))


def test_a_stream_that_breaks_off_says_where():
    def fail(batch):
        raise KeyError("gone")

    with pytest.raises(RuntimeError, match=r"The stream broke off.*KeyError"):
        next(iter(SampleStream(rows(3).to_iterable_dataset().map(fail), read)))
