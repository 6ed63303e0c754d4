# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from butd_hf.drawing import draw_objects, save_figure
from butd_hf.drawing.boxes import overlay


def test_every_object_has_an_outline_and_its_title(tmp_path):
    boxes = np.array([[5, 5, 40, 30], [0, 0, 80, 60], [5, 5, 40, 30]])
    titles = ["dog 0.90", "$cat_ 0.80", "cow 0.70"]
    figure = draw_objects(Image.new("RGB", (80, 60), "white"), boxes, titles, masks=np.ones((3, 60, 80), dtype=bool))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == titles
    outlines = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(outlines) == 3 and outlines[0].get_x() < outlines[2].get_x()  # drawn apart
    assert len(axes.images) == 2
    save_figure(figure, tmp_path / "objects.png")
    width, height = Image.open(tmp_path / "objects.png").size
    assert width / height == pytest.approx(80 / 60, rel=0.01)


def test_nothing_found_is_drawn_too(tmp_path):
    figure = draw_objects(Image.new("L", (30, 90)), np.zeros((0, 4)), [], masks=np.zeros((0, 90, 30), dtype=bool))
    assert len(figure.axes[0].texts) == 0
    save_figure(figure, tmp_path / "nothing.png")


def test_the_first_mask_is_on_top():
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, :2], masks[1, 1:] = True, True
    image = overlay(masks, [(1, 0, 0, 1), (0, 1, 0, 1)])
    assert image[1, 0, :3].tolist() == [1, 0, 0] and image[3, 0, :3].tolist() == [0, 1, 0]
    assert 0 < image[0, 0, 3] < 1
