# SPDX-License-Identifier: Apache-2.0
"""Detection and instance segmentation: batches, losses, odd labels, and the way to disk and back."""

import filecmp

import pytest
import torch
from transformers import AutoModelForInstanceSegmentation, AutoModelForObjectDetection

from butd_hf import ButdConfig, ButdForConditionalGeneration, ButdForInstanceSegmentation, ButdForObjectDetection


MODELS = [ButdForObjectDetection, ButdForInstanceSegmentation]
NUM_LABELS = 5
SIZES = [(64, 96), (64, 64), (32, 96), (64, 64)]  # height, width


def tiny_config(bottom_up: dict | None = None, **changes) -> ButdConfig:
    bottom_up_config = {
        "backbone": "test_efficientnet",
        "num_regions": 12,
        "min_regions": 3,
        "fpn_size": 16,
        "region_head_size": 24,
        "num_candidates": 64,
        **(bottom_up or {}),
    }
    top_down_config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "dropout": 0.0,
    }
    settings = {"num_labels": NUM_LABELS, "mask_size": 12, **changes}
    return ButdConfig(bottom_up_config=bottom_up_config, top_down_config=top_down_config, **settings)


def build(model_class: type = ButdForInstanceSegmentation, bottom_up: dict | None = None, **changes):
    torch.manual_seed(0)
    model = model_class(tiny_config(bottom_up, **changes))
    with torch.no_grad():
        for layer in model.top_down.layers:  # as if it had learned to move boxes
            layer.box_out_proj.weight.normal_(std=0.05)
            layer.class_proj.weight.normal_(std=0.3)
    return model.eval()


def pictures(sizes: list[tuple[int, int]] = SIZES) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    pixel_values, pixel_mask = torch.full((len(sizes), 3, height, width), 7.0), torch.zeros(len(sizes), height, width)
    for row, (rows, columns) in enumerate(sizes):
        pixel_values[row, :, :rows, :columns] = torch.randn(3, rows, columns, generator=generator)
        pixel_mask[row, :rows, :columns] = 1
    return pixel_values, pixel_mask.long()


def some_labels(number: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "class_labels": torch.randint(NUM_LABELS, (number,), generator=generator),
        "boxes": 0.1 + 0.4 * torch.rand(number, 4, generator=generator),
        "masks": torch.rand(number, *size, generator=generator) > 0.5,
        "has_mask": torch.arange(number) % 2 == 0,
        "attribute_labels": torch.randint(-1, 4, (number,), generator=generator),
    }


def loss_of(model, labels: list[dict], size: tuple[int, int] = (64, 64)):
    pixel_values, _ = pictures([size] * len(labels))
    return model(pixel_values, labels=labels)


def assert_trains(model, labels: list[dict]) -> None:
    outputs = loss_of(model.train(), labels)
    assert outputs.loss.isfinite()
    outputs.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_batch_equals_single(model_class):
    model = build(model_class, {"num_region_labels": 4, "region_mask_size": 8})
    pixel_values, pixel_mask = pictures()
    batch = model(pixel_values, pixel_mask)
    names = ["logits", "pred_boxes", "last_hidden_state"]
    names += ["pred_masks"] if model_class is ButdForInstanceSegmentation else []
    for row, (height, width) in enumerate(SIZES):
        single = model(pixel_values[row, None, :, :height, :width])
        for name in names:
            torch.testing.assert_close(batch[name][row], single[name][0], atol=1e-5, rtol=1e-5)
        for name in single.regions:
            torch.testing.assert_close(batch.regions[name][row], single.regions[name][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_outputs_have_their_shapes_and_ranges(model_class):
    outputs = build(model_class)(*pictures(), output_attentions=True, output_hidden_states=True)
    assert outputs.logits.shape == (4, 12, NUM_LABELS + 1)
    assert not outputs.logits[..., -1].any()
    assert outputs.pred_boxes.shape == (4, 12, 4)
    low = outputs.pred_boxes[..., :2] - outputs.pred_boxes[..., 2:] / 2
    high = outputs.pred_boxes[..., :2] + outputs.pred_boxes[..., 2:] / 2
    assert low.min() >= -1e-6 and high.max() <= 1 + 1e-6 and (high > low).all()
    assert outputs.region_attentions.shape == (4, 12, 7, 7)
    torch.testing.assert_close(outputs.region_attentions.sum(dim=(2, 3)), torch.ones(4, 12))
    assert len(outputs.auxiliary_outputs) == 1
    assert len(outputs.hidden_states) == 3
    if model_class is ButdForInstanceSegmentation:
        assert outputs.pred_masks.shape == (4, 12, 12, 12)


@pytest.mark.parametrize("model_class", MODELS)
@torch.no_grad()
def test_tuples_hold_what_outputs_do(model_class):
    model = build(model_class)
    pixel_values, pixel_mask = pictures()
    outputs = model(pixel_values, pixel_mask)
    flat = model(pixel_values, pixel_mask, return_dict=False)
    assert torch.equal(flat[0], outputs.logits)
    assert torch.equal(flat[1], outputs.pred_boxes)


def test_every_loss_is_named():
    heads = {"num_region_labels": NUM_LABELS, "num_region_attributes": 4, "region_mask_size": 8}
    model = build(ButdForInstanceSegmentation, heads).train()
    names = set(loss_of(model, [some_labels(3)]).loss_dict)
    bottom_up = {"objectness", "proposal_box", "region_box", "region_class", "attribute", "region_mask"}
    layers = {
        f"{name}{layer}{many}" for name in ("ce", "bbox", "giou") for layer in ("", "_0") for many in ("", "_many")
    }
    assert names == {f"loss_{name}" for name in bottom_up | layers | {"mask", "dice"}}

    plain = build(ButdForObjectDetection, auxiliary_loss=False, one_to_many=0).train()
    names = set(loss_of(plain, [some_labels(3)]).loss_dict)
    assert names == {f"loss_{name}" for name in ("objectness", "proposal_box", "region_box", "ce", "bbox", "giou")}


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = {"class": 0.5, "bbox": 3.0, "giou": 0.25, "mask": 7.0, "dice": 0.125, "bottom_up": 0.75}
    model = build(**{f"{name}_loss_coefficient": weight for name, weight in weights.items()})
    outputs = loss_of(model, [some_labels(3)])
    total = 0.0
    for name, loss in outputs.loss_dict.items():
        part = name.split("_")[1]
        total += loss * weights.get({"ce": "class"}.get(part, part), weights["bottom_up"])
    torch.testing.assert_close(outputs.loss, total)


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("numbers", [(0,), (0, 0), (0, 3), (500,), (500, 1)])
def test_any_number_of_labels_trains(model_class, numbers):
    labels = [some_labels(number, seed=number) for number in numbers]
    assert_trains(build(model_class, {"num_region_labels": NUM_LABELS, "region_mask_size": 8}), labels)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([0.5, 0.5, 0.0, 0.0], id="a point"),
        pytest.param([0.5, 0.5, 0.3, 0.0], id="a line"),
        pytest.param([0.5, 0.5, 1.0, 1.0], id="the whole image"),
        pytest.param([0.0, 0.0, 0.2, 0.2], id="over the corner"),
        pytest.param([0.9, 0.5, 0.2, 0.4], id="touching the border"),
        pytest.param([0.5, 0.5, 3.0, 3.0], id="larger than the image"),
        pytest.param([2.0, 2.0, 0.1, 0.1], id="outside"),
        pytest.param([0.5, 0.5, 1e-4, 1e-4], id="a speck"),
        pytest.param([float("nan"), 0.5, 0.1, 0.1], id="not a number"),
    ],
)
@pytest.mark.parametrize("model_class", MODELS)
def test_odd_boxes_train(model_class, box):
    labels = some_labels(2)
    labels["boxes"][0] = torch.tensor(box)
    assert_trains(build(model_class, {"region_mask_size": 8}), [labels, some_labels(0)])


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.0, 0.0], [2.0, 2.0, 0.1, 0.1]])
@torch.no_grad()
def test_boxes_without_area_are_as_if_they_were_not_there(box):
    model = build()
    labels = some_labels(3)
    fewer = {name: value[1:] for name, value in labels.items()}
    labels["boxes"][0] = torch.tensor(box)
    assert torch.equal(loss_of(model, [labels]).loss, loss_of(model, [fewer]).loss)


@torch.no_grad()
def test_nothing_found_in_a_crowd_is_wrong():
    model = build(ButdForObjectDetection)
    empty, crowd = some_labels(0), some_labels(1)
    crowd["boxes"] = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    crowd["iscrowd"] = torch.tensor([1])
    without, within = loss_of(model, [empty]).loss_dict, loss_of(model, [crowd]).loss_dict
    assert without["loss_ce"] > 1e-3
    assert within["loss_ce"] < 1e-8
    # cells whose box lies mostly outside the image may still be wrong
    assert within["loss_objectness"] < without["loss_objectness"]
    assert within["loss_bbox"] == within["loss_giou"] == within["loss_proposal_box"] == 0


@torch.no_grad()
def test_objects_without_a_mask_train_their_box_alone():
    model = build()
    labels = some_labels(3)
    other_masks = {**labels, "masks": torch.rand(3, 64, 64) > 0.5}
    labels["has_mask"] = other_masks["has_mask"] = torch.zeros(3, dtype=torch.bool)
    no_masks = {name: value for name, value in labels.items() if name not in ("masks", "has_mask")}
    losses = loss_of(model, [labels]).loss_dict
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert losses["loss_bbox"] > 0
    for other in (other_masks, no_masks):
        assert all(torch.equal(loss, losses[name]) for name, loss in loss_of(model, [other]).loss_dict.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_labels": torch.tensor([0, 9])}, r"labels\[1\]\['class_labels'\]\[1\] is 9, expected 0 to 4"),
        ({"class_labels": torch.tensor([-1, 0])}, r"labels\[1\]\['class_labels'\]\[0\] is -1"),
        ({"boxes": torch.rand(3, 4)}, r"labels\[1\]\['boxes'\] has shape \(3, 4\), expected \(2, 4\)"),
        ({"masks": torch.zeros(3, 64, 64)}, r"labels\[1\]\['masks'\] has 3 rows, expected 2"),
    ],
)
def test_wrong_labels_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        loss_of(build(), [some_labels(1), {**some_labels(2), **change}])
    with_attributes = build(bottom_up={"num_region_attributes": 4})
    with pytest.raises(ValueError, match=r"labels\[0\]\['attribute_labels'\]\[1\] is 4, expected -1 to 3"):
        loss_of(with_attributes, [{**some_labels(2), "attribute_labels": torch.tensor([-1, 4])}])
    with pytest.raises(ValueError, match="`labels` has 1 entries, expected one for each of the 4 images"):
        build()(*pictures(), labels=[some_labels(1)])


@torch.no_grad()
def test_a_picture_of_nothing():
    outputs = build()(torch.full((1, 3, 64, 64), 0.5))
    assert outputs.logits.isfinite().all() and outputs.pred_masks.isfinite().all()
    assert outputs.regions.mask.sum() >= 3


@torch.no_grad()
def test_given_boxes_become_queries():
    model = build()
    boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.7], [0.5, 0.2, 1.0, 0.9]]])
    outputs = model(pictures([(64, 64)])[0], region_boxes=boxes, region_mask=torch.tensor([[True, False]]))
    assert torch.equal(outputs.regions.boxes[0, 0], boxes[0, 0])
    assert outputs.logits[0, 1, :-1].max() == -30
    assert outputs.logits[0, 0, :-1].max() > -30


@pytest.mark.parametrize("model_class", MODELS)
def test_gradients_reach_every_part(model_class):
    heads = {"num_region_labels": NUM_LABELS, "num_region_attributes": 4, "region_mask_size": 8}
    model = build(model_class, heads).train()
    loss_of(model, [some_labels(3), some_labels(2, seed=1)]).loss.backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []
    first = next(parameter for parameter in model.bottom_up.backbone.parameters() if parameter.dim() > 1)
    assert first.grad.abs().sum() > 0


def test_gradients_are_the_same_with_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = build(ButdForObjectDetection).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)  # noised boxes are drawn anew
        loss_of(model, [some_labels(3)]).loss.backward()
        gradients.append(model.top_down.layers[0].layout_in_proj.weight.grad)
    torch.testing.assert_close(*gradients)


def test_trains_under_autocast():
    model = build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = loss_of(model, [some_labels(3)])
    assert outputs.loss.dtype == torch.float32
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_learns_one_picture():
    """A bright square on black: after a few steps its box and class come first."""
    pixel_values = torch.zeros(1, 3, 64, 64)
    pixel_values[..., 16:48, 8:40] = 2.0
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 16:48, 8:40] = True
    labels = [
        {"class_labels": torch.tensor([3]), "boxes": torch.tensor([[0.375, 0.5, 0.5, 0.5]]), "masks": mask},
    ]
    torch.manual_seed(0)
    model = ButdForInstanceSegmentation(tiny_config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()(pixel_values)
    best = int(outputs.logits[0, :, :-1].max(dim=1).values.argmax())
    assert int(outputs.logits[0, best, :-1].argmax()) == 3
    torch.testing.assert_close(outputs.pred_boxes[0, best], labels[0]["boxes"][0], atol=0.06, rtol=0)
    assert outputs.regions.boxes[0, 0].sub(torch.tensor([0.125, 0.25, 0.625, 0.75])).abs().max() < 0.12


@pytest.mark.parametrize(
    ("model_class", "auto_class"),
    [
        (ButdForObjectDetection, AutoModelForObjectDetection),
        (ButdForInstanceSegmentation, AutoModelForInstanceSegmentation),
    ],
)
def test_saves_and_loads_the_same_bytes(model_class, auto_class, tmp_path):
    model = build(model_class, {"num_region_labels": 4, "num_region_attributes": 3, "region_mask_size": 8})
    model.save_pretrained(tmp_path / "once")
    loaded = auto_class.from_pretrained(tmp_path / "once")
    assert type(loaded) is model_class
    loaded.save_pretrained(tmp_path / "twice")
    names = sorted(file.name for file in (tmp_path / "once").iterdir() if file.is_file())
    assert {"config.json", "model.safetensors", "modeling_detection_butd.py"} <= set(names)
    assert filecmp.cmpfiles(tmp_path / "once", tmp_path / "twice", names, shallow=False)[0] == names
    with torch.no_grad():
        # kernels may round differently by where weights lie in memory
        torch.testing.assert_close(loaded(*pictures()).logits, model(*pictures()).logits, rtol=1e-5, atol=1e-5)


def test_a_captioner_begins_with_what_a_detector_learned(tmp_path):
    detector = build(ButdForObjectDetection)
    detector.save_pretrained(tmp_path)
    captioner = ButdForConditionalGeneration(detector.config)
    report = captioner.model.bottom_up.load_state_dict(detector.bottom_up.state_dict())
    assert not report.missing_keys and not report.unexpected_keys
    loaded = ButdForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in detector.bottom_up.state_dict().items():
        assert torch.equal(loaded.model.bottom_up.state_dict()[name], value), name


@torch.no_grad()
def test_compiles_to_the_same():
    """What depends on the picture breaks the graph, but nothing changes."""
    model = build(ButdForInstanceSegmentation)
    pixel_values, pixel_mask = pictures(SIZES[:2])
    expected = model(pixel_values, pixel_mask)
    compiled = torch.compile(model, backend="eager")(pixel_values, pixel_mask)
    for name in ("logits", "pred_boxes", "pred_masks"):
        torch.testing.assert_close(compiled[name], expected[name], atol=1e-4, rtol=0)


def test_needs_the_learned_selector():
    with pytest.raises(ValueError, match="got 'grid'"):
        ButdForObjectDetection(ButdConfig(bottom_up_config={"backbone": "test_efficientnet", "selector": "grid"}))
