# SPDX-License-Identifier: Apache-2.0
"""Recalls of scene graphs, held to a slow and literal derivation."""

from collections import defaultdict

import numpy as np
import pytest

from butd_hf.metrics import load
from butd_hf.metrics.graph_recall import GraphRecall
from butd_hf.metrics.names import metric_name
from butd_hf.metrics.scene_graphs import SceneGraphMetric, score_graphs


def overlap(one, other):
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def finds(prediction, told, reference, relation, match):
    """Whether what was told is the annotated relation."""
    for end in (0, 1):
        one, other = told[end], relation[end]
        if prediction["labels"][one] != reference["labels"][other]:
            return False
        same = (
            overlap(prediction["boxes"][one], reference["boxes"][other]) >= 0.5 if match == "overlap" else one == other
        )
        if not same:
            return False
    return told[2] == relation[2]


def literal(predictions, references, cutoff, match="overlap", seen=None):
    """Every recall of the definition, in loops."""
    hits = defaultdict(list)  # measure, image, predicate
    for image, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        scored = zip(map(tuple, prediction["relations"]), prediction["relation_scores"], strict=True)
        ranked = []
        for told, _ in sorted(scored, key=lambda item: (-item[1], *item[0])):
            if told not in ranked and told[0] != told[1]:
                ranked.append(told)
        constrained = []
        for told in ranked:
            if told[:2] not in [other[:2] for other in constrained]:
                constrained.append(told)
        for relation in sorted({tuple(relation) for relation in reference["relations"]}):
            if relation[0] == relation[1]:
                continue
            labels = reference["labels"]
            new = seen is not None and (labels[relation[0]], relation[2], labels[relation[1]]) not in seen
            for measure, order in (("recall", constrained), ("ng_recall", ranked)):
                found = any(finds(prediction, told, reference, relation, match) for told in order[:cutoff])
                hits[measure, image, relation[2]].append(found)
                if new and measure == "recall":
                    hits["zero_shot_recall", image, relation[2]].append(found)
    scores = {}
    for measure in ("recall", "ng_recall", "zero_shot_recall"):
        of_image, of_predicate, everything = defaultdict(list), defaultdict(list), []
        shares = defaultdict(list)
        for (name, image, predicate), found in hits.items():
            if name == measure:
                of_image[image] += found
                of_predicate[predicate] += found
                shares[predicate].append(np.mean(found))
                everything += found
        if everything:
            scores[f"{measure}_{cutoff}_triples"] = 100 * np.mean(everything)
            scores[f"{measure}_{cutoff}_images"] = 100 * np.mean([np.mean(found) for found in of_image.values()])
        if measure == "recall":
            scores[f"mean_recall_{cutoff}_triples"] = 100 * np.mean([np.mean(each) for each in of_predicate.values()])
            scores[f"mean_recall_{cutoff}_images"] = 100 * np.mean([np.mean(each) for each in shares.values()])
    for average in ("triples", "images"):
        recall, rare = (scores[f"{name}_{cutoff}_{average}"] for name in ("recall", "mean_recall"))
        scores[f"f_{cutoff}_{average}"] = 2 * recall * rare / (recall + rare) if recall + rare else 0.0
    return scores


def random_graph(rng, number, relations, labels=2, predicates=3):
    low = rng.integers(0, 4, (number, 2))
    return {
        "labels": rng.integers(0, labels, number).tolist(),
        "boxes": np.concatenate([low, low + rng.integers(1, 6, (number, 2))], axis=1).tolist(),
        "relations": rng.integers(0, [max(number, 1)] * 2 + [predicates], (relations if number else 0, 3)).tolist(),
    }


@pytest.mark.parametrize("match", ["overlap", "place"])
@pytest.mark.parametrize("seed", range(12))
def test_recalls_are_those_of_the_definition(seed, match):
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for _ in range(6):
        reference = random_graph(rng, int(rng.integers(0, 7)), int(rng.integers(0, 9)))
        prediction = random_graph(rng, int(rng.integers(0, 7)), int(rng.integers(0, 40)))
        if match == "place" or rng.random() < 0.5:  # of the annotated objects
            relations = random_graph(rng, len(reference["labels"]), 40)["relations"]
            prediction = {**reference, "relations": relations}
        # few different scores: ties everywhere; repetitions and relations to itself on both sides
        scores = rng.integers(0, 4, len(prediction["relations"])) / 4
        predictions.append({**prediction, "relation_scores": scores.tolist()})
        references.append(reference)
    references.append(random_graph(rng, 4, 6) | {"relations": [[0, 1, 0]]})  # something to find
    predictions.append({"labels": [], "boxes": [], "relations": [], "relation_scores": []})
    if match == "place":
        predictions[-1] = {**references[-1], "relations": [], "relation_scores": []}
    seen = [(0, predicate, 1) for predicate in range(3)]
    options = {"match": match, "seen": seen, "cutoffs": (1, 3, 10)}
    scores = score_graphs(predictions, references, **options)
    expected = {}
    for cutoff in (1, 3, 10):
        expected.update(literal(predictions, references, cutoff, match, seen))
    assert scores == pytest.approx(expected)

    # the order in which relations are told makes no difference
    for prediction in predictions:
        order = rng.permutation(len(prediction["relations"]))
        for name in ("relations", "relation_scores"):
            prediction[name] = [prediction[name][place] for place in order]
    assert score_graphs(predictions, references, **options) == scores


GRAPH = {"labels": [0, 1], "boxes": [[0, 0, 5, 5], [0, 4, 9, 9]], "relations": [[0, 1, 2]]}
NOTHING = {"labels": [], "boxes": [], "relations": [], "relation_scores": []}


def test_images_without_predictions_count():
    scores = score_graphs([{**GRAPH, "relation_scores": [0.9]}, NOTHING], [GRAPH, GRAPH])
    assert scores["recall_20_images"] == scores["recall_20_triples"] == 50
    assert scores["mean_recall_20_triples"] == 50 and "zero_shot_recall_20_images" not in scores


def test_images_without_annotated_relations_ask_for_nothing():
    told = {**GRAPH, "relation_scores": [0.9]}
    scores = score_graphs([told, told], [GRAPH, {**GRAPH, "relations": []}])
    assert scores["recall_20_images"] == 100
    with pytest.raises(ValueError, match="no relation in 1 images"):
        score_graphs([told], [{**GRAPH, "relations": []}])


def test_one_predicate_per_pair():
    told = {**GRAPH, "relations": [[0, 1, 0], [0, 1, 2]], "relation_scores": [0.6, 0.4]}
    scores = score_graphs([told], [GRAPH])
    assert scores["recall_100_triples"] == 0 and scores["ng_recall_100_triples"] == 100


def test_averages_differ_in_what_weighs():
    many = {"labels": [0, 1], "boxes": GRAPH["boxes"], "relations": [[0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1]]}
    scores = score_graphs([{**GRAPH, "relation_scores": [1.0]}, {**NOTHING}], [GRAPH, many])
    assert scores["recall_50_triples"] == 20 and scores["recall_50_images"] == 50
    assert list(scores)[:3] == ["recall_20_triples", "recall_50_triples", "recall_100_triples"]


def test_overlap_and_place():
    """A second box about the same thing finds the relation by overlap, and not by place."""
    reference = {"labels": [0, 0, 1], "boxes": [[0, 0, 10, 10], [0, 0, 10, 9], [5, 5, 9, 9]], "relations": [[0, 2, 1]]}
    told = {**reference, "relations": [[1, 2, 1]], "relation_scores": [1.0]}
    assert score_graphs([told], [reference])["recall_20_triples"] == 100
    assert score_graphs([told], [reference], match="place")["recall_20_triples"] == 0


def test_boxes_without_area_are_themselves():
    reference = {**GRAPH, "boxes": [[3, 3, 3, 3], [0, 0, 9, 0]]}
    assert score_graphs([{**reference, "relation_scores": [1.0]}], [reference])["recall_20_triples"] == 100


def test_three_hundred_objects():
    rng = np.random.default_rng(0)
    reference = random_graph(rng, 300, 40, labels=9)
    pairs = np.stack(np.meshgrid(range(300), range(300)), axis=-1).reshape(-1, 2)
    relations = np.concatenate([pairs, rng.integers(0, 3, (len(pairs), 1))], axis=1)
    told = {**reference, "relations": relations, "relation_scores": rng.random(len(pairs))}
    scores = score_graphs([told], [reference], match="place")
    assert 0 <= scores["recall_20_triples"] <= scores["recall_100_triples"] < 100


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
    with pytest.raises(ValueError, match="match must be"):
        GraphRecall(match="exact")
    with pytest.raises(ValueError, match="cutoffs must be"):
        GraphRecall(cutoffs=(0,))
    with pytest.raises(ValueError, match="expected the 2 of its reference"):
        score_graphs([NOTHING], [GRAPH], match="place")
