# SPDX-License-Identifier: Apache-2.0
"""What cannot be learned from is passed over by every task alike, or stops it."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from butd_hf.data.captions import load_captions
from butd_hf.data.data_errors import DataError
from butd_hf.data.detection import load_detections
from butd_hf.data.detection_transforms import DetectionAugmentation
from butd_hf.data.questions import learnable_rows, load_questions
from butd_hf.data.scene_graphs import load_scene_graphs
from butd_hf.training import CaptionDataset, DetectionDataset, QuestionDataset, SceneGraphDataset


RELATED = {
    "objects": [{"label": "dog", "bbox": [0, 0, 20, 20]}, {"label": "mat", "bbox": [0, 10, 30, 20]}],
    "relations": [{"subject": 0, "predicate": "on", "object": 1}],
}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def captions(folder):
    (folder / "captions.jsonl").write_text(lines({"image": f"{n}.png", "captions": ["a"]} for n in range(3)))
    return load_captions, lambda table, strict: CaptionDataset(table, strict=strict), DataError


def questions(folder):
    rows = [{"image": f"{n}.png", "question": "what", "answers": ["a"]} for n in range(3)]
    (folder / "qa.jsonl").write_text(lines(rows))
    return load_questions, lambda table, strict: QuestionDataset(table, strict=strict), DataError


def boxes(folder, masks=False):
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(3)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 20]} for n in range(3)],
    }
    (folder / "annotations.json").write_text(json.dumps(document))

    def build(table, strict):
        mosaics = DetectionAugmentation(("mosaic",), mosaic=1.0)  # the broken picture may not be in them either
        return DetectionDataset(table, image_size=64, masks=masks, augmentation=mosaics, strict=strict)

    return load_detections, build, DataError


def graphs(folder):
    (folder / "annotations.json").write_text(json.dumps([{"image": f"{n}.png", **RELATED} for n in range(3)]))

    def build(table, strict):
        dataset = SceneGraphDataset(table, strict=strict)
        dataset.look = True
        return dataset

    def load(path, require_images=True):
        return load_scene_graphs(path, strict=require_images, require_images=require_images)

    return load, build, DataError


TASKS = {
    "captioning": captions,
    "question answering": questions,
    "detection": boxes,
    "segmentation": lambda folder: boxes(folder, masks=True),
    "scene graphs": graphs,
}


@pytest.fixture
def folder(tmp_path, detection_data):
    """Pictures 0 to 2, all of one size."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        shutil.copy(detection_data / "images" / "1.png", tmp_path / "images" / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("harm", ["broken", "missing"])
def test_a_picture_is_named_counted_and_replaced_or_stops_the_run(folder, caplog, name, harm):
    load, build, error = TASKS[name](folder)
    assert len(load(folder)) == 3
    picture = Path(folder / "images" / "1.png")
    if harm == "broken":
        picture.write_bytes(picture.read_bytes()[:60])
    else:
        picture.unlink()
        with pytest.raises(error, match=r"1 of 3 image files are missing(.|\n)*1\.png"):
            load(folder)
    with caplog.at_level(logging.WARNING):
        table = load(folder, require_images=False)
        assert ("1 of 3 image files are missing" in caplog.text) == (harm == "missing")
        caplog.clear()
        dataset = build(table, strict=False)
        taken = [dataset[index] for index in (0, 1, 1, 2)]
    places = [getattr(example, "index", None) or getattr(example, "indices", [0])[0] for example in taken]
    assert places == [0, 2, 2, 2]
    (warning,) = caplog.messages  # once
    assert "1.png" in warning and "it is the 1. so far" in warning
    with pytest.raises(OSError, match=r"1\.png.*passed over without --strict"):
        build(table, strict=True)[1]
    if harm == "missing":
        for number in (0, 2):
            (folder / "images" / f"{number}.png").unlink()
        if name != "scene graphs":  # which do without pictures where there are none
            with pytest.raises(error, match="3 of 3 image files are missing"):
                load(folder, require_images=False)


def test_unknown_labels_are_named_and_counted_or_stop_the_run(folder, caplog):
    boxes(folder)
    document = json.loads((folder / "annotations.json").read_text())
    document["annotations"][1]["category_id"] = 9
    (folder / "annotations.json").write_text(json.dumps(document))
    assert [len(objects) for objects in load_detections(folder)["objects"]] == [1, 0, 1]
    assert "1 objects whose category isn't in `categories`, left out: " in caplog.text
    assert "annotations[1] (id 1) of image 1.png: category_id 9" in caplog.text

    graphs(folder)
    (folder / "objects.txt").write_text("dog\n")
    (folder / "predicates.txt").write_text("on\n")
    assert [len(objects) for objects in load_scene_graphs(folder, strict=False)["objects"]] == [1, 1, 1]
    assert "3 objects whose label isn't listed, left out: " in caplog.text
    assert "objects[1] is 'mat'" in caplog.text
    with pytest.raises(DataError, match=r"objects\[1\] is 'mat': objects whose label isn't listed"):
        load_scene_graphs(folder)

    questions(folder)
    table = load_questions(folder)
    assert len(learnable_rows(table, {"a": 0}, strict=True)) == 3
    assert len(learnable_rows(table, {"b": 0}, strict=False)) == 0
    assert "3 questions with no answer that the model knows, left out: question 1: ['a']" in caplog.text
    with pytest.raises(ValueError, match=r"question 1: \['a'\]: questions with no answer that the model knows"):
        learnable_rows(table, {"b": 0}, strict=True)
