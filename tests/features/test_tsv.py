# SPDX-License-Identifier: Apache-2.0
import base64
import codecs
import csv

import numpy as np
import pytest

from butd_hf.features.records import FeatureFileError, FeatureRecord
from butd_hf.features.tsv import COLUMNS, line_of, read_tsv


NUM_BOXES, SIZE = 3, 8
WIDTH, HEIGHT = 640, 427


def published_row(seed, columns, image_id="42", size=SIZE):
    """A row as the published code makes it: float32 pixels, base64."""
    rng = np.random.default_rng(seed)
    low = rng.random((NUM_BOXES, 2)) * 200
    boxes = np.concatenate([low, low + 1 + rng.random((NUM_BOXES, 2)) * 200], axis=1).astype(np.float32)
    boxes[0] = [0, 0, WIDTH - 1, HEIGHT - 1]
    features = rng.random((NUM_BOXES, size), dtype=np.float32)
    values = {
        "image_id": image_id,
        "image_w": WIDTH,
        "image_h": HEIGHT,
        "num_boxes": NUM_BOXES,
        "boxes": base64.b64encode(boxes.tobytes()).decode(),
        "features": base64.b64encode(features.tobytes()).decode(),
        "objects_id": base64.b64encode(np.array([5, 1599, 0], np.int64).tobytes()).decode(),
        "objects_conf": base64.b64encode(np.array([0.9, 0.5, 0.2], np.float32).tobytes()).decode(),
        "attrs_id": base64.b64encode(np.array([0, 399, 7], np.int64).tobytes()).decode(),
        "attrs_conf": base64.b64encode(np.array([0.8, 0.4, 0.1], np.float32).tobytes()).decode(),
    }
    return [str(values[column]) for column in columns], boxes, features


def write_rows(file, rows):
    with open(file, "w", newline="") as opened:
        csv.writer(opened, delimiter="\t").writerows(rows)  # ends lines by \r\n, as published files do


@pytest.mark.parametrize("order", COLUMNS)
def test_both_orders_of_columns(tmp_path, order):
    columns = COLUMNS[order]
    assert columns.index("image_h") - columns.index("image_w") == (-1 if order == "lxmert" else 1)
    rows = [published_row(seed, columns, image_id=f"COCO_{seed}") for seed in range(3)]
    write_rows(tmp_path / "a.tsv", [row for row, _, _ in rows])
    records = list(read_tsv(tmp_path / "a.tsv"))
    assert [record.image_id for record in records] == ["COCO_0", "COCO_1", "COCO_2"]
    for record, (_, boxes, features) in zip(records, rows, strict=True):
        regions = record.regions
        assert (regions.width, regions.height) == (WIDTH, HEIGHT)
        assert regions.boxes.dtype == np.float32
        assert np.array_equal(regions.features, features)
        assert np.allclose(regions.boxes, boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT], rtol=1e-6)
        assert regions.boxes[0].tolist() == pytest.approx([0, 0, 639 / 640, 426 / 427])
        if order == "lxmert":
            assert regions.labels.tolist() == [5, 1599, 0] and regions.attributes.tolist() == [0, 399, 7]
            assert regions.saliency.tolist() == pytest.approx([0.9, 0.5, 0.2])


@pytest.mark.parametrize("order", COLUMNS)
def test_what_is_written_is_what_the_published_code_wrote(tmp_path, order):
    """To the byte, but for boxes, which pass through [0, 1] and may differ in their last bit."""
    row, boxes, _ = published_row(0, COLUMNS[order])
    write_rows(tmp_path / "a.tsv", [row])
    (record,) = read_tsv(tmp_path / "a.tsv")
    written = line_of(record, COLUMNS[order]).decode().rstrip("\n").split("\t")
    place = COLUMNS[order].index("boxes")
    assert written[:place] + written[place + 1 :] == row[:place] + row[place + 1 :]
    found = np.frombuffer(base64.b64decode(written[place]), np.float32).reshape(-1, 4)
    assert np.allclose(found, boxes, rtol=3e-7, atol=0)


def damaged(name):
    row, _, _ = published_row(1, COLUMNS["tsv"], image_id="43")
    short = base64.b64encode(np.zeros(NUM_BOXES * SIZE - 1, np.float32).tobytes()).decode()
    features = np.zeros((NUM_BOXES, SIZE), np.float32)
    features[1, 3] = np.nan
    changes = {
        "bad base64": (5, row[5][:10] + "!" + row[5][11:]),
        "cut base64": (5, row[5][:-3]),
        "too few bytes": (5, short),
        "NaN": (5, base64.b64encode(features.tobytes()).decode()),
        "num_boxes": (3, "three"),
        "no width": (1, "0"),
        "no id": (0, ""),
    }
    place, value = changes[name]
    return [*row[:place], value, *row[place + 1 :]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad base64", r"a\.tsv:2: column 6 \(features\): no base64"),
        ("cut base64", r"a\.tsv:2: column 6 \(features\): no base64"),
        ("too few bytes", r"a\.tsv:2: column 6 \(features\): 92 bytes, expected 96 for num_boxes 3"),
        ("NaN", r"a\.tsv:2: column 6 \(features\): region 1 has NaN"),
        ("num_boxes", r"a\.tsv:2: column 4 \(num_boxes\): expected a whole number, got b'three'"),
        ("no width", r"a\.tsv:2: column 2 \(image_w\): expected a positive size, got 0 x 427"),
        ("no id", r"a\.tsv:2: column 1 \(image_id\): is empty"),
    ],
)
def test_damage_is_reported_with_file_line_and_column(tmp_path, name, message):
    write_rows(tmp_path / "a.tsv", [published_row(0, COLUMNS["tsv"])[0], damaged(name)])
    records = read_tsv(tmp_path / "a.tsv")
    assert next(records).image_id == "42"  # what comes before is fine
    with pytest.raises(FeatureFileError, match=message):
        next(records)


@pytest.mark.parametrize("left", [0.2, 0.999])
def test_a_truncated_file(tmp_path, left):
    rows = [published_row(seed, COLUMNS["tsv"], image_id=str(seed))[0] for seed in range(2)]
    write_rows(tmp_path / "a.tsv", rows)
    content = (tmp_path / "a.tsv").read_bytes()
    line = content.index(b"\n") + 1
    (tmp_path / "a.tsv").write_bytes(content[: line + int((len(content) - line - 2) * left)])
    with pytest.raises(FeatureFileError, match=r"a\.tsv:2: column \d \(\w+\): .*it seems to be truncated"):
        list(read_tsv(tmp_path / "a.tsv"))


def test_a_wrong_number_of_columns(tmp_path):
    row, _, _ = published_row(0, COLUMNS["tsv"])
    write_rows(tmp_path / "a.tsv", [row, [*row, "more"]])
    with pytest.raises(FeatureFileError, match=r"a\.tsv:2: column 6 \(features\): the line has 7 columns, expected 6"):
        list(read_tsv(tmp_path / "a.tsv"))
    write_rows(tmp_path / "b.tsv", [row[:5]])
    with pytest.raises(FeatureFileError, match=r"b\.tsv:1: column 5 .*has 5 columns, expected 6: image_id, image_w"):
        list(read_tsv(tmp_path / "b.tsv"))


def test_swapped_sides_are_noticed_and_columns_can_be_named(tmp_path):
    columns = ("image_id", "image_h", "image_w", "num_boxes", "boxes", "features")
    row, _, features = published_row(0, columns)
    write_rows(tmp_path / "a.tsv", [row])
    with pytest.raises(FeatureFileError, match="width and height seem to have changed places"):
        list(read_tsv(tmp_path / "a.tsv"))
    (record,) = read_tsv(tmp_path / "a.tsv", columns)
    assert record.regions.width == WIDTH and np.array_equal(record.regions.features, features)


def test_fields_longer_than_the_csv_module_takes_and_notation_of_bytes(tmp_path):
    row, _, features = published_row(0, COLUMNS["tsv"], size=2048 * 8)
    assert len(row[5]) > csv.field_size_limit()
    row[5] = f"b'{row[5]}'"  # what str() of Python 3's bytes gives, as some extractors wrote
    write_rows(tmp_path / "a.tsv", [row])
    assert np.array_equal(next(read_tsv(tmp_path / "a.tsv")).regions.features, features)


def test_ids_that_would_break_a_line_are_refused(tmp_path):
    write_rows(tmp_path / "a.tsv", [published_row(0, COLUMNS["tsv"])[0]])
    (record,) = read_tsv(tmp_path / "a.tsv")
    with pytest.raises(FeatureFileError, match="can't be in a TSV file"):
        line_of(FeatureRecord("a\tb", record.regions, "here"), COLUMNS["tsv"])


def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path):
    write_rows(tmp_path / "a.tsv", [published_row(0, COLUMNS["tsv"])[0]])
    (tmp_path / "a.tsv").write_bytes(codecs.BOM_UTF8 + (tmp_path / "a.tsv").read_bytes())
    assert next(read_tsv(tmp_path / "a.tsv")).image_id == "42"
