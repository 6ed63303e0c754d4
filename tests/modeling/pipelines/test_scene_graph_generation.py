# SPDX-License-Identifier: Apache-2.0
"""The pipeline `scene-graph-generation`."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from torch.utils.data import Dataset
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import butd_hf


ALL = {"threshold": 0.0, "top_k": 5}


@pytest.fixture(scope="module")
def grapher(tiny_grapher):
    return pipeline("scene-graph-generation", model=tiny_grapher, device="cpu")


@pytest.fixture(scope="module")
def graphs(grapher, image_paths):
    """One by one, what everything else is compared with."""
    return [grapher(path, **ALL) for path in image_paths]


def close(graph, other):
    """Whether two graphs are the same but for rounding."""
    assert graph.keys() == other.keys()
    for kind in graph:
        assert len(graph[kind]) == len(other[kind])
        for one, another in zip(graph[kind], other[kind], strict=True):
            assert one == {**another, "score": pytest.approx(another["score"], abs=1e-5)}
    return True


def test_form(graphs, image_paths, tiny_grapher):
    config = AutoModel.from_pretrained(tiny_grapher).config
    assert graphs[0] != graphs[1]
    for graph, path in zip(graphs, image_paths, strict=True):
        width, height = PIL.Image.open(path).size
        assert list(graph) == ["objects", "relations"] and len(graph["relations"]) == 5
        for each in graph["objects"]:
            assert list(each) == ["label", "score", "box"] and each["label"] in config.label2id
            assert 0 <= each["box"]["xmin"] <= each["box"]["xmax"] <= width
            assert 0 <= each["box"]["ymin"] <= each["box"]["ymax"] <= height
        for relation in graph["relations"]:
            assert list(relation) == ["subject", "predicate", "object", "score"]
            assert relation["predicate"] in ("on", "beside")
            assert relation["subject"] != relation["object"]
            assert {relation["subject"], relation["object"]} <= set(range(len(graph["objects"])))
        scores = [relation["score"] for relation in graph["relations"]]
        assert scores == sorted(scores, reverse=True)


def test_images_come_in_many_ways(grapher, graphs, image_paths):
    image = PIL.Image.open(image_paths[0])
    for inputs in (image, Path(image_paths[0]), np.asarray(image)):
        assert grapher(inputs, **ALL) == graphs[0]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_lists_and_datasets_in_batches(grapher, graphs, image_paths, batch_size):
    class Rows(Dataset):
        def __len__(self):
            return len(image_paths)

        def __getitem__(self, index):
            return {"image": image_paths[index]}

    for inputs in (image_paths, tuple(image_paths), KeyDataset(Rows(), "image"), (path for path in image_paths)):
        found = list(grapher(inputs, batch_size=batch_size, **ALL))
        assert len(found) == 3 and all(map(close, found, graphs))
    assert grapher([]) == []


def test_thresholds(grapher, graphs, image_paths):
    scores = [each["score"] for each in graphs[0]["objects"]]
    some = grapher(image_paths[0], threshold=scores[2])
    assert len(some["objects"]) == 2 and len(some["relations"]) == 2
    assert grapher(image_paths[0], threshold=1.0) == {"objects": [], "relations": []}
    third = graphs[0]["relations"][2]["score"]
    assert len(grapher(image_paths[0], threshold=0.0, relation_threshold=third)["relations"]) == 2
    several = grapher(image_paths[0], threshold=0.0, top_k=1000, graph_constraint=False)["relations"]
    assert len(several) == 2 * len({(relation["subject"], relation["object"]) for relation in several})


def test_one_thing_found_twice_has_no_relation_to_itself(grapher, image_paths):
    every = {"threshold": 0.0, "top_k": 1000}
    free = grapher(image_paths[0], **every)
    labels = [each["label"] for each in free["objects"]]
    told, once = free["relations"], grapher(image_paths[0], twin_overlap=0.0, **every)["relations"]
    # no overlap is too little: what is called the same is one thing
    assert once == [each for each in told if labels[each["subject"]] != labels[each["object"]]] and once != told
    assert grapher(image_paths[0], twin_overlap=1.0, **every)["relations"] == told
    said = {(labels[each["subject"]], each["predicate"], labels[each["object"]]) for each in told}
    repeated = grapher(image_paths[0], repeat_overlap=0.0, **every)["relations"]
    triples = [(labels[each["subject"]], each["predicate"], labels[each["object"]]) for each in repeated]
    assert len(triples) == len(set(triples)) < len(told) and set(triples) >= said


@pytest.mark.parametrize(
    ("inputs", "arguments", "message"),
    [
        (None, {}, "without an inputs argument"),
        ("no-such-image.png", {}, "no-such-image.png"),
        ("no-such-image.png", {"threshold": 2.0}, r"threshold must be in \[0, 1\]"),
        ("no-such-image.png", {"twin_overlap": -1.0}, r"twin_overlap must be in \[0, 1\]"),
        ("no-such-image.png", {"top_k": -1}, "top_k must be zero or positive"),
    ],
)
def test_errors_say_what_is_wrong(grapher, inputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        grapher(inputs, **arguments)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="id2predicate"):
        butd_hf.SceneGraphGenerationPipeline(
            model=butd_hf.ButdRegionModel(butd_hf.ButdConfig(bottom_up_config={"backbone": "test_efficientnet"})),
            image_processor=butd_hf.ButdImageProcessor(),
        )
