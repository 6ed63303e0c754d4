# SPDX-License-Identifier: Apache-2.0
"""Scene graphs in forms that people use: networkx, Graphviz's DOT, JSON and sentences."""

import json
from collections import Counter
from typing import Any

import networkx


# as the pipeline `scene-graph-generation` returns it: {"objects": [{"label", "score", "box"}], "relations":
# [{"subject", "predicate", "object", "score"}]}, subject and object being places among the objects
SceneGraph = dict[str, list[dict[str, Any]]]


def check_graph(graph: SceneGraph) -> None:
    """Raises `ValueError` if a relation is about an object that isn't there."""
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
    totals, met, names = Counter(labels), Counter(), []
    for label in labels:
        met[label] += 1
        names.append(f"{label} {met[label]}" if totals[label] > 1 else label)
    return names


def to_networkx(graph: SceneGraph) -> networkx.MultiDiGraph:
    """
    The graph as networkx has it: the objects' places as nodes with `label`, `score` and `box`, relations as edges from
    subject to object with `predicate` and `score`. Two objects may be related in several ways.
    """
    check_graph(graph)
    made = networkx.MultiDiGraph()
    for place, each in enumerate(graph["objects"]):
        made.add_node(place, **each)
    for relation in graph["relations"]:
        rest = {name: value for name, value in relation.items() if name not in ("subject", "object")}
        made.add_edge(relation["subject"], relation["object"], **rest)
    return made


def from_networkx(made: networkx.MultiDiGraph) -> SceneGraph:
    """The way back from `to_networkx`, relations by their score; nodes may be called anything."""
    places = {node: place for place, node in enumerate(made)}
    relations = [
        {"subject": places[subject], "predicate": values["predicate"], "object": places[target], **values}
        for subject, target, values in made.edges(data=True)
    ]
    relations.sort(key=lambda relation: -relation.get("score", 0.0))
    return {"objects": [dict(values) for _, values in made.nodes(data=True)], "relations": relations}


def to_dot(graph: SceneGraph, name: str = "scene") -> str:
    """The graph in Graphviz's language, every string quoted: `dot -Tsvg` draws it."""
    check_graph(graph)
    lines = [f"digraph {quoted(name)} {{", "  rankdir=LR;", '  node [shape=box, style="rounded"];']
    lines += [f"  n{place} [label={quoted(title)}];" for place, title in enumerate(object_names(graph))]
    lines += [
        f"  n{relation['subject']} -> n{relation['object']} [label={quoted(relation['predicate'])}];"
        for relation in graph["relations"]
    ]
    return "\n".join([*lines, "}"]) + "\n"


def quoted(text: str) -> str:
    """Text as a string of DOT."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_json(graph: SceneGraph, indent: int | None = None) -> str:
    """The graph as JSON: `objects` and `relations` as they are, nothing around them."""
    check_graph(graph)
    return json.dumps({name: graph[name] for name in ("objects", "relations")}, ensure_ascii=False, indent=indent)


def to_triplets(graph: SceneGraph) -> list[tuple[str, str, str]]:
    """Subject, predicate and object of each relation in words, see `object_names`."""
    check_graph(graph)
    names = object_names(graph)
    return [
        (names[relation["subject"]], relation["predicate"], names[relation["object"]])
        for relation in graph["relations"]
    ]


def to_text(graph: SceneGraph) -> str:
    """A line per relation: `person 1 ride horse`."""
    return "".join(f"{' '.join(triplet)}\n" for triplet in to_triplets(graph))


__all__ = [
    "SceneGraph",
    "from_networkx",
    "object_names",
    "to_dot",
    "to_json",
    "to_networkx",
    "to_text",
    "to_triplets",
]
