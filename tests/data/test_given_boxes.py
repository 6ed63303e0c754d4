# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from butd_hf.data.data_errors import DataError
from butd_hf.data.given_boxes import GivenBoxes


def lines(*values):
    return "".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values)


GOOD = {"image": "a.png", "boxes": [[0, 0, 10, 10]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(GOOD, "{nothing"), r"boxes\.jsonl, line 2: not JSON .*column 2"),
        (lines(GOOD, {"boxes": []}), r"boxes\.jsonl, line 2: expected an object with `image_id` and `boxes`"),
        (lines(GOOD, GOOD), r"boxes\.jsonl, line 2: image 'a\.png' comes twice"),
        (lines({"image_id": 7, "boxes": [[1, 2, 3]]}), r"boxes\.jsonl, line 1: image '7': box 0 is \[1, 2, 3\]"),
        (lines({"image_id": 7, "boxes": [[1, 2, 3, float("nan")]]}), r"box 0 is \[1, 2, 3, nan\]"),
        (lines({"image_id": 7, "boxes": [[1, 2, 3, 4], [5, 5, 5, 9]]}), r"box 1 .*has no area"),
        (lines({"image_id": 7, "boxes": "all"}), "expected a list of boxes"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "boxes.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        GivenBoxes(tmp_path / "boxes.jsonl")


def test_boxes_outside_the_image_are_refused_and_a_pixel_is_forgiven(tmp_path):
    (tmp_path / "boxes.json").write_text(json.dumps({"a": [[0, 0, 41, 20]], "b": [[0, 0, 10, 30]]}))
    boxes = GivenBoxes(tmp_path / "boxes.json")
    assert boxes.relative("a", 40, 20)[0].tolist() == pytest.approx([0, 0, 41 / 40, 1])
    with pytest.raises(DataError, match="outside the image of 40 x 20 pixels"):
        boxes.relative("b", 40, 20)


def test_other_content_is_refused(tmp_path):
    (tmp_path / "boxes.json").write_text("[1]")
    with pytest.raises(DataError, match="got a list"):
        GivenBoxes(tmp_path / "boxes.json")
    with pytest.raises(DataError, match="cannot be read"):
        GivenBoxes(tmp_path / "missing.json")
    with pytest.raises(DataError, match="box_format must be one of"):
        GivenBoxes(tmp_path / "boxes.json", "yxyx")
