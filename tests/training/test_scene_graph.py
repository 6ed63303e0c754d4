# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from datasets import Dataset

from butd_hf import ButdConfig, ButdForSceneGraphGeneration, ButdImageProcessor
from butd_hf.data.scene_graphs import scene_graph_features
from butd_hf.inference.relations import (
    collate_graphs,
    counted_graphs,
    mirrored,
    predicted_graphs,
    read_graphs,
    triples_of,
)
from butd_hf.training import SceneGraphDataset, SceneGraphTask
from butd_hf.training.scene_graph_recipe import join_labels, opposite_predicates, renamed


LABELS, PREDICATES = ["person", "cup", "table"], ["on the left of", "on", "on the right of"]


@pytest.fixture(scope="module")
def table():
    """Two annotated images, one without any object and one with a single object. No pictures."""
    boxes = [[0, 0, 20, 80], [50, 30, 60, 40], [40, 40, 100, 80]]
    graphs = [
        ([0, 1, 2], [(0, 2, 0), (1, 2, 1)]),
        ([0, 1, 2], [(1, 2, 1), (2, 0, 2)]),
        ([], []),
        ([1], []),
    ]
    rows = [
        {
            "image": None, "image_id": str(number), "width": 100, "height": 80, "sized": False, "split": "train",
            "objects": [{"label": label, "box": box} for label, box in zip(labels, boxes, strict=False)],
            "relations": [dict(zip(("subject", "object", "predicate"), each, strict=True)) for each in relations],
        }
        for number, (labels, relations) in enumerate(graphs)
    ]  # fmt: skip
    features = scene_graph_features(LABELS, PREDICATES)
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ButdForSceneGraphGeneration(
        ButdConfig(
            bottom_up_config={"selector": "given", "region_size": 8},
            top_down_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0},
            id2label=dict(enumerate(LABELS)),
            label2id={name: number for number, name in enumerate(LABELS)},
            id2predicate=dict(enumerate(PREDICATES)),
            relation_appearance=False,
            pair_rivals=True,
        )
    )


def test_graphs_are_read_in_shares_of_the_image(table):
    graphs = read_graphs(table)
    torch.testing.assert_close(graphs[0].boxes[0], torch.tensor([0.0, 0.0, 0.2, 1.0]))
    np.testing.assert_allclose(graphs[0].as_reference()["boxes"][2], [40, 40, 100, 80], rtol=1e-6)
    assert graphs[2].boxes.shape == (0, 4) and graphs[3].relations.shape == (0, 3)
    assert triples_of(graphs) == {(0, 0, 2), (1, 1, 2), (2, 2, 0)}


def test_mirroring_changes_left_and_right(table):
    assert opposite_predicates(PREDICATES) == {0: 2, 2: 0}
    graph = read_graphs(table)[0]
    there = mirrored(graph, opposite_predicates(PREDICATES))
    assert there.relations.tolist() == [[0, 2, 2], [1, 2, 1]] and there.flipped
    torch.testing.assert_close(there.boxes[0], torch.tensor([0.8, 0.0, 1.0, 1.0]))
    back = mirrored(there, opposite_predicates(PREDICATES))
    torch.testing.assert_close(back.boxes, graph.boxes)
    assert torch.equal(back.relations, graph.relations) and not back.flipped


def test_an_example_depends_on_index_epoch_and_seed(table):
    dataset = SceneGraphDataset(table, flip=True, opposites={0: 2, 2: 0}, seed=3)
    drawn = []
    for epoch in range(8):
        dataset.set_epoch(epoch)
        drawn.append(dataset[0].flipped)
        assert dataset[0].flipped == drawn[-1]
    assert set(drawn) == {True, False}


def test_images_of_any_number_of_objects_are_found_and_scored(table, model):
    task = SceneGraphTask(model, ButdImageProcessor(), SceneGraphDataset(table), SceneGraphDataset(table))
    batch = task.collate(task.train_dataset.graphs)
    assert batch["region_boxes"].shape == (4, 3, 4) and batch["region_mask"].sum(dim=1).tolist() == [3, 3, 0, 1]
    assert task.num_images(batch) == 4
    assert task.loss(model.train(), batch)["loss"].isfinite()
    with torch.no_grad():
        outputs = model.eval()(**batch)
    graphs = predicted_graphs(outputs, task.image_processor, [(80, 100)] * 4)
    assert [len(graph["labels"]) for graph in graphs] == [3, 3, 0, 1]
    assert [len(graph["relations"]) for graph in graphs] == [6 + 18, 6 + 18, 0, 0]  # constrained, and all
    np.testing.assert_allclose(graphs[0]["boxes"].max(axis=0), [50, 40, 100, 80], atol=1e-4)


@torch.no_grad()
def test_two_boxes_of_one_thing_tell_two_relations_unless_repeats_are_wanted(model):
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.5, 1.0], [0.4, 0.5, 1.0, 1.0]]])
    outputs = model.eval()(region_boxes=boxes, region_labels=torch.tensor([[0, 0, 2]]))

    def told(repeat_overlap):
        """What is told of the first and of the second person at the table."""
        (graph,) = predicted_graphs(outputs, ButdImageProcessor(), [(80, 100)], repeat_overlap=repeat_overlap)
        best = {}
        for (*pair, predicate), score in zip(graph["relations"].tolist(), graph["relation_scores"], strict=True):
            best[tuple(pair)] = max(best.get(tuple(pair), (0.0, -1)), (score, predicate))
        places = [int(np.flatnonzero(graph["labels"] == 2)[0]), *np.flatnonzero(graph["labels"] == 0).tolist()]
        return [best[person, places[0]][1] for person in places[1:]]

    first, second = told(None)
    assert first == second  # the same box
    once = told(0.5)
    assert once[0] != once[1] and first in once


def test_counting_is_what_the_prior_says(table, model):
    graphs = read_graphs(table)
    model.fit_frequency_prior([graph.as_labels() for graph in graphs])
    counted = counted_graphs(model.top_down.frequency_prior, graphs[0])
    best = counted["relations"][counted["relation_scores"].argmax()]
    assert best.tolist() == [1, 2, 1] and len(counted["relations"]) == 6
    assert len(counted_graphs(model.top_down.frequency_prior, graphs[2])["relations"]) == 0


def test_a_prior_forgets_the_example_that_is_judged(table, model):
    graphs = read_graphs(table)
    model.fit_frequency_prior([graph.as_labels() for graph in graphs])
    batch = collate_graphs(graphs[:1], "predcls")
    with torch.no_grad():
        remembered = model.eval()(**batch)
        forgot = model.train()(**batch)
    place = [remembered.pairs[0].tolist().index([0, 2]), forgot.pairs[0].tolist().index([0, 2])]
    # only this image relates a person to a table: without it nothing speaks for it
    with_it, without_it = (
        each.predicate_logits[0, row].softmax(-1)[0] for each, row in zip((remembered, forgot), place, strict=True)
    )
    assert without_it < with_it
    assert forgot.pair_logits[0, place[1]] < remembered.pair_logits[0, place[0]]


def test_what_does_not_fit_is_refused(table, model):
    dataset = SceneGraphDataset(table)
    with pytest.raises(ValueError, match=r"'sgdet' needs pictures, but 4 images of train_dataset have none"):
        SceneGraphTask(model, ButdImageProcessor(), dataset, dataset, mode="sgdet")
    with pytest.raises(ValueError, match="mode must be one of predcls, sgcls, sgdet, got 'guess'"):
        collate_graphs(dataset.graphs, "guess")
    with pytest.raises(ValueError, match="needs pictures, got none"):
        collate_graphs(dataset.graphs, "sgcls")
    other = SceneGraphDataset(table)
    other.labels = other.labels[::-1]
    with pytest.raises(ValueError, match="eval_dataset has other labels"):
        SceneGraphTask(model, ButdImageProcessor(), dataset, other)


def test_labels_of_two_sources_are_joined():
    assert join_labels(["person", "bike"], ["bicycle", "person", "cow"], {"bicycle": "bike"}) == (
        ["person", "bike", "cow"],
        [1, 0, 2],
    )
    with pytest.raises(ValueError, match="labels that are not in the data"):
        join_labels(["person"], ["bicycle"], {"bicycle": "bike"})
    with pytest.raises(ValueError, match="classes that the bottom-up half doesn't know"):
        join_labels(["bike"], ["person"], {"bicycle": "bike"})
    with pytest.raises(ValueError, match="--predicate_names renames"):
        renamed(["on"], {"under": "on"}, "--predicate_names")
