# SPDX-License-Identifier: Apache-2.0
"""Sets that the command lines of tasks mix in given shares."""

import json
import shutil

import pytest

from butd_hf.data.data_errors import DataError
from butd_hf.training.detection_recipe import DetectionArguments
from butd_hf.training.detection_recipe import load_splits as load_detection_splits
from butd_hf.training.question_answering_recipe import QuestionArguments
from butd_hf.training.question_answering_recipe import load_splits as load_question_splits


def shares(table, column):
    values = list(table[column])
    return {value: values.count(value) / len(values) for value in values}


def test_detection(detection_data, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(detection_data, other)
    both = [str(detection_data), str(other)]
    joined, scored = load_detection_splits(DetectionArguments(data=both), seed=0)
    assert list(joined["image_id"]) == [100, 101, 102, 103] * 2 and list(scored["image_id"]) == [104, 105]
    mixed, _ = load_detection_splits(DetectionArguments(data=both, data_weights=[9, 1]), seed=0)
    found = shares(mixed, "image")
    assert len(found) == 8 and sum(share for path, share in found.items() if str(other) in path) < 0.35
    again, _ = load_detection_splits(DetectionArguments(data=both, data_weights=[9, 1]), seed=0)
    assert list(again["image"]) == list(mixed["image"])  # a resumed run learns from the same

    document = json.loads((other / "annotations.json").read_text())
    document["categories"][0]["name"] = "something else"
    (other / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="other has other categories than"):
        load_detection_splits(DetectionArguments(data=both), seed=0)
    (other / "images" / "5.png").unlink()
    with pytest.raises(DataError, match="1 of 2 image files are missing"):  # what is scored must be whole
        load_detection_splits(DetectionArguments(data=[str(detection_data)], eval_data=str(other)), seed=0)


def test_questions(detection_data, tmp_path):
    folders = []
    for name, answer in (("one", "dog"), ("other", "cat")):
        folder = tmp_path / name
        shutil.copytree(detection_data / "images", folder / "images")
        rows = [
            {"image": f"{n}.png", "question": "what", "answers": [answer], "split": "train" if n < 4 else "val"}
            for n in range(6)
        ]
        (folder / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders.append(str(folder))
    mixed, scored = load_question_splits(QuestionArguments(data=folders, data_weights=[1, 9]), seed=0)
    found = shares(mixed, "image_id")  # pictures of two sets may be called alike
    assert len(found) == 8 and sum(share for name, share in found.items() if name.startswith("0/")) < 0.35
    assert list(scored["answers"]) == [["dog"]] * 2 and list(scored["image_id"]) == ["0/4.png", "0/5.png"]
    with pytest.raises(ValueError, match="--images is the folder of one --data, got 2"):
        QuestionArguments(data=folders, images="images")
