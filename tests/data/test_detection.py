# SPDX-License-Identifier: Apache-2.0
import json
import logging

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_masks
from PIL import Image

from butd_hf.data.data_errors import DataError
from butd_hf.data.detection import coco_annotations, label_names, load_detections


CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]


def image(number, **fields):
    return {"id": number, "file_name": f"{number}.png", "width": 40, "height": 30, **fields}


def annotation(number=1, bbox=(5, 5, 10, 10), **fields):
    return {"id": number, "image_id": 1, "category_id": 7, "bbox": list(bbox), **fields}


def write(folder, images, annotations, name="annotations.json", image_folder="images"):
    (folder / image_folder).mkdir(parents=True, exist_ok=True)
    for each in images:
        Image.new("RGB", (40, 30)).save(folder / image_folder / f"{each['id']}.png")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": annotations}))
    return folder


def test_splits_and_every_kind_of_mask(tmp_path):
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:15, 5:15] = 1
    counts = coco_masks.encode(np.asfortranarray(mask))["counts"]
    counts = counts.decode() if isinstance(counts, bytes) else counts
    flat = mask.T.ravel()
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]).tolist()
    kinds = [
        {"size": [30, 40], "counts": counts},
        {"size": [30, 40], "counts": runs},
        [[5, 5, 15, 5, 15, 15, 5, 15]],
        [[5, 5, 15, 5, 15, 15, 5, 15], [1, 1]],  # a polygon without an area beside one
        None,
        [],
        [[]],
        {"size": [30, 40], "counts": [30 * 40]},  # empty
    ]
    annotations = [annotation(number, segmentation=kind) for number, kind in enumerate(kinds)]
    annotations.append(annotation(9, bbox=(0, 0, 40, 30), category_id=2, iscrowd=1, attribute_id=4))
    table = load_detections(write(tmp_path, [image(1, split="train"), image(3, split="val")], annotations))
    assert label_names(table) == ["cat", "dog"] and list(table["split"]) == ["train", "val"]
    objects = table[0]["objects"]
    assert [each["mask"] for each in objects] == [counts] * 4 + [None] * 5
    assert [each["label"] for each in objects] == [1] * 8 + [0]
    assert [each["iscrowd"] for each in objects] == [False] * 8 + [True] and objects[-1]["attribute"] == 4
    assert objects[0]["box"] == [5, 5, 15, 15] and objects[0]["attribute"] == -1 and objects[0]["area"] == 100
    assert table[1]["objects"] == []
    assert load_detections(tmp_path, split="val")["image_id"][:] == [3]
    back = coco_annotations(table[0])["annotations"][0]
    assert back["bbox"] == [5, 5, 10, 10] and back["segmentation"] == {"size": [30, 40], "counts": counts}


def test_cocos_own_layout(tmp_path):
    for name, number in (("train2017", 1), ("val2017", 2)):
        write(tmp_path, [image(number)], [], f"annotations/instances_{name}.json", name)
    table = load_detections(tmp_path)
    assert list(table["split"]) == ["train", "val"] and table[1]["image"].endswith("val2017/2.png")
    assert load_detections(tmp_path / "annotations" / "instances_val2017.json")["image_id"][:] == [2]


@pytest.mark.parametrize(
    "fields",
    [{"image_id": "1"}, {"category_id": "7"}, {"iscrowd": "0"}, {"area": None}, {"attribute_id": None}, {"id": "5f"}],
)
def test_types_that_exporters_write_are_read_as_meant(tmp_path, fields):
    (row,) = load_detections(write(tmp_path, [image(1)], [{**annotation(), **fields}]))
    (found,) = row["objects"]
    assert (found["label"], found["iscrowd"], found["area"], found["attribute"]) == (1, False, 100, -1)


def test_boxes_are_clipped_and_counted(tmp_path, caplog):
    boxes = [(-5, -5, 20, 20), (30, 20, 10, 10), (5, 5, 0, 5), (5, 5, 5, -5), (41, 0, 5, 5)]
    write(tmp_path, [image(1)], [annotation(number, bbox) for number, bbox in enumerate(boxes)])
    with caplog.at_level(logging.WARNING):
        (row,) = load_detections(tmp_path)
    assert [each["box"] for each in row["objects"]] == [[0, 0, 15, 15], [30, 20, 40, 30]]
    assert "3 boxes without area" in caplog.text and "1 boxes that cross" in caplog.text
    with pytest.raises(DataError, match=r"annotations\[2\] \(id 2\) of image 1\.png: boxes without area"):
        load_detections(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotations\[0\] \(id 1\) of image 1\.png: 'bbox' must be four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "'bbox' must be four finite numbers"),
        ({"category_id": 99}, r"of image 1\.png: category_id 99: objects whose category isn't in `cat"),
        ({"image_id": 99}, r"annotations\[0\]: its image_id is not in `images`"),
        ({"iscrowd": "no"}, r"annotations\[0\] \(id 1\) of image 1\.png: invalid literal"),
        ({"segmentation": [[1, 2]]}, r"of image 1\.png: segmentations with polygons of fewer than three points"),
        ({"segmentation": {"size": [40, 30], "counts": [1200]}}, r"the image has height and width \[30, 40\]"),
        ({"segmentation": {"size": [30, 40], "counts": [1300]}}, r"of image 1\.png: cannot read the segmentation"),
    ],
)
def test_errors_name_file_image_and_annotation(tmp_path, fields, message):
    write(tmp_path, [image(1)], [{**annotation(), **fields}])
    with pytest.raises(DataError, match=message) as raised:
        load_detections(tmp_path, strict=True)
    assert str(tmp_path / "annotations.json") in str(raised.value)


def test_files_that_are_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a JSON file, or a folder"):
        load_detections(tmp_path)
    write(tmp_path, [image(1), image(2)], [])
    with pytest.raises(DataError, match=r"no split 'test', there are \['train'\]"):
        load_detections(tmp_path, split="test")
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 image files are missing(.|\n)*2\.png"):
        load_detections(tmp_path)
    for content, message in (
        ("{", "line 1: not JSON"),
        ('{"images": []}', "no list 'categories'"),
        ('{"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}], "annotations": []}', r"images\[0\]: exp"),
        ('{"images": [], "categories": [], "annotations": []}', "no categories"),
    ):
        (tmp_path / "annotations.json").write_text(content)
        with pytest.raises(DataError, match=message):
            load_detections(tmp_path)
