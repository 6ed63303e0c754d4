# SPDX-License-Identifier: Apache-2.0
"""Images as the published detectors took them, whichever way they come."""

import math

import numpy as np
import PIL.Image
import pytest
import torch

from butd_hf.modeling.image_processing_butd import (
    PUBLISHED_MEAN,
    PUBLISHED_SIZES,
    ButdImageProcessor,
    published_pixels,
)


SIZE = {"shortest_edge": 60, "longest_edge": 100}


def colours(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def opencv_resized(image: np.ndarray, factor: float) -> np.ndarray:
    """Bilinear as OpenCV does it for floats when a factor is given: no smoothing, edges repeated."""
    height, width = (round(side * factor) for side in image.shape[:2])  # halves to even

    def taps(count, limit):
        place = (np.arange(count) + 0.5) / factor - 0.5
        low = np.floor(place).astype(int)
        return np.clip(low, 0, limit - 1), np.clip(low + 1, 0, limit - 1), np.where(low < 0, 0.0, place - low)

    top, bottom, down = taps(height, image.shape[0])
    left, right, across = taps(width, image.shape[1])
    rows = image[top] * (1 - down)[:, None, None] + image[bottom] * down[:, None, None]
    return rows[:, left] * (1 - across)[:, None] + rows[:, right] * across[:, None]


@pytest.mark.parametrize("size", [(37, 53), (45, 200), (170, 90)])
def test_caffe(size):
    """Grey levels are blue, green, red; the mean goes first; the factor is 600 / short or 1000 / long, exactly."""
    image = colours(*size)
    factor = 60 / min(size)
    if round(factor * max(size)) > 100:
        factor = 100 / max(size)
    expected = opencv_resized(image[:, :, ::-1].astype(np.float64) - np.array(PUBLISHED_MEAN), factor)
    result, scale = published_pixels(torch.from_numpy(image).permute(2, 0, 1), "caffe", 60, 100, PUBLISHED_MEAN)
    assert scale == factor
    assert result.shape[1:] == expected.shape[:2]
    np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, atol=1e-2)
    assert result.min() < -50  # floats are not clipped


@pytest.mark.parametrize("size", [(37, 53), (45, 200)])
def test_detectron2(size):
    """Pillow resizes whole grey levels, then the mean goes."""
    image = colours(*size)
    factor = 60 / min(size)
    sides = [side * factor for side in size]
    if max(sides) > 100:
        sides = [side * 100 / max(sides) for side in sides]
    height, width = (math.floor(side + 0.5) for side in sides)
    resized = np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))
    expected = resized[:, :, ::-1].astype(np.float64) - np.array(PUBLISHED_MEAN)
    result, _ = published_pixels(torch.from_numpy(image).permute(2, 0, 1), "detectron2", 60, 100, PUBLISHED_MEAN)
    np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("recipe", list(PUBLISHED_SIZES))
def test_paths_images_and_arrays_agree(recipe, tmp_path):
    """The ports read blue first from some sources and red first from others."""
    image = colours(40, 50)
    image[:, :, 0], image[:, :, 2] = 255, 0  # red
    PIL.Image.fromarray(image).save(tmp_path / "red.png")
    processor = ButdImageProcessor.from_recipe(recipe, size=SIZE)
    images = [str(tmp_path / "red.png"), PIL.Image.fromarray(image), image, torch.from_numpy(image).permute(2, 0, 1)]
    each = [processor(images=one, return_tensors="pt") for one in images]
    together = processor(images=images, return_tensors="pt")
    for row, single in enumerate(each):
        assert torch.equal(single["pixel_values"], each[0]["pixel_values"])
        assert torch.equal(single["pixel_values"][0], together["pixel_values"][row])
        assert single["image_scale"].tolist() == [1.5]
    blue, _, red = each[0]["pixel_values"][0].flatten(1).mean(dim=1).tolist()
    assert blue == pytest.approx(-PUBLISHED_MEAN[0], abs=1e-3)
    assert red == pytest.approx(255 - PUBLISHED_MEAN[2], abs=1e-3)


def test_padding_and_scales_of_a_batch(tmp_path):
    processor = ButdImageProcessor.from_recipe("caffe", size=SIZE)
    batch = processor(images=[colours(40, 50), colours(120, 60), colours(20, 80)], return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 3, 100, 100)
    assert batch["pixel_mask"].sum(dim=(1, 2)).tolist() == [60 * 75, 100 * 50, 25 * 100]
    torch.testing.assert_close(batch["image_scale"], torch.tensor([1.5, 100 / 120, 1.25]))
    processor.save_pretrained(tmp_path)
    again = ButdImageProcessor.from_pretrained(tmp_path)
    assert again.recipe == "caffe"
    assert torch.equal(
        again(images=colours(40, 50), return_tensors="pt")["pixel_values"][0], batch["pixel_values"][0, :, :60, :75]
    )


def test_refusals():
    with pytest.raises(ValueError, match="recipe must be one of 'caffe', 'detectron2', got 'torch'"):
        ButdImageProcessor.from_recipe("torch")
    with pytest.raises(ValueError, match=r"size must be .*shortest_edge"):
        ButdImageProcessor.from_recipe("caffe", size={"height": 64, "width": 64})
    with pytest.raises(ValueError, match=r"size must be .*shortest_edge"):
        ButdImageProcessor.from_recipe("caffe")(images=colours(40, 50), size={"height": 64, "width": 64})
