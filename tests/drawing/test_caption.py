# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from butd_hf.drawing import draw_caption, save_figure
from butd_hf.drawing.caption import panel_grid


WORDS = ["a", "dog", "runs"]


def grid(cells):
    """Boxes of a grid of cells, and attention that is all on one of them."""
    low = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=-1).reshape(-1, 2) / cells
    return np.concatenate([low, low + 1 / cells], axis=1), np.eye(cells * cells)[: len(WORDS)]


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (400, 20)])
def test_one_panel_per_word(size):
    boxes, attentions = grid(3)
    figure = draw_caption(Image.new("RGB", size), boxes, WORDS, attentions)
    image, *panels = figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == WORDS
    assert [panel.get_title(loc="right") for panel in panels] == ["100%"] * 3
    assert [text.get_text() for text in image.texts] == [str(number) for number in range(1, 10)]
    for axes in figure.axes:
        place = axes.get_position()
        assert place.x0 >= 0 and place.x1 <= 1 and place.y0 >= 0 and place.y1 <= 1
    figure.canvas.draw()


def test_panels_do_not_overlap():
    boxes, _ = grid(2)
    figure = draw_caption(Image.new("RGB", (64, 48)), boxes, list("abcdefghijk"), np.full((11, 4), 0.25))
    places = [axes.get_position() for axes in figure.axes]
    for index, place in enumerate(places):
        assert not any(place.overlaps(other) for other in places[index + 1 :])


def test_nothing_to_draw():
    figure = draw_caption(Image.new("L", (8, 8)), np.zeros((0, 4)), [], np.zeros((0, 0)))
    assert len(figure.axes) == 1
    figure = draw_caption(Image.new("L", (8, 8)), np.zeros((0, 4)), ["dog"], np.zeros((1, 0)), caption="dog")
    figure.canvas.draw()


def test_same_input_same_pixels():
    boxes, attentions = grid(2)
    pixels = []
    for _ in range(2):
        figure = draw_caption(Image.radial_gradient("L"), boxes, WORDS, attentions)
        figure.canvas.draw()
        pixels.append(np.asarray(figure.canvas.buffer_rgba()))
    assert (pixels[0] == pixels[1]).all()


def test_panel_grid_has_room_for_all():
    for count in range(40):
        rows, columns = panel_grid(count, aspect=1.0)
        assert rows * columns >= count and columns <= 2 * rows


def test_saving_leaves_nothing_else(tmp_path):
    boxes, attentions = grid(2)
    figure = draw_caption(Image.new("RGB", (32, 32)), boxes, WORDS, attentions)
    for name in ("a.png", "b.PDF"):
        save_figure(figure, tmp_path / name)
    with pytest.raises(ValueError, match="png"):
        save_figure(figure, tmp_path / "c.nothing")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.PDF"]
