# SPDX-License-Identifier: Apache-2.0
"""Scene graphs as networkx, Graphviz's DOT and triplets of words.

A graph is what the pipeline `scene-graph-generation` returns, which `json.dumps` writes as it is: `{"objects":
[{"label", "score", "box"}], "relations": [{"subject", "predicate", "object", "score"}]}`, subject and object being
places among the objects.
"""

from collections import Counter
from typing import Any

import networkx


SceneGraph = dict[str, list[dict[str, Any]]]


def check_graph(graph: SceneGraph) -> None:
    """Raises `ValueError` if a relation has a subject or object that isn't there."""
    number = len(graph["objects"])
    for place, relation in enumerate(graph["relations"]):
        for end in ("subject", "object"):
            if not 0 <= relation[end] < number:
                raise ValueError(
                    f"relations[{place}][{end!r}] is {relation[end]}, expected 0 to {number - 1}, one of the objects."
                )


def object_names(graph: SceneGraph) -> list[str]:
    """A name for each object: its label, with a number behind it where several objects have the same."""
    labels = [each["label"] for each in graph["objects"]]
    totals, counts, names = Counter(labels), Counter(), []
    for label in labels:
        counts[label] += 1
        names.append(f"{label} {counts[label]}" if totals[label] > 1 else label)
    return names


def to_networkx(graph: SceneGraph) -> networkx.MultiDiGraph:
    """The objects' places as nodes with `label`, `score` and `box`, relations as edges from subject to object with
    `predicate` and `score`. Two objects may be related in several ways.
    """
    check_graph(graph)
    made = networkx.MultiDiGraph()
    for place, each in enumerate(graph["objects"]):
        made.add_node(place, **each)
    for relation in graph["relations"]:
        rest = {name: value for name, value in relation.items() if name not in ("subject", "object")}
        made.add_edge(relation["subject"], relation["object"], **rest)
    return made


def to_dot(graph: SceneGraph, name: str = "scene") -> str:
    """The graph in Graphviz's language, every string quoted: `dot -Tsvg` draws it."""
    check_graph(graph)

    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'

    lines = [f"digraph {quoted(name)} {{", "  rankdir=LR;", '  node [shape=box, style="rounded"];']
    lines += [f"  n{place} [label={quoted(title)}];" for place, title in enumerate(object_names(graph))]
    for relation in graph["relations"]:
        lines.append(f"  n{relation['subject']} -> n{relation['object']} [label={quoted(relation['predicate'])}];")
    return "\n".join([*lines, "}"]) + "\n"


def to_triplets(graph: SceneGraph) -> list[tuple[str, str, str]]:
    """Subject, predicate and object of each relation in words, see `object_names`."""
    check_graph(graph)
    names = object_names(graph)
    return [
        (names[relation["subject"]], relation["predicate"], names[relation["object"]])
        for relation in graph["relations"]
    ]
