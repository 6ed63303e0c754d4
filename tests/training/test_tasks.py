# SPDX-License-Identifier: Apache-2.0
"""What rows become before a model sees them."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

import butd_hf
from butd_hf.data.detection import label_names, load_detections
from butd_hf.data.detection_transforms import DetectionAugmentation
from butd_hf.data.transforms import Augmentation
from butd_hf.inference.relations import GraphExample
from butd_hf.training.captioning import CaptionTask
from butd_hf.training.detection import DetectionTask
from butd_hf.training.question_answering import QuestionTask, group_questions
from butd_hf.training.samples import SampleTable
from butd_hf.training.scene_graph import SceneGraphTask, join_labels, opposite_predicates


class Mirrored:
    """Random numbers that always mirror."""

    def random(self):
        return 0.0

    def integers(self, high):
        return 0

    def permutation(self, count):
        return np.arange(count)

    def choice(self, values, p):
        return values[p.argmax()]


class Plain:
    store = None


@pytest.fixture
def processor(tiny_checkpoint):
    return butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint)


def test_captions_are_drawn_mirrored_and_made_as_many(processor, image_paths):
    task = CaptionTask(processor, captions_per_image=3, augmentation=Augmentation(("flip",)))
    row = {"image": image_paths[0], "image_id": "0", "captions": ["a dog on the left", "Right"]}
    sample = task.read(row, Mirrored(), Plain)
    assert sample["captions"] == ["a dog on the right", "Left", "a dog on the right"]
    assert np.array_equal(np.array(sample["image"]), np.array(Image.open(image_paths[0]))[:, ::-1])
    scored = task.read(row, None, Plain)
    batch = task.collate([scored, {**scored, "captions": ["a dog"]}])
    assert batch["labels"].shape[0] == 4 and len(batch["pixel_values"]) == 2


def question(image, text, answers, together=False):
    other = {"question_id": text, "question_type": "", "answer_type": "other", "split": "train"}
    return {"image": image, "image_id": image, "question": text, "answers": answers, "together": together, **other}


def test_questions_are_grouped_mirrored_and_scored(processor, image_paths):
    table = Dataset.from_list(
        [
            question(image_paths[0], "what is left?", ["left", "left", "right", "left"]),
            question(image_paths[1], "what?", ["dog"]),
            question(image_paths[0], "which?", ["unicorn"]),
        ]
    )
    names = ["dog", "left", "right"]
    config = butd_hf.ButdConfig(
        id2label=dict(enumerate(names)), label2id={name: label for label, name in enumerate(names)}
    )
    rows = group_questions(table, by_image=True)
    assert rows["question"][:] == [["what is left?", "which?"], ["what?"]] and len(group_questions(table, False)) == 3
    config.problem_type = "multi_label_classification"
    task = QuestionTask(processor, config, augmentation=Augmentation(("flip",)))
    sample = task.read(rows[0], Mirrored(), Plain)
    assert sample["questions"] == ["what is right?", "which?"]
    np.testing.assert_allclose(sample["targets"][0], [0, 0.25, 0.75])  # right and left have changed places
    assert not sample["targets"][1].any() and task.collate([sample])["labels"].shape == (2, 3)
    config.problem_type = "single_label_classification"
    sample = QuestionTask(processor, config).read(rows[0], None, Plain)
    assert sample["targets"] == [1, -100]
    drawn = QuestionTask(processor, config, questions_per_image=3).read(rows[0], np.random.default_rng(0), Plain)
    assert len(drawn["questions"]) == 3 and set(drawn["questions"]) == set(rows[0]["question"])
    assert task.score([["left", "dog"], ["dog"]], list(rows))["exact_match"] == pytest.approx(200 / 3)
    mixed = [{**rows[0], "together": [False, True]}]
    with pytest.raises(ValueError, match="mixes questions"):
        task.score([["left", "dog"]], mixed)


def test_objects_follow_their_image(detection_data):
    rows = load_detections(detection_data)
    every = ("flip", "crop", "zoom_out", "jitter", "mosaic")
    image_processor = butd_hf.ButdImageProcessor(size={"height": 64, "width": 64})
    task = DetectionTask(image_processor, label_names(rows), masks=True, augmentation=DetectionAugmentation(every))
    samples = SampleTable(rows, task.read, training=True, seed=3)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again = samples[2]["sample"], samples[2]["sample"]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing else was disturbed
    samples.set_epoch(1)
    assert any(not torch.equal(first[name], value) for name, value in samples[2]["sample"].items())
    batch = task([SampleTable(rows, task.read)[index] for index in range(2)])
    assert batch["rows"] == [0, 1] and batch["labels"][0]["masks"].shape[1:] == (64, 64)
    assert batch["labels"][1]["has_mask"].tolist() == [False, False]


def test_graphs_are_mirrored_with_their_predicates():
    names, predicates = {0: "dog", 1: "cat"}, {0: "left of", 1: "right of", 2: "on"}
    config = butd_hf.ButdConfig(id2label=names, id2predicate=predicates, num_predicates=3)
    boxes = torch.tensor([[0.0, 0.0, 0.25, 1.0], [0.5, 0.0, 1.0, 1.0]])
    graph = GraphExample(0, None, boxes, torch.tensor([0, 1]), torch.tensor([[0, 1, 0], [1, 0, 2]]), (10, 20))
    task = SceneGraphTask(butd_hf.ButdImageProcessor(), config, [graph], flip=True)
    sample = task.read(graph, Mirrored(), Plain)
    assert sample["graph"].relations.tolist() == [[0, 1, 1], [1, 0, 2]]
    assert sample["graph"].boxes[0].tolist() == [0.75, 0.0, 1.0, 1.0]
    assert task.read(graph, None, Plain)["graph"] is graph
    assert set(task.collate([sample])) == {"labels", "region_boxes", "region_mask", "region_labels"}
    with pytest.raises(ValueError, match="needs images, but 1 of 1 have none"):
        SceneGraphTask(butd_hf.ButdImageProcessor(), config, [graph], mode="sgdet")


def test_labels_of_data_and_of_the_bottom_up_half_are_joined():
    assert opposite_predicates(["left of", "on", "right of", "left"]) == {0: 2, 2: 0}
    labels, meant = join_labels(["dog", "plane"], ["aeroplane", "cat", "dog"], {"aeroplane": "plane"})
    assert labels == ["dog", "plane", "cat"] and meant == [1, 2, 0]
    with pytest.raises(ValueError, match=r"not in the data: \['ship'\]"):
        join_labels(["dog"], ["boat"], {"boat": "ship"})
    with pytest.raises(ValueError, match=r"not in the bottom-up half: \['ship'\]"):
        join_labels(["dog"], ["boat"], {"ship": "dog"})
