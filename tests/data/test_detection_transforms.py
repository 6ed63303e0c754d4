# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from PIL import Image

from butd_hf.data.detection import load_detections
from butd_hf.data.detection_transforms import (
    DETECTION_AUGMENTATIONS,
    DetectionAugmentation,
    mosaic,
    read_image,
    read_sample,
)
from butd_hf.data.transforms import seeded


@pytest.fixture(scope="module")
def samples(detection_data):
    return [read_sample(row, 64) for row in load_detections(detection_data)]


def check(sample):
    """Boxes are in the image, every row is there, and masks lie in their boxes."""
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


@pytest.mark.parametrize("names", [*((name,) for name in DETECTION_AUGMENTATIONS), DETECTION_AUGMENTATIONS])
def test_boxes_and_masks_change_with_the_image_and_depend_on_the_seed_alone(samples, names):
    augmentation = DetectionAugmentation(names, mosaic=0.7)

    def changed(seed):
        with seeded(seed) as rng:
            return augmentation(samples[seed % 6], lambda: samples[int(rng.integers(6))], 64, rng)

    for seed in range(12):
        check(changed(seed))
    state = torch.random.get_rng_state()
    first, again = changed(2), changed(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing outside is disturbed


def test_mosaic_shows_objects_where_their_boxes_are(samples):
    joined = mosaic([samples[0], samples[2], samples[4], samples[5]], 80, np.random.default_rng(0))
    check(joined)
    assert joined["image"].shape == (3, 80, 80) and len(joined["labels"]) > 4
    for mask in joined["masks"][joined["has_mask"]]:  # objects are brighter than what is around them
        inside, outside = (joined["image"][:, where].float().amax(0).mean() for where in (mask > 0, mask == 0))
        assert inside > outside + 50


def test_large_jpegs_are_read_small(tmp_path):
    file = tmp_path / "large.jpg"
    Image.new("RGB", (800, 600), "red").save(file)
    assert 320 <= max(read_image(str(file), 600, 800, 320).shape[-2:]) < 800
    found = {"label": 1, "box": [400.0, 300.0, 800.0, 600.0], "mask": None, "iscrowd": False, "attribute": -1}
    sample = read_sample({"image": str(file), "height": 600, "width": 800, "objects": [found]}, 320)
    height, width = sample["image"].shape[-2:]
    expected = torch.tensor([[width / 2, height / 2, width, height]])
    assert torch.allclose(sample["boxes"].as_subclass(torch.Tensor), expected)
    with pytest.raises(ValueError, match=r"large\.jpg: 800 x 600 pixels, but annotated as 100 x 600"):
        read_image(str(file), 600, 100, 320)
    file.write_bytes(b"no image")
    with pytest.raises(OSError, match=r"large\.jpg"):
        read_image(str(file), 600, 800, 320)


def test_turned_images_fit_their_annotation(tmp_path):
    file = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, exif=exif)
    assert np.array_equal(read_image(str(file), 20, 40, 64).permute(1, 2, 0), pixels)
    assert np.array_equal(read_image(str(file), 40, 20, 64).permute(1, 2, 0), np.rot90(pixels, -1))


def test_pixels_are_those_of_inference(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (20, 40), dtype=np.uint8)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    assert np.array_equal(read_image(str(tmp_path / "sixteen.png"), 20, 40, 64)[1], grey)
    Image.fromarray(np.dstack([grey, np.zeros_like(grey)]), "LA").save(tmp_path / "transparent.png")
    assert (read_image(str(tmp_path / "transparent.png"), 20, 40, 64) == 255).all()


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="copy_paste"):
        DetectionAugmentation(("copy_paste",))
