# SPDX-License-Identifier: Apache-2.0
"""What holds for every model, whatever its task: batches, outputs, gradients, precision, and the way to disk."""

import filecmp
from unittest import mock

import pytest
import torch
import transformers


SIZES = [(64, 48), (32, 64), (64, 48)]  # height and width: two images share a size
WINDOWS = {"selector": "saliency"}
HEADS = {"num_region_labels": 5, "num_region_attributes": 4, "region_mask_size": 8}

# name: class, bottom-up half, changes of the top-down half, other fields
KINDS = {
    "base": ("ButdModel", WINDOWS, {}, {}),
    "captions": ("ButdForConditionalGeneration", WINDOWS, {}, {}),
    "captions by lstm": (
        "ButdForConditionalGeneration",
        WINDOWS,
        {"decoder": "lstm"},
        {"tie_word_embeddings": False},
    ),
    "answers": ("ButdForQuestionAnswering", WINDOWS, {}, {}),
    "published answers": ("ButdForQuestionAnswering", WINDOWS, {"decoder": "gru", "question_variant": "paper"}, {}),
    "objects": ("ButdForObjectDetection", HEADS, {}, {}),
    "masks": ("ButdForInstanceSegmentation", HEADS, {}, {}),
    "graphs": ("ButdForSceneGraphGeneration", HEADS, {}, {"pair_rank_features": True}),
}
AUTO_CLASSES = {
    "captions": "AutoModelForImageTextToText",
    "answers": "AutoModelForVisualQuestionAnswering",
    "objects": "AutoModelForObjectDetection",
    "masks": "AutoModelForInstanceSegmentation",
}
EVERY = pytest.mark.parametrize("kind", KINDS)
TRAINED = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "base"])
OF_READY_REGIONS = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("objects", "masks")])


@pytest.fixture(scope="session")
def build(tiny):
    def build(kind: str, **changes):
        name, bottom_up, top_down, fields = KINDS[kind]
        return tiny(name, bottom_up, {**top_down, **changes}, **fields)

    return build


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    """Images of different sizes in one batch, padded with what nobody must see, and words if the model reads any."""
    generator = torch.Generator().manual_seed(1)
    pixel_values, pixel_mask = torch.full((3, 3, 64, 64), 7.0), torch.zeros(3, 64, 64, dtype=torch.long)
    for row, (height, width) in enumerate(SIZES):
        pixel_values[row, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        pixel_mask[row, :height, :width] = 1
    words = {"input_ids": torch.randint(3, 50, (3, 6), generator=generator)} if KINDS[kind][1] is WINDOWS else {}
    return {"pixel_values": pixel_values, "pixel_mask": pixel_mask, **words}


def loss_of(model, kind: str) -> torch.Tensor:
    torch.manual_seed(3)  # boxes near the labels are drawn anew
    if "captions" in kind:
        labels = torch.randint(3, 50, (3, 6))
    elif "answers" in kind:
        labels = torch.rand(3, 5)
    else:
        objects = {
            "class_labels": torch.tensor([0, 3]),
            "boxes": torch.tensor([[0.3, 0.3, 0.5, 0.4], [0.6, 0.7, 0.4, 0.5]]),
            "attribute_labels": torch.tensor([1, -1]),
            "relations": torch.tensor([[0, 1, 2]]),
        }
        labels = [{**objects, "masks": torch.rand(2, *size) > 0.5} for size in SIZES]
    return model(**inputs_of(kind), labels=labels).loss


def assert_same(one, other, tolerance: float = 0.0) -> None:
    """Whether tensors, or outputs of any depth, are equal, or close with a tolerance."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    elif isinstance(one, tuple | list):
        for pair in zip(one, other, strict=True):
            assert_same(*pair, tolerance)
    elif hasattr(one, "to_tuple"):
        assert_same(one.to_tuple(), other.to_tuple(), tolerance)


@EVERY
@torch.no_grad()
def test_batch_equals_single(build, kind):
    model, inputs = build(kind), inputs_of(kind)
    batch = model(**inputs)
    for row, (height, width) in enumerate(SIZES):
        alone = {"pixel_values": inputs["pixel_values"][row, None, :, :height, :width]}
        if "input_ids" in inputs:
            alone["input_ids"] = inputs["input_ids"][row, None]
        single = model(**alone)
        count = single.regions.mask.shape[1]
        assert not batch.regions.mask[row, count:].any()
        for name in single.regions:
            assert_same(batch.regions[name][row, :count], single.regions[name][0], 1e-4)
        for name in ("logits", "last_hidden_state", "pred_boxes", "pred_masks", "predicate_logits"):
            if single.get(name) is not None:
                assert_same(batch[name][row, : len(single[name][0])], single[name][0], 1e-4)


@EVERY
@torch.no_grad()
def test_tuples_hold_what_outputs_do_and_attention_sums_to_one(build, kind):
    model, inputs = build(kind), inputs_of(kind)
    options = {"output_hidden_states": True, **({} if "answers" in kind else {"output_attentions": True})}
    outputs = model(**inputs, **options)
    assert (outputs.get("hidden_states") or outputs.get("decoder_hidden_states")) is not None
    attentions, mask = outputs.region_attentions, outputs.regions.mask
    assert_same(attentions.flatten(2).sum(dim=-1), torch.ones(attentions.shape[:2]), 1e-5)
    if kind not in ("objects", "masks"):  # whose attention is over cells within each box
        assert attentions.shape[2] == mask.shape[1] and not attentions.masked_select(~mask[:, None]).any()
    as_tuple = model(**inputs, **options, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert_same(outputs.to_tuple(), as_tuple)
    model.set_attn_implementation("eager")
    for name, value in options.items():
        setattr(model.config, name, value)
    assert_same(model(**inputs).to_tuple(), as_tuple, 1e-5)


@pytest.mark.parametrize("kind", ["base", "captions", "answers", "objects", "graphs"])
@torch.no_grad()
def test_attention_implementations_agree(build, kind, tmp_path):
    model, inputs = build(kind), inputs_of(kind)
    expected = model(**inputs)[0]
    assert model.config.top_down_config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    model.set_attn_implementation("eager")
    for eager in (model, loaded):
        assert eager.config.top_down_config._attn_implementation == "eager"
        with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=AssertionError):
            assert_same(eager(**inputs)[0], expected, 1e-4)


@OF_READY_REGIONS
@torch.no_grad()
def test_ready_regions_equal_pixels(build, kind):
    model, inputs = build(kind), inputs_of(kind)
    seen = model(**inputs)
    regions = {f"region_{name}": seen.regions[name] for name in ("features", "boxes", "mask")}
    words = {name: inputs[name] for name in inputs if name == "input_ids"}
    assert_same(model(**regions, **words)[0], seen[0], 1e-5)
    # what stands where no region is doesn't matter, and an image may have none at all
    regions["region_mask"] = torch.arange(6)[None] < torch.tensor([[3], [0], [6]])
    expected = model(**regions, **words)[0]
    assert expected.isfinite().all()
    regions["region_features"] = regions["region_features"].masked_fill(~regions["region_mask"][..., None], 9.0)
    regions["region_boxes"] = regions["region_boxes"].masked_fill(~regions["region_mask"][..., None], 0.5)
    assert_same(model(**regions, **words)[0], expected, 1e-6)
    none = {name: value[:, :0] for name, value in regions.items()}
    assert model(**none, **words)[0].isfinite().all()


@EVERY
@torch.no_grad()
def test_given_boxes_take_the_place_of_selected_ones(build, kind):
    model, inputs = build(kind), inputs_of(kind)
    boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.7], [0.5, 0.2, 1.0, 0.9]]]).expand(3, 2, 4)
    mask = torch.tensor([[True, False], [True, True], [True, True]])
    outputs = model(**inputs, region_boxes=boxes, region_mask=mask)
    assert torch.equal(outputs.regions.mask, mask)
    assert torch.equal(outputs.regions.boxes, boxes * mask[..., None])
    assert not any(outputs.regions[name][0, 1].any() for name in outputs.regions)
    if kind in ("objects", "masks"):
        assert outputs.logits[0, 1, :-1].max() == -30 < outputs.logits[0, 0, :-1].max()
    none = model(**inputs, region_boxes=boxes[:, :0])  # of an image in which nobody annotated anything
    assert not none.regions.mask.any() and none[0].isfinite().all()
    for wrong in ({"region_boxes": boxes[:2]}, {"region_boxes": boxes, "region_mask": mask[:, :1]}):
        with pytest.raises(ValueError, match=r"has shape .*, expected"):
            model(**inputs, **wrong)


@OF_READY_REGIONS
def test_wrong_regions_are_explained(build, kind):
    model = build(kind)
    right = torch.zeros(2, 5, model.get_encoder().region_size)
    cases = [
        ({"region_features": torch.zeros(2, 5, 3)}, r"`region_features` has shape \(2, 5, 3\), expected \(batch_size"),
        ({"region_features": right, "region_boxes": torch.zeros(2, 4, 4)}, r"`region_boxes` has shape \(2, 4, 4\), "),
        ({}, r"Give `pixel_values`, or .*got"),
    ]
    if model.needs_boxes:
        cases.append(({"region_features": right}, "`region_boxes` has shape None"))
    for given, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**given)


@TRAINED
def test_every_weight_learns(build, kind):
    model = build(kind).train()
    loss_of(model, kind).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    first = next(weight for weight in model.get_encoder().backbone.parameters() if weight.dim() > 1)
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("reentrant", [True, False])
@TRAINED
def test_gradient_checkpointing_changes_no_gradient(build, kind, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = build(kind, dropout=0.0, answer_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss_of(model, kind).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert_same(*gradients, 1e-4)


@TRAINED
def test_trains_under_autocast_and_runs_in_half_precision(build, kind):
    model = build(kind).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, kind)
    loss.float().backward()
    assert loss.isfinite()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    inputs = inputs_of(kind)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with torch.no_grad():
        outputs = model.eval().bfloat16()(**inputs)
    assert outputs.logits.isfinite().all() and outputs.regions.features.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["captions", "answers"])
@torch.no_grad()
def test_training_hides_regions(build, kind):
    model, inputs = build(kind, dropout=0.0, answer_dropout=0.0, region_dropout=0.9), inputs_of(kind)
    regions = model(**inputs).regions
    given = {f"region_{name}": regions[name] for name in ("features", "boxes", "mask")}
    given["input_ids"] = inputs["input_ids"]
    assert_same(model(**given).logits, model(**given).logits)
    model.train()
    assert not torch.equal(model(**given).logits, model(**given).logits)


@EVERY
@torch.no_grad()
def test_saves_and_loads_the_same_bytes(build, kind, tmp_path):
    model = build(kind)
    model.save_pretrained(tmp_path / "once")
    auto_class = AUTO_CLASSES.get(kind.removeprefix("published ").removesuffix(" by lstm"), "AutoModel")
    loaded = getattr(transformers, auto_class).from_pretrained(tmp_path / "once")
    assert type(loaded) is type(model)
    loaded.save_pretrained(tmp_path / "twice")
    names = sorted(file.name for file in (tmp_path / "once").iterdir())
    assert {"config.json", "model.safetensors", "modeling_butd.py"} <= set(names)
    assert filecmp.cmpfiles(tmp_path / "once", tmp_path / "twice", names, shallow=False)[0] == names
    # kernels may round differently by where weights lie in memory
    assert_same(loaded(**inputs_of(kind))[0], model(**inputs_of(kind))[0], 1e-4)


@pytest.mark.parametrize("kind", ["captions", "captions by lstm", "answers", "published answers"])
@torch.no_grad()
def test_several_texts_about_each_image(build, kind):
    model, inputs = build(kind), inputs_of(kind)
    words = torch.randint(3, 50, (6, 4))
    images = {name: value for name, value in inputs.items() if name != "input_ids"}
    twice = {name: value.repeat_interleave(2, dim=0) for name, value in images.items()}
    assert_same(model(**images, input_ids=words).logits, model(**twice, input_ids=words).logits, 1e-5)
    with pytest.raises(ValueError, match="`input_ids` has 4 rows, expected a multiple of the 3 images"):
        model(**images, input_ids=words[:4])
