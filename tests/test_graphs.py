# SPDX-License-Identifier: Apache-2.0
"""Scene graphs as networkx, DOT and triplets."""

import networkx
import pytest

from butd_hf.graphs import object_names, to_dot, to_networkx, to_triplets


GRAPH = {
    "objects": [
        {"label": "person", "score": 0.9, "box": {"xmin": 0, "ymin": 0, "xmax": 5, "ymax": 9}},
        {"label": 'a "dog"\\', "score": 0.8, "box": {"xmin": 4, "ymin": 5, "xmax": 9, "ymax": 9}},
        {"label": "person", "score": 0.7, "box": {"xmin": 1, "ymin": 1, "xmax": 2, "ymax": 2}},
    ],
    "relations": [
        {"subject": 0, "predicate": "hold", "object": 1, "score": 0.5},
        {"subject": 2, "predicate": "next to", "object": 0, "score": 0.4},
        {"subject": 0, "predicate": "walk", "object": 1, "score": 0.3},
    ],
}
NOTHING = {"objects": [], "relations": []}


def test_networkx():
    made = to_networkx(GRAPH)
    assert isinstance(made, networkx.MultiDiGraph) and made.number_of_edges(0, 1) == 2
    assert made.nodes[1]["score"] == 0.8 and made.edges[2, 0, 0]["predicate"] == "next to"
    assert to_networkx(NOTHING).number_of_nodes() == 0


def test_objects_of_one_label_are_numbered():
    assert object_names(GRAPH) == ["person 1", 'a "dog"\\', "person 2"]
    assert to_triplets(GRAPH)[1] == ("person 2", "next to", "person 1")


def test_dot_quotes_everything():
    lines = to_dot(GRAPH, name="a.jpg").splitlines()
    assert lines[0] == 'digraph "a.jpg" {' and lines[-1] == "}"
    assert '  n1 [label="a \\"dog\\"\\\\"];' in lines
    assert '  n2 -> n0 [label="next to"];' in lines
    assert sum("->" in line for line in lines) == 3


@pytest.mark.parametrize("export", [to_networkx, to_dot, to_triplets])
def test_relations_of_objects_that_are_not_there(export):
    relation = {"subject": 0, "predicate": "on", "object": 3, "score": 1.0}
    with pytest.raises(ValueError, match=r"relations\[0\]\['object'\] is 3, expected 0 to 2"):
        export({**GRAPH, "relations": [relation]})
