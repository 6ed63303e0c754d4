# SPDX-License-Identifier: Apache-2.0
import numpy as np

from butd_hf.drawing.heat import attention_map, heated


def test_heat_is_where_attention_is():
    boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    heat = attention_map(boxes, np.array([0.1, 0.6, 0.3]), 60, 80)
    assert heat.shape == (60, 80)
    assert heat.min() == 0 and heat.max() == 1
    assert heat[45, 60] > heat[15, 20] > heat[45, 20]


def test_small_regions_are_not_drowned_and_large_ones_not_lost():
    boxes = np.array([[0.0, 0.0, 0.2, 0.2], [0.0, 0.5, 1.0, 1.0]])
    heat = attention_map(boxes, np.array([0.5, 0.5]), 50, 50)
    assert heat[5, 5] > heat[40, 25] > 0.15


def test_even_attention_shows_no_heat():
    cells = np.arange(4) / 4
    boxes = np.array([[x, y, x + 0.25, y + 0.25] for y in cells for x in cells])
    heat = attention_map(boxes, np.full(16, 1 / 16), 64, 64)
    assert heat.max() < 1e-3


def test_degenerate_maps():
    assert (attention_map(np.zeros((0, 4)), np.zeros(0), 4, 4) == 0).all()
    assert np.isfinite(attention_map(np.array([[0.5, 0.5, 0.5, 0.5]]), np.ones(1), 4, 4)).all()
    assert attention_map(np.array([[0.0, 0.0, 1.0, 1.0]]), np.ones(1), 1, 9).shape == (1, 9)


def test_heated_image_is_brighter_where_heat_is():
    image = np.full((2, 2, 3), 0.5)
    result = heated(image, np.array([[0.0, 1.0], [0.3, 0.6]]))
    brightness = result.mean(axis=-1)
    assert brightness[0, 1] > brightness[1, 1] > brightness[1, 0] > brightness[0, 0]
    assert result.min() >= 0 and result.max() <= 1
