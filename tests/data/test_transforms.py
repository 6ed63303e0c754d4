# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from butd_hf.data.transforms import VIEWS, Augmentation, load_image, mirror_caption, views_of


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_mirror_caption_swaps_whole_words_and_keeps_case():
    assert mirror_caption("Left of a man, RIGHT of leftovers") == "Right of a man, LEFT of leftovers"
    assert mirror_caption("a dog") == "a dog"
    assert mirror_caption("the leftmost chair at the right-hand side") == "the rightmost chair at the left-hand side"


def test_views(image):
    assert np.array_equal(np.asarray(VIEWS["flip"](image)), np.asarray(image)[:, ::-1])
    assert VIEWS["crop"](image).size == (58, 44)
    assert views_of([]) == ("identity",)
    assert views_of(["flip"]) == ("identity", "flip")
    assert views_of(["crop"]) == ("identity", "crop", "crop_top_left", "crop_bottom_right")
    assert set(views_of(["flip", "crop"])) == set(VIEWS)


def test_corner_crops_begin_in_their_corner(image):
    pixels = np.asarray(image)
    assert np.array_equal(np.asarray(VIEWS["crop_top_left"](image)), pixels[:41, :54])
    assert np.array_equal(np.asarray(VIEWS["crop_bottom_right"](image)), pixels[-41:, -54:])
    assert np.array_equal(np.asarray(VIEWS["crop_top_right_flip"](image)), pixels[:41, -54:][:, ::-1])
    assert np.array_equal(np.asarray(VIEWS["crop_bottom_left_flip"](image)), pixels[-41:, :54][:, ::-1])


def test_augmentation_depends_on_the_generator_alone(image):
    augmentation = Augmentation(("flip", "crop", "jitter"))
    results = [augmentation(image, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(np.asarray(results[0][0]), np.asarray(results[1][0]))
    assert results[0][0].size != results[2][0].size or results[0][1] != results[2][1]


def test_crop_keeps_its_share_and_stays_inside(image):
    augmentation = Augmentation(("crop",), smallest_crop=0.6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        cropped, mirrored = augmentation(image, rng)
        assert not mirrored
        assert 0.55 < cropped.width * cropped.height / (image.width * image.height) <= 1.0


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="rotate"):
        Augmentation(("rotate",))


def test_broken_image_is_named(tmp_path):
    file = tmp_path / "broken.jpg"
    file.write_bytes(b"no image")
    with pytest.raises(OSError, match=r"broken\.jpg"):
        load_image(str(file))
