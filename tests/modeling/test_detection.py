# SPDX-License-Identifier: Apache-2.0
"""Detection and instance segmentation: outputs, losses, and odd labels."""

import pytest
import torch

from butd_hf import ButdConfig, ButdForConditionalGeneration
from butd_hf.modeling.losses.targets import masks_within, prepare_targets


NUM_LABELS = 5
SIZES = [(64, 96), (64, 64), (32, 96), (64, 64)]  # height, width
BOTTOM_UP = {"num_regions": 12, "min_regions": 3, "region_head_size": 24}
TOP_DOWN = {"intermediate_size": 48, "dropout": 0.0, "initializer_range": 0.02}
HEADS = {"num_region_labels": NUM_LABELS, "num_region_attributes": 4, "region_mask_size": 8}


@pytest.fixture
def build(tiny):
    def build(name: str = "ButdForInstanceSegmentation", bottom_up: dict | None = None, **changes):
        model = tiny(name, {**BOTTOM_UP, **(bottom_up or {})}, TOP_DOWN, **changes)
        with torch.no_grad():
            for layer in model.top_down.layers:  # as if it had learned to move boxes
                layer.box_out_proj.weight.normal_(std=0.05)
                layer.class_proj.weight.normal_(std=0.3)
        return model

    return build


def images(sizes: list[tuple[int, int]] = SIZES) -> tuple[torch.Tensor, torch.Tensor]:
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
    pixel_values, _ = images([size] * len(labels))
    return model(pixel_values, labels=labels)


def assert_trains(model, labels: list[dict]) -> None:
    outputs = loss_of(model.train(), labels)
    assert outputs.loss.isfinite()
    outputs.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("box", [[0.5, 0.5, 0.0, 0.0], [2.0, 2.0, 0.1, 0.1]])
@torch.no_grad()
def test_boxes_without_area_are_as_if_they_were_not_there(build, box):
    model = build()
    labels = some_labels(3)
    fewer = {name: value[1:] for name, value in labels.items()}
    labels["boxes"][0] = torch.tensor(box)
    assert torch.equal(loss_of(model, [labels]).loss, loss_of(model, [fewer]).loss)


@torch.no_grad()
def test_nothing_found_in_a_crowd_is_wrong(build):
    model = build("ButdForObjectDetection")
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
def test_objects_without_a_mask_train_their_box_alone(build):
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
def test_wrong_labels_are_named(build, change, message):
    with pytest.raises(ValueError, match=message):
        loss_of(build(), [some_labels(1), {**some_labels(2), **change}])
    with_attributes = build(bottom_up={"num_region_attributes": 4})
    with pytest.raises(ValueError, match=r"labels\[0\]\['attribute_labels'\]\[1\] is 4, expected -1 to 3"):
        loss_of(with_attributes, [{**some_labels(2), "attribute_labels": torch.tensor([-1, 4])}])
    with pytest.raises(ValueError, match="`labels` has 1 entries, expected one for each of the 4 images"):
        build()(*images(), labels=[some_labels(1)])


@pytest.mark.slow
def test_learns_one_image(tiny):
    """A bright square on black: after a few steps its box and class come first."""
    pixel_values = torch.zeros(1, 3, 64, 64)
    pixel_values[..., 16:48, 8:40] = 2.0
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 16:48, 8:40] = True
    labels = [
        {"class_labels": torch.tensor([3]), "boxes": torch.tensor([[0.375, 0.5, 0.5, 0.5]]), "masks": mask},
    ]
    model = tiny("ButdForInstanceSegmentation", BOTTOM_UP, TOP_DOWN).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model(pixel_values, labels=labels).loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model.eval()(pixel_values)
    best = int(outputs.logits[0, :, :-1].max(dim=1).values.argmax())
    assert int(outputs.logits[0, best, :-1].argmax()) == 3
    torch.testing.assert_close(outputs.pred_boxes[0, best], labels[0]["boxes"][0], atol=0.12, rtol=0)
    assert outputs.regions.boxes[0, 0].sub(torch.tensor([0.125, 0.25, 0.625, 0.75])).abs().max() < 0.12


def test_a_captioner_begins_with_what_a_detector_learned(build, tmp_path):
    detector = build("ButdForObjectDetection")
    detector.save_pretrained(tmp_path)
    captioner = ButdForConditionalGeneration(detector.config)
    report = captioner.model.bottom_up.load_state_dict(detector.bottom_up.state_dict())
    assert not report.missing_keys and not report.unexpected_keys
    loaded = ButdForConditionalGeneration.from_pretrained(tmp_path)
    for name, value in detector.bottom_up.state_dict().items():
        assert torch.equal(loaded.model.bottom_up.state_dict()[name], value), name


@pytest.mark.parametrize("name", ["ButdForObjectDetection", "ButdForInstanceSegmentation"])
@torch.no_grad()
def test_outputs_have_their_shapes_and_ranges(build, name):
    model = build(name)
    decoded = []
    model.top_down.register_forward_hook(lambda module, given, result: decoded.append(result))
    outputs = model(*images(), output_attentions=True, output_hidden_states=True)
    assert torch.equal(outputs.logits[..., :-1], decoded[0].logits[-1])  # of the last layer
    assert outputs.logits.shape == (4, 12, NUM_LABELS + 1) and not outputs.logits[..., -1].any()
    assert outputs.pred_boxes.shape == (4, 12, 4)
    low = outputs.pred_boxes[..., :2] - outputs.pred_boxes[..., 2:] / 2
    high = outputs.pred_boxes[..., :2] + outputs.pred_boxes[..., 2:] / 2
    assert low.min() >= -1e-6 and high.max() <= 1 + 1e-6 and (high > low).all()
    assert outputs.region_attentions.shape == (4, 12, 7, 7)
    assert len(outputs.hidden_states) == 3
    assert outputs.auxiliary_outputs is None
    (auxiliary,) = model.train()(*images()).auxiliary_outputs  # of the layer before the last
    assert auxiliary["logits"].shape == outputs.logits.shape and auxiliary["pred_boxes"].shape == (4, 12, 4)
    if name == "ButdForInstanceSegmentation":
        assert outputs.pred_masks.shape == (4, 12, 28, 28)


def test_losses_are_named_and_weighed(build):
    outputs = loss_of(build(bottom_up=HEADS).train(), [some_labels(3)])
    bottom_up = {"objectness", "proposal_box", "region_box", "region_class", "attribute", "region_mask"}
    layers = {
        f"{name}{layer}{many}" for name in ("ce", "bbox", "giou") for layer in ("", "_0") for many in ("", "_many")
    }
    assert set(outputs.loss_dict) == {f"loss_{name}" for name in bottom_up | layers | {"mask", "dice"}}
    weights = {"bbox": 5.0, "giou": 2.0}
    total = sum(weights.get(name.split("_")[1], 1.0) * loss for name, loss in outputs.loss_dict.items())
    torch.testing.assert_close(outputs.loss, total)
    assert all(loss > 0 for loss in outputs.loss_dict.values())

    # the second pass is for training, and attributes that nobody knows count for nothing
    evaluated = loss_of(build(bottom_up=HEADS), [some_labels(3)]).loss_dict
    assert not any("many" in name for name in evaluated)
    unknown = {**some_labels(3), "attribute_labels": torch.full((3,), -1)}
    assert loss_of(build(bottom_up=HEADS).train(), [unknown]).loss_dict["loss_attribute"] == 0
    plain = build("ButdForObjectDetection", one_to_many=0).train()
    assert not any("many" in name or "mask" in name for name in loss_of(plain, [some_labels(3)]).loss_dict)


@pytest.mark.parametrize("numbers", [(0,), (0, 3), (500, 1)])
def test_any_number_of_labels_trains(build, numbers):
    labels = [some_labels(number, seed=number) for number in numbers]
    assert_trains(build(bottom_up={"num_region_labels": NUM_LABELS, "region_mask_size": 8}), labels)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([0.5, 0.5, 0.3, 0.0], id="a line"),
        pytest.param([0.5, 0.5, 3.0, 3.0], id="larger than the image"),
        pytest.param([2.0, 2.0, 0.1, 0.1], id="outside"),
        pytest.param([0.5, 0.5, 1e-4, 1e-4], id="a speck"),
        pytest.param([float("nan"), 0.5, 0.1, 0.1], id="not a number"),
    ],
)
def test_odd_boxes_train(build, box):
    labels = some_labels(2)
    labels["boxes"][0] = torch.tensor(box)
    assert_trains(build(bottom_up={"region_mask_size": 8}), [labels, some_labels(0)])


@pytest.mark.parametrize("side", [0.2, 0.6])
@torch.no_grad()
def test_masks_are_drawn_where_their_boxes_are(side):
    """Half of the object's box is filled: labels of its own box are half ones, on the side that is filled."""
    masks = torch.zeros(1, 64, 64)
    low, high = round(32 - 32 * side), round(32 + 32 * side)
    masks[0, low:high, low:32] = 1
    labels = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, side, side]]), "masks": masks}
    targets = prepare_targets([labels], ButdConfig(), 1)
    box = torch.tensor([[0.0, low / 64, low / 64, high / 64, high / 64]])
    within = masks_within(targets, box, torch.tensor([0]), 4)
    assert within.tolist() == [[[1.0, 1.0, 0.0, 0.0]] * 4]
