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
    assert mirror_caption("the leftmost chair at the right-hand side") == "the rightmost chair at the left-hand side"


def test_fixed_views(image):
    pixels = np.asarray(image)
    expected = {
        "identity": pixels,
        "flip": pixels[:, ::-1],
        "crop": pixels[2:-2, 3:-3],
        "crop_top_left": pixels[:41, :54],
        "crop_bottom_right": pixels[-41:, -54:],
        "crop_flip": pixels[2:-2, 3:-3][:, ::-1],
        "crop_top_right_flip": pixels[:41, -54:][:, ::-1],
        "crop_bottom_left_flip": pixels[-41:, :54][:, ::-1],
    }
    assert list(VIEWS) == list(expected)
    for name, value in expected.items():
        assert np.array_equal(np.asarray(VIEWS[name](image))[:41, :54], value[:41, :54]), name
    assert views_of([]) == ("identity",) and views_of(["flip"]) == ("identity", "flip")
    assert views_of(["crop"]) == ("identity", "crop", "crop_top_left", "crop_bottom_right")
    assert views_of(["flip", "crop"]) == tuple(VIEWS)


def test_augmentation_depends_on_the_generator_alone(image):
    augmentation = Augmentation(("flip", "crop", "jitter"))
    results = [augmentation(image, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(np.asarray(results[0][0]), np.asarray(results[1][0]))
    assert results[0][0].size != results[2][0].size or results[0][1] != results[2][1]
    with pytest.raises(ValueError, match="rotate"):
        Augmentation(("rotate",))


def test_crops_keep_their_share_and_jitter_of_strength_zero_changes_nothing(image):
    rng = np.random.default_rng(0)
    for _ in range(50):
        cropped, mirrored = Augmentation(("crop",), smallest_crop=0.6)(image, rng)
        assert not mirrored
        assert 0.55 < cropped.width * cropped.height / (image.width * image.height) <= 1.0
    grey = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    jittered, _ = Augmentation(("jitter",), jitter_strength=0.0)(grey, rng)
    assert np.array_equal(np.asarray(jittered)[..., 1], np.asarray(image)[..., 0])


def test_broken_image_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"broken\.jpg"):
        load_image(str(tmp_path / "broken.jpg"))
