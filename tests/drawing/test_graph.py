# SPDX-License-Identifier: Apache-2.0
"""The drawing of a scene graph: nothing covers what has to be read."""

import random

import numpy as np
import pytest
from PIL import Image

from butd_hf.drawing import draw_graph


def random_graph(num_objects: int, num_relations: int) -> dict:
    generator = random.Random(0)
    objects = []
    for place in range(num_objects):
        x, y = generator.randrange(200), generator.randrange(100)
        box = {"xmin": x, "ymin": y, "xmax": x + 60, "ymax": y + 40}
        objects.append({"label": ("person", "tree", "$house")[place % 3], "score": 0.9, "box": box})
    pairs = [(one, other) for one in range(num_objects) for other in range(num_objects) if one != other]
    relations = [
        {"subject": one, "predicate": generator.choice(["on", "next to", "in the front of"]), "object": other}
        for one, other in generator.sample(pairs, num_relations)
    ]
    return {"objects": objects, "relations": relations}


def drawn(graph: dict):
    figure = draw_graph(Image.new("RGB", (320, 160), "grey"), graph)
    figure.canvas.draw()
    left, right = figure.axes
    return figure, left, right


def test_thirty_relations_can_be_read():
    figure, left, right = drawn(random_graph(12, 30))
    extents = [text.get_window_extent() for text in right.texts]
    assert len(right.patches) == 30 and len(extents) == len(left.texts) + 30
    assert len(left.texts) > 10
    covered = 0.0
    for place, one in enumerate(extents):
        for other in extents[place + 1 :]:
            across = min(one.x1, other.x1) - max(one.x0, other.x0)
            down = min(one.y1, other.y1) - max(one.y0, other.y0)
            covered += max(across, 0) * max(down, 0)
    assert covered < 0.02 * sum(extent.width * extent.height for extent in extents)
    width, height = figure.get_size_inches() * figure.dpi
    assert all(extent.x0 >= 0 and extent.x1 <= width and extent.y0 >= 0 and extent.y1 <= height for extent in extents)
    assert min(text.get_fontsize() for text in right.texts) >= 8


@pytest.mark.parametrize(("objects", "relations"), [(0, 0), (1, 0), (3, 0), (2, 1), (2, 2), (5, 3)])
def test_small_graphs(objects, relations):
    _, left, right = drawn(random_graph(objects, relations))
    assert len(right.patches) == relations
    if not relations:
        assert len(left.texts) == objects  # without relations every object is shown


def test_only_related_objects_are_drawn_and_predicates_of_a_pair_share_an_arrow():
    graph = random_graph(4, 0)
    graph["relations"] = [{"subject": 1, "predicate": name, "object": 3} for name in ("on", "above")]
    _, left, right = drawn(graph)
    assert {text.get_text() for text in right.texts} == {"1 tree", "2 person", "on, above"}
    assert [text.get_text() for text in left.texts] == ["1", "2"] and len(right.patches) == 1


def test_opposite_arrows_are_apart():
    graph = random_graph(2, 2)
    _, _, right = drawn(graph)
    paths = [np.asarray(patch.get_path().vertices) for patch in right.patches]
    assert not np.allclose(paths[0].mean(axis=0), paths[1].mean(axis=0), atol=0.05)
