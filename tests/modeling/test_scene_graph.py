# SPDX-License-Identifier: Apache-2.0
"""The scene graph model: what may be given, what comes out, and what it learns from."""

import pytest
import torch
import transformers
from torchvision.ops import box_convert

from butd_hf import ButdImageProcessor
from butd_hf.modeling.regions import ButdRegions


TOP_DOWN = {"hidden_size": 32, "num_attention_heads": 2, "dropout": 0.0, "initializer_range": 0.02}
GIVEN = {"selector": "given", "region_size": 8}
RPN = {"num_region_labels": 5}


@pytest.fixture(autouse=True)
def no_gradients(request):
    """Only those who train need them."""
    with torch.set_grad_enabled("learn" in request.node.name):
        yield


@pytest.fixture
def build(tiny):
    def build(bottom_up=GIVEN, **fields):
        fields = {"relation_appearance": False, **fields}
        return tiny("ButdForSceneGraphGeneration", bottom_up, TOP_DOWN, **fields)

    return build


def random_boxes(*shape) -> torch.Tensor:
    low = torch.rand(*shape, 2) * 0.6
    return torch.cat([low, low + 0.1 + torch.rand(*shape, 2) * 0.3], dim=-1)


def annotated(boxes, class_labels, relations) -> dict[str, torch.Tensor]:
    return {
        "boxes": box_convert(boxes, "xyxy", "cxcywh"),
        "class_labels": torch.tensor(class_labels, dtype=torch.long),
        "relations": torch.tensor(relations, dtype=torch.long).reshape(-1, 3),
    }


@pytest.mark.parametrize("number", [0, 1, 2, 7])
def test_any_number_of_objects(build, number):
    model, boxes = build(pair_budget=20), random_boxes(2, number)
    labels = torch.randint(0, 5, (2, number))
    outputs = model(region_boxes=boxes, region_labels=labels, output_attentions=True, output_hidden_states=True)
    pairs = outputs.pairs[outputs.pair_mask]
    assert len(pairs) == 2 * min(number * (number - 1), 20)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert outputs.predicate_logits.isfinite().all() and outputs.pair_logits.isfinite().all()
    torch.testing.assert_close(outputs.region_attentions.sum(dim=-1), torch.ones_like(outputs.pair_logits))
    assert len(outputs.hidden_states) == 3
    (graph, _) = ButdImageProcessor().post_process_scene_graph_generation(outputs)
    assert len(graph["labels"]) == number and sorted(graph["regions"].tolist()) == list(range(number))
    assert len(graph["relations"]) == min(number * (number - 1), 20)


def test_geometry_counts_beside_labels_before_training(build):
    """Projections of a few numbers begin with larger weights than those of wide layers."""
    torch.manual_seed(0)
    top_down = build(pair_rank_features=True).top_down
    for projection in (top_down.measures_proj, top_down.standings_proj, top_down.box_embedding.measures_proj):
        assert 0.4 < projection(torch.randn(100, projection.in_features)).std() < 0.9


@pytest.mark.parametrize("appearance", [True, False])
def test_pixels_features_or_labels(build, appearance):
    model = build(RPN, relation_appearance=appearance)
    pixels, boxes = torch.rand(2, 3, 64, 64), random_boxes(2, 4)
    found = model(pixel_values=pixels)
    assert found.logits.shape == (2, 6, 6) and (found.logits[..., -1] == 0).all()
    classified = model(pixel_values=pixels, region_boxes=boxes)
    ready = model(region_features=classified.regions.features, region_boxes=boxes)
    assert ready.logits.numpy() == pytest.approx(classified.logits.numpy(), abs=1e-4)
    labels = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 0]])
    missing = model(
        pixel_values=pixels, region_boxes=boxes, region_mask=torch.arange(4)[None] < torch.tensor([[4], [1]])
    )
    assert (missing.logits[1, 1:, :-1] == -30).all() and (missing.region_labels[1, 1:] == 0).all()
    blind = model(region_boxes=boxes, region_labels=labels)
    seeing = model(pixel_values=pixels, region_boxes=boxes, region_labels=labels)
    assert torch.equal(blind.region_labels, labels) and torch.equal(seeing.logits.argmax(dim=-1), labels)
    same = torch.equal(blind.predicate_logits, seeing.predicate_logits)
    assert same is not appearance


def test_learns_to_overfit_a_graph(build):
    model, boxes = build().train(), random_boxes(1, 4)
    labels = annotated(boxes[0], [0, 1, 2, 3], [[0, 1, 3], [2, 0, 1], [3, 2, 0]])
    given = {"region_boxes": boxes, "region_labels": labels["class_labels"][None], "labels": [labels]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(**given).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    model.eval()
    model.config.pair_budget = 6  # of 12: the first look has learnt which
    (graph,) = ButdImageProcessor().post_process_scene_graph_generation(model(**given), top_k=3)
    assert sorted(graph["relations"].tolist()) == sorted([[0, 1, 3], [2, 0, 1], [3, 2, 0]])


def test_relations_count_once_and_none_says_that_nothing_is_related(build):
    model, boxes = build(), random_boxes(1, 3)
    plain = annotated(boxes[0], [0, 1, 2], [[0, 1, 3], [2, 1, 0]])
    untidy = annotated(boxes[0], [0, 1, 2], [[0, 1, 3], [1, 1, 2], [2, 1, 0], [0, 1, 3], [0, 0, 0]])
    none = annotated(boxes[0], [0, 1, 2], [])
    given = {"region_boxes": boxes, "region_labels": plain["class_labels"][None]}
    losses = [model(**given, labels=[labels]).loss_dict for labels in (plain, untidy, none)]
    assert losses[0].keys() == losses[1].keys() == {"loss_selection", "loss_pair", "loss_predicate"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    assert losses[2]["loss_pair"] > 0 and losses[2]["loss_predicate"] == 0
    del none["relations"]  # nobody annotated any: nothing is learnt
    assert model(**given, labels=[none]).loss == 0


def test_several_regions_of_one_object_share_its_relations(build):
    model = build(RPN, relation_appearance=True).train()
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.02, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    labels = annotated(boxes[[0, 2]], [3, 1], [[0, 1, 2]])
    outputs = model(pixel_values=torch.rand(1, 3, 64, 64), region_boxes=boxes[None], labels=[labels])
    assert outputs.region_labels.tolist() == [[3, 3, 1]]
    assert sorted(outputs.pairs[0, :2].tolist()) == [[0, 2], [1, 2]]  # annotated ones come first
    assert "loss_objectness" not in outputs.loss_dict  # boxes were given: nothing was proposed


def test_both_halves_learn_from_images(build):
    model = build(RPN, relation_appearance=True).train()
    labels = [annotated(random_boxes(3), [0, 1, 4], [[0, 1, 2]]), annotated(random_boxes(0), [], [])]
    outputs = model(pixel_values=torch.rand(2, 3, 64, 64), labels=labels)
    outputs.loss.backward()
    assert {"loss_object", "loss_pair", "loss_predicate", "loss_objectness", "loss_region_class"} <= set(
        outputs.loss_dict
    )
    for half in (model.bottom_up.selector.proposal_head, model.object_head, model.top_down.pair_scorer):
        assert all(parameter.grad is not None for parameter in half.parameters())


def test_bottom_up_half_says_what_regions_are(build):
    model = build(RPN, region_label_ids=[3, -1, 0, 3, 1])
    outputs = model(pixel_values=torch.rand(1, 3, 64, 64))
    shares = outputs.regions.class_logits.softmax(dim=-1)
    meant = torch.stack([shares[..., 2], shares[..., 4], 0 * shares[..., 0], shares[..., 0] + shares[..., 3]], dim=-1)
    mask = outputs.regions.mask
    assert torch.equal(outputs.logits[..., :4].argmax(dim=-1)[mask], meant.argmax(dim=-1)[mask])
    odds = outputs.regions.saliency.clamp(0.01, 0.99).logit()[..., None]  # that there is an object at all
    torch.testing.assert_close(outputs.logits[..., :4][mask], (odds + meant.clamp(min=1e-6).log())[mask])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"region_boxes": torch.rand(1, 3, 4)}, "only `region_boxes`"),
        ({"region_boxes": torch.rand(3, 4), "region_labels": torch.zeros(3, 4)}, r"expected \(3, num_regions, 4\)"),
        ({"region_labels": torch.zeros(1, 3).long()}, "`region_labels` has shape"),
        ({"region_boxes": torch.rand(1, 3, 4), "region_labels": torch.full((1, 3), 5)}, "expected 0 to 4"),
        ({"region_boxes": torch.rand(1, 3, 4), "region_features": torch.rand(1, 3, 9)}, "`region_features` has shape"),
    ],
)
def test_wrong_inputs_are_named(build, given, message):
    with pytest.raises(ValueError, match=message):
        build()(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relations": torch.tensor([[0, 3, 0]])}, r"\['relations'\]\[:, 1\]\[0\] is 3, expected 0 to 2"),
        ({"relations": torch.tensor([[0, 1, 4]])}, r"\['relations'\]\[:, 2\]\[0\] is 4, expected 0 to 3"),
        ({"relations": torch.tensor([[0, 1]])}, r"expected \(num_relations, 3\)"),
        ({"class_labels": torch.tensor([0, 1, 5])}, r"\['class_labels'\]\[2\] is 5, expected 0 to 4"),
        ({"boxes": torch.rand(2, 4)}, r"\['boxes'\] has shape \(2, 4\), expected \(3, 4\)"),
    ],
)
def test_wrong_labels_are_named(build, change, message):
    labels = {**annotated(random_boxes(3), [0, 1, 2], [[0, 1, 2]]), **change}
    given = {"region_boxes": random_boxes(1, 3), "region_labels": torch.tensor([[0, 1, 2]])}
    with pytest.raises(ValueError, match=message):
        build()(**given, labels=[labels])


def test_post_processing_keeps_order_thresholds_and_pixels(build):
    model, boxes = build(RPN), random_boxes(1, 4)
    outputs = model(pixel_values=torch.rand(1, 3, 64, 64), region_boxes=boxes)
    processor = ButdImageProcessor()
    (whole,) = processor.post_process_scene_graph_generation(outputs, target_sizes=[(50, 200)])
    assert whole["boxes"].numpy() == pytest.approx(
        (boxes[0, whole["regions"]] * torch.tensor([200.0, 50.0, 200.0, 50.0])).numpy(), abs=1e-3
    )
    assert whole["scores"].tolist() == sorted(whole["scores"].tolist(), reverse=True)
    assert whole["relation_scores"].tolist() == sorted(whole["relation_scores"].tolist(), reverse=True)
    (free,) = processor.post_process_scene_graph_generation(outputs, graph_constraint=False, top_k=1000)
    assert len(whole["relations"]) == 12 and len(free["relations"]) == 12 * 4
    assert free["relation_scores"][0] == whole["relation_scores"][0]
    middle = float(whole["scores"][1])
    (few,) = processor.post_process_scene_graph_generation(outputs, threshold=middle)
    assert len(few["labels"]) == 1 and len(few["relations"]) == 0
    (best,) = processor.post_process_scene_graph_generation(outputs, top_k=2)
    assert torch.equal(best["relations"], whole["relations"][:2])
    with pytest.raises(ValueError, match="target_sizes has 2"):
        processor.post_process_scene_graph_generation(outputs, target_sizes=[(1, 1), (1, 1)])


def test_a_bare_trainer_learns_and_reports_its_loss(build, tmp_path):
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8], [0.2, 0.5, 0.6, 0.9]])
    graphs = [annotated(boxes, [0, index, 2], [[0, 1, index], [2, 0, 1]]) for index in range(4)]
    data = list(zip(torch.rand(4, 3, 64, 64), graphs, strict=True))

    def collate(samples):
        images, labels = zip(*samples, strict=True)
        return {"pixel_values": torch.stack(images), "labels": list(labels)}

    options = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "eval_strategy": "epoch"}
    options |= {"remove_unused_columns": False, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = transformers.TrainingArguments(str(tmp_path), max_steps=2, **options)
    model = build(RPN, relation_appearance=True)
    trainer = transformers.Trainer(model, arguments, data_collator=collate, train_dataset=data, eval_dataset=data)
    assert trainer.label_names == ["labels"]
    trainer.train()
    logged = [record["eval_loss"] for record in trainer.state.log_history if "eval_loss" in record]
    with torch.no_grad():
        expected = sum(float(model.eval()(**collate(pair)).loss) for pair in (data[:2], data[2:])) / 2
    assert logged == pytest.approx([expected], rel=1e-4) and expected > 0


def test_pairs_score_by_their_selection_corrected_and_missing_ones_not_at_all(build):
    model, boxes = build(pair_budget=5), random_boxes(2, 3)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    regions = ButdRegions(boxes=boxes, mask=mask)
    pairs = model.top_down(regions, torch.tensor([[0, 1, 0], [2, 3, 4]]))
    assert pairs.pair_mask.sum(dim=1).tolist() == [2, 5]
    corrected = pairs.selection_logits + model.top_down.related_proj(pairs.last_hidden_state)[..., 0]
    torch.testing.assert_close(pairs.pair_logits[pairs.pair_mask], corrected[pairs.pair_mask])
    assert (pairs.pair_logits[~pairs.pair_mask] == -30).all()
