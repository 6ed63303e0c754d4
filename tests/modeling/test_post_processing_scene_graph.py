# SPDX-License-Identifier: Apache-2.0
import torch

from butd_hf.modeling.post_processing import are_one_object, best_relations, same_objects, without_repeats


PAIRS = torch.tensor([[0, 2], [1, 2], [3, 2]])
LABELS = torch.tensor([5, 5, 6, 5])
BOXES = torch.tensor([[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.4, 0.9], [0.5, 0.5, 1.0, 1.0], [0.6, 0.0, 1.0, 1.0]])


def test_pairs_are_of_the_same_objects_if_labels_agree_and_both_boxes_overlap():
    same = same_objects(PAIRS, LABELS, BOXES, overlap=0.5)
    expected = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    torch.testing.assert_close(same, expected)
    other_label = torch.tensor([5, 7, 6, 5])
    torch.testing.assert_close(same_objects(PAIRS, other_label, BOXES, overlap=0.5), torch.eye(3, dtype=torch.bool))


def test_boxes_are_one_object_if_labels_agree_and_they_overlap():
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 1] = expected[1, 0] = True
    torch.testing.assert_close(are_one_object(LABELS, BOXES, overlap=0.9), expected)
    torch.testing.assert_close(are_one_object(LABELS, BOXES, overlap=0.95), torch.eye(4, dtype=torch.bool))


def test_the_second_box_of_one_thing_has_what_is_likely_next():
    scores = torch.tensor([[0.5, 0.3, 0.1], [0.6, 0.2, 0.1], [0.4, 0.3, 0.2]])
    same = same_objects(PAIRS, LABELS, BOXES, overlap=0.5)
    once = without_repeats(scores, same, graph_constraint=True)
    found, places, predicates = best_relations(once, 10, 0.0, True)
    assert list(zip(places.tolist(), predicates.tolist(), strict=True)) == [(1, 0), (2, 0), (0, 1)]
    torch.testing.assert_close(found, torch.tensor([0.6, 0.4, 0.3]))
    torch.testing.assert_close(scores[0, 0], torch.tensor(0.5))  # what was given stays


def test_without_graph_constraint_each_relation_of_two_things_belongs_to_their_best_pair():
    scores = torch.tensor([[0.5, 0.3, 0.1], [0.6, 0.2, 0.1], [0.4, 0.3, 0.2]])
    once = without_repeats(scores, same_objects(PAIRS, LABELS, BOXES, overlap=0.5), graph_constraint=False)
    # of equals the pair that comes first
    kept = torch.tensor([[False, True, True], [True, False, False], [True, True, True]])
    torch.testing.assert_close(once.isfinite(), kept)


def test_more_boxes_of_one_thing_than_there_are_predicates():
    scores, same = torch.tensor([[0.5, 0.2], [0.5, 0.2], [0.5, 0.2]]), torch.ones(3, 3, dtype=torch.bool)
    _, places, predicates = best_relations(without_repeats(scores, same, True), 10, -1.0, True)
    assert list(zip(places.tolist(), predicates.tolist(), strict=True)) == [(0, 0), (1, 1)]
