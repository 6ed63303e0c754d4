# SPDX-License-Identifier: Apache-2.0
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from butd_hf.drawing.boxes import apart, draw_regions, tag_corner


LINE = np.full(4, 0.01)


def test_shared_sides_are_drawn_apart():
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]])
    outlines = apart(boxes, LINE)
    assert outlines[0, 0] < outlines[1, 0]  # two left sides at one place
    assert outlines[1, 2] < outlines[2, 0]  # neighbours, each within its own box
    assert (outlines[:, :2] >= boxes[:, :2]).all() and (outlines[:, 2:] <= boxes[:, 2:]).all()


def test_outlines_keep_their_order_however_small_the_box():
    boxes = np.tile([[0.4, 0.4, 0.42, 0.42]], (20, 1))
    outlines = apart(boxes, LINE)
    assert (outlines[:, :2] < outlines[:, 2:]).all()


def test_tags_of_equal_boxes_do_not_overlap():
    size, taken = np.array([0.05, 0.05]), []
    for _ in range(10):
        taken.append(tag_corner(np.zeros(2), np.ones(2), size, taken))
    for index, corner in enumerate(taken):
        assert all((np.abs(corner - other) >= size).any() for other in taken[:index])


def test_only_the_first_are_numbered():
    axes = Figure().add_axes((0, 0, 1, 1))
    boxes = np.random.default_rng(0).uniform(0, 0.5, (36, 4))
    boxes[:, 2:] += 0.5
    draw_regions(axes, boxes, numbered=12)
    assert [text.get_text() for text in axes.texts] == [str(number) for number in range(1, 13)]
    assert sum(isinstance(patch, Rectangle) for patch in axes.patches) == 24  # an outline and a tag each
