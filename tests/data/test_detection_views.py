# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from butd_hf.data.detection import load_detections
from butd_hf.data.detection_views import (
    DetectionAugmentation,
    copy_paste,
    mosaic,
    read_picture,
    read_sample,
    seeded,
)


EVERYTHING = ("flip", "crop", "zoom_out", "jitter", "mosaic", "copy_paste")


@pytest.fixture(scope="module")
def table(detection_data):
    return load_detections(detection_data)


@pytest.fixture(scope="module")
def samples(table):
    return [read_sample(row, 64) for row in table]


def check(sample):
    """Boxes are in the picture, every row is there, and masks lie in their boxes."""
    height, width = sample["image"].shape[-2:]
    boxes = sample["boxes"].as_subclass(torch.Tensor)
    assert sample["image"].dtype == torch.uint8
    assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len({len(sample[name]) for name in ("boxes", "labels", "has_mask", "iscrowd", "attributes", "masks")}) == 1
    assert sample["masks"].shape[1:] == (height, width) and sample["has_mask"].dtype == torch.bool
    for box, mask, known in zip(boxes, sample["masks"], sample["has_mask"], strict=True):
        assert bool(mask.any()) == bool(known)
        if known:
            rows, columns = mask.nonzero().unbind(dim=1)
            assert columns.min() >= box[0] - 1.5 and columns.max() <= box[2] + 1.5
            assert rows.min() >= box[1] - 1.5 and rows.max() <= box[3] + 1.5


@pytest.mark.parametrize("name", [*EVERYTHING, "all"])
def test_boxes_and_masks_change_with_the_picture(samples, name):
    augmentation = DetectionAugmentation(EVERYTHING if name == "all" else (name,), mosaic=0.7, copy_paste=1.0)
    for seed in range(12):
        with seeded(seed) as rng:
            changed = augmentation(samples[seed % 6], lambda: samples[int(rng.integers(6))], 64, rng)
        check(changed)


def test_mosaic_joins_four(samples):
    rng = np.random.default_rng(0)
    joined = mosaic([samples[0], samples[2], samples[4], samples[5]], 80, rng)
    check(joined)
    assert joined["image"].shape == (3, 80, 80) and len(joined["labels"]) > 4


def test_pasted_objects_cover_what_is_behind(samples):
    for seed in range(8):
        pasted = copy_paste(samples[0], samples[2], np.random.default_rng(seed))
        check(pasted)
        assert (pasted["masks"].sum(dim=0) <= 1).all()  # no pixel belongs to two
    assert copy_paste(samples[0], samples[1], np.random.default_rng(0)) is samples[0]  # no masks, nothing to paste
    check(copy_paste(samples[3], samples[2], np.random.default_rng(0)))  # into a picture of nothing


def test_large_jpegs_are_read_small(tmp_path):
    file = tmp_path / "large.jpg"
    Image.new("RGB", (800, 600), "red").save(file)
    picture = read_picture(str(file), 600, 800, 320)
    assert 320 <= max(picture.shape[-2:]) < 800 and picture[0].float().mean() > 250
    row = {"image": str(file), "height": 600, "width": 800, "objects": []}
    row["objects"] = [
        {"label": 1, "box": [400.0, 300.0, 800.0, 600.0], "mask": None, "iscrowd": False, "attribute": -1}
    ]
    sample = read_sample(row, 320)
    height, width = sample["image"].shape[-2:]
    assert torch.allclose(
        sample["boxes"][0].as_subclass(torch.Tensor), torch.tensor([width / 2, height / 2, width, height])
    )
    with pytest.raises(ValueError, match=r"large\.jpg: 800 x 600 pixels, but annotated as 100 x 600"):
        read_picture(str(file), 600, 100, 320)
    file.write_bytes(b"no image")
    with pytest.raises(OSError, match=r"large\.jpg"):
        read_picture(str(file), 600, 800, 320)


def test_rotated_pictures_fit_their_annotation(tmp_path):
    file = tmp_path / "rotated.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 20)).save(file, exif=exif)
    assert read_picture(str(file), 40, 20, 64).shape == (3, 40, 20)
    assert read_picture(str(file), 20, 40, 64).shape == (3, 20, 40)


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="rotate"):
        DetectionAugmentation(("rotate",))
