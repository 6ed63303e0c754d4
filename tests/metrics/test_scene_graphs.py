# SPDX-License-Identifier: Apache-2.0
"""Recalls of scene graphs against a slow and literal derivation."""

import numpy as np
import pytest

from butd_hf.metrics import SceneGraphMetric, load
from butd_hf.metrics.names import metric_name
from butd_hf.metrics.scene_graphs import score_graphs


SEEN = [(0, predicate, 1) for predicate in range(3)]


def overlap(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def matches(prediction, predicted, reference, relation):
    """Whether a predicted relation is the annotated one."""
    same = [
        prediction["labels"][one] == reference["labels"][other]
        and overlap(prediction["boxes"][one], reference["boxes"][other]) >= 0.5
        for one, other in zip(predicted[:2], relation[:2], strict=True)
    ]
    return all(same) and predicted[2] == relation[2]


def literal(predictions, references, cutoff):
    """Every recall of the definition, in loops."""
    rows = []  # measure, image, predicate, found
    for image, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        scored = zip(map(tuple, prediction["relations"]), prediction["relation_scores"], strict=True)
        ranked, constrained = [], []
        for predicted, _ in sorted(scored, key=lambda item: (-item[1], *item[0])):
            if predicted not in ranked and predicted[0] != predicted[1]:
                ranked.append(predicted)
                if predicted[:2] not in [other[:2] for other in constrained]:
                    constrained.append(predicted)
        labels = reference["labels"]
        for relation in {tuple(relation) for relation in reference["relations"] if relation[0] != relation[1]}:
            for measure, order in (("recall", constrained), ("ng_recall", ranked)):
                found = any(matches(prediction, each, reference, relation) for each in order[:cutoff])
                rows.append((measure, image, relation[2], found))
                if measure == "recall" and (labels[relation[0]], relation[2], labels[relation[1]]) not in SEEN:
                    rows.append(("zero_shot_recall", image, relation[2], found))

    def mean(measure, average, predicate=None):
        mine = [row for row in rows if row[0] == measure and predicate in (None, row[2])]
        if average == "triples":
            return np.mean([row[3] for row in mine])
        return np.mean([np.mean([row[3] for row in mine if row[1] == image]) for image in {row[1] for row in mine}])

    scores = {}
    for average in ("triples", "images"):
        for measure in {row[0] for row in rows}:
            scores[f"{measure}_{cutoff}_{average}"] = 100 * mean(measure, average)
        rare = 100 * np.mean([mean("recall", average, predicate) for predicate in {row[2] for row in rows}])
        scores[f"mean_recall_{cutoff}_{average}"] = rare
        recall = scores[f"recall_{cutoff}_{average}"]
        scores[f"f_{cutoff}_{average}"] = 2 * recall * rare / (recall + rare) if recall + rare else 0.0
    return scores


def random_graph(rng, number, relations):
    low = rng.integers(0, 4, (number, 2))
    return {
        "labels": rng.integers(0, 2, number).tolist(),
        "boxes": np.concatenate([low, low + rng.integers(1, 6, (number, 2))], axis=1).tolist(),
        "relations": rng.integers(0, [max(number, 1)] * 2 + [3], (relations if number else 0, 3)).tolist(),
    }


@pytest.mark.parametrize("seed", range(6))
def test_recalls_are_those_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    predictions, references = [NOTHING], [random_graph(rng, 4, 6) | {"relations": [[0, 1, 0]]}]
    for number in range(6):
        reference = random_graph(rng, int(rng.integers(0, 7)), int(rng.integers(0, 9)))
        prediction = random_graph(rng, int(rng.integers(0, 7)), int(rng.integers(0, 40)))
        if number % 2:  # of the annotated objects
            prediction = reference | {"relations": random_graph(rng, len(reference["labels"]), 40)["relations"]}
        # few different scores: ties everywhere; repetitions and relations to itself on both sides
        scores = rng.integers(0, 4, len(prediction["relations"])) / 4
        predictions.append({**prediction, "relation_scores": scores.tolist()})
        references.append(reference)
    expected = {}
    for cutoff in (1, 3, 10):
        expected.update(literal(predictions, references, cutoff))
    assert score_graphs(predictions, references, seen=SEEN, cutoffs=(1, 3, 10)) == pytest.approx(expected)


GRAPH = {"labels": [0, 1], "boxes": [[0, 0, 5, 5], [0, 4, 9, 9]], "relations": [[0, 1, 2]]}
NOTHING = {"labels": [], "boxes": [], "relations": [], "relation_scores": []}


def test_images_count_where_relations_are_annotated():
    predicted = {**GRAPH, "relation_scores": [0.9]}
    scores = score_graphs([predicted, NOTHING, predicted], [GRAPH, GRAPH, {**GRAPH, "relations": []}])
    assert scores["recall_20_images"] == scores["recall_20_triples"] == scores["mean_recall_20_triples"] == 50
    assert "zero_shot_recall_20_images" not in scores
    assert list(scores)[:3] == ["recall_20_triples", "recall_50_triples", "recall_100_triples"]
    with pytest.raises(ValueError, match="no relation in 1 images"):
        score_graphs([predicted], [{**GRAPH, "relations": []}])


def test_boxes_without_area_are_themselves():
    reference = {**GRAPH, "boxes": [[3, 3, 3, 3], [0, 0, 9, 0]]}
    assert score_graphs([{**reference, "relation_scores": [1.0]}], [reference])["recall_20_triples"] == 100


@pytest.mark.parametrize(("objects", "predicates"), [(600, 1), (40, 400)])
def test_many_relations(objects, predicates):
    """Where a few sorted first are of enough pairs, and where they are all of one pair."""
    boxes = [[number, 0, number + 1, 1] for number in range(objects)]
    pairs = [[0, number, predicate] for number in range(1, objects) for predicate in range(predicates)]
    reference = {"labels": list(range(objects)), "boxes": boxes, "relations": [[0, 1, 0], [0, 30, 0]]}
    predicted = {**reference, "relations": pairs, "relation_scores": np.linspace(1, 0, len(pairs))}
    scores = score_graphs([predicted], [reference])
    assert (scores["recall_20_triples"], scores["recall_50_triples"]) == (50, 100)
    assert scores["ng_recall_100_triples"] == (100 if predicates == 1 else 50)


def test_behind_evaluate():
    metric = load("scene_graphs")
    assert isinstance(metric, SceneGraphMetric)
    metric.add_batch(predictions=[{**GRAPH, "relation_scores": [0.9]}], references=[GRAPH])
    metric.add_batch(predictions=[NOTHING], references=[GRAPH])
    scores = metric.compute(predicates=["on", "by", "in"], seen=[[0, 2, 0]])
    assert scores["zero_shot_recall_50_images"] == 50 and scores["recall_50_predicate_in"] == 50
    assert "recall_50_predicate_on" not in scores
    assert metric_name("recall_50_predicate_in") == "R@50 of 'in'"
    assert metric_name("zero_shot_recall_50_images") == "zero-shot R@50 over images"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[0, 0, 5, 5]]}, r"predictions\[0\]\['boxes'\] has shape \(1, 4\), expected \(2, 4\)"),
        ({"relations": [[0, 1]]}, r"\['relations'\] has shape \(1, 2\)"),
        ({"relations": [[0, 2, 1]]}, r"objects 0 to 2, expected 0 to 1"),
        ({"relation_scores": []}, r"\['relation_scores'\] has 0 items, expected 1"),
        ({"relation_scores": [float("nan")]}, "1 that are not a number"),
    ],
)
def test_graphs_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        score_graphs([{**GRAPH, "relation_scores": [0.9], **changes}], [GRAPH])


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="got 0 and 1"):
        score_graphs([], [GRAPH])
    with pytest.raises(ValueError, match="cutoffs must be"):
        score_graphs([NOTHING], [GRAPH], cutoffs=(0,))
