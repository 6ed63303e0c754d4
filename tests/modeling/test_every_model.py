# SPDX-License-Identifier: Apache-2.0
"""What holds for every model, whatever its task: batches, outputs, gradients, precision, and the way to disk."""

import filecmp
from unittest import mock

import pytest
import torch
import transformers

import butd_hf


SIZES = [(64, 48), (32, 64), (64, 48)]  # height and width: two images share a size
NUM_LABELS = 5
LEARNED = {"backbone": "test_efficientnet", "num_regions": 6, "min_regions": 4, "fpn_size": 16, "region_head_size": 8}
WINDOWS = {"backbone": "test_efficientnet", "selector": "saliency", "num_regions": 6, "min_regions": 4}
HEADS = {**LEARNED, "num_region_labels": NUM_LABELS, "num_region_attributes": 4, "region_mask_size": 8}

# name: class, auto class, bottom-up half, changes of the top-down half, changes of the config
KINDS = {
    "base": ("ButdModel", "AutoModel", WINDOWS, {}, {}),
    "captions": ("ButdForConditionalGeneration", "AutoModelForImageTextToText", WINDOWS, {}, {}),
    "captions by lstm": (
        "ButdForConditionalGeneration",
        "AutoModelForImageTextToText",
        WINDOWS,
        {"decoder": "lstm", "attention_size": 16},
        {"tie_word_embeddings": False},
    ),
    "answers": ("ButdForQuestionAnswering", "AutoModelForVisualQuestionAnswering", WINDOWS, {}, {}),
    "published answers": (
        "ButdForQuestionAnswering",
        "AutoModelForVisualQuestionAnswering",
        WINDOWS,
        {"decoder": "gru", "question_variant": "paper"},
        {},
    ),
    "objects": ("ButdForObjectDetection", "AutoModelForObjectDetection", HEADS, {}, {}),
    "masks": ("ButdForInstanceSegmentation", "AutoModelForInstanceSegmentation", HEADS, {}, {}),
    "graphs": ("ButdForSceneGraphGeneration", "AutoModel", HEADS, {}, {"pair_rank_features": True}),
}
READY = ["base", "captions", "captions by lstm", "answers", "published answers", "graphs"]  # of ready regions


def build(kind: str, **changes) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    name, _, bottom_up, top_down, config = KINDS[kind]
    top_down = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 16,
        "initializer_range": 0.3,
        **top_down,
        **changes,
    }
    config = {"num_labels": NUM_LABELS, "num_predicates": 4, **config}
    config = butd_hf.ButdConfig(bottom_up_config=bottom_up, top_down_config=top_down, **config)
    return getattr(butd_hf, name)(config).eval()


def inputs_of(kind: str) -> dict[str, torch.Tensor]:
    """Images of different sizes in one batch, padded with what nobody must see, and words if the model reads any."""
    generator = torch.Generator().manual_seed(1)
    pixel_values, pixel_mask = torch.full((3, 3, 64, 64), 7.0), torch.zeros(3, 64, 64, dtype=torch.long)
    for row, (height, width) in enumerate(SIZES):
        pixel_values[row, :, :height, :width] = torch.randn(3, height, width, generator=generator)
        pixel_mask[row, :height, :width] = 1
    inputs = {"pixel_values": pixel_values, "pixel_mask": pixel_mask}
    if KINDS[kind][2] is WINDOWS:
        inputs["input_ids"] = torch.randint(3, 40, (3, 6), generator=generator)
    return inputs


def labels_of(kind: str):
    generator = torch.Generator().manual_seed(2)
    if "captions" in kind:
        return torch.randint(3, 40, (3, 6), generator=generator)
    if "answers" in kind:
        return torch.rand(3, NUM_LABELS, generator=generator)
    objects = {
        "class_labels": torch.tensor([0, 3]),
        "boxes": torch.tensor([[0.3, 0.3, 0.5, 0.4], [0.6, 0.7, 0.4, 0.5]]),
        "attribute_labels": torch.tensor([1, -1]),
        "relations": torch.tensor([[0, 1, 2]]),
    }
    return [{**objects, "masks": torch.rand(2, *size, generator=generator) > 0.5} for size in SIZES]


def loss_of(model, kind: str) -> torch.Tensor:
    torch.manual_seed(3)  # boxes near the labels are drawn anew
    return model(**inputs_of(kind), labels=labels_of(kind)).loss


def assert_same(one, other, **tolerance) -> None:
    """Whether tensors, or outputs of any depth, are equal, or close with a tolerance."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, **(tolerance or {"atol": 0, "rtol": 0}))
    elif isinstance(one, tuple | list):
        for pair in zip(one, other, strict=True):
            assert_same(*pair, **tolerance)
    elif hasattr(one, "to_tuple"):
        assert_same(one.to_tuple(), other.to_tuple(), **tolerance)


EVERY = pytest.mark.parametrize("kind", KINDS)
TRAINED = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "base"])


@EVERY
@torch.no_grad()
def test_batch_equals_single(kind):
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
            assert_same(batch.regions[name][row, :count], single.regions[name][0], atol=1e-5, rtol=1e-5)
        for name in ("logits", "last_hidden_state", "pred_boxes", "pred_masks", "predicate_logits"):
            if single.get(name) is not None:
                assert_same(batch[name][row, : len(single[name][0])], single[name][0], atol=1e-4, rtol=1e-4)


@EVERY
@torch.no_grad()
def test_tuples_hold_what_outputs_do(kind):
    model, inputs = build(kind), inputs_of(kind)
    options = {"output_hidden_states": True}
    options |= {} if "answers" in kind else {"output_attentions": True}
    outputs = model(**inputs, **options)
    assert outputs.region_attentions is not None
    assert (outputs.get("hidden_states") or outputs.get("decoder_hidden_states")) is not None
    as_tuple = model(**inputs, **options, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert_same(outputs.to_tuple(), as_tuple)
    for name, value in options.items():
        model.set_attn_implementation("eager")
        setattr(model.config, name, value)
    assert_same(model(**inputs).to_tuple(), as_tuple, atol=1e-5, rtol=1e-5)


@EVERY
@torch.no_grad()
def test_attention_to_regions_sums_to_one(kind):
    options = {} if "answers" in kind else {"output_attentions": True}
    outputs = build(kind)(**inputs_of(kind), **options)
    attentions = outputs.region_attentions
    attentions = attentions.flatten(2) if kind in ("objects", "masks") else attentions
    torch.testing.assert_close(attentions.sum(dim=-1), torch.ones(attentions.shape[:2]))
    if kind not in ("objects", "masks"):
        assert attentions.shape[2] == outputs.regions.mask.shape[1]
        assert not attentions.masked_select(~outputs.regions.mask[:, None]).any()


@pytest.mark.parametrize("kind", ["base", "captions", "answers", "objects", "graphs"])
@torch.no_grad()
def test_attention_implementations_agree(kind, tmp_path):
    model, inputs = build(kind), inputs_of(kind)
    expected = model(**inputs)[0]
    assert model.config.top_down_config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    model.set_attn_implementation("eager")
    for eager in (model, loaded):
        assert eager.config.top_down_config._attn_implementation == "eager"
        with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=AssertionError):
            assert_same(eager(**inputs)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", READY)
@torch.no_grad()
def test_ready_regions_equal_pixels(kind):
    model, inputs = build(kind), inputs_of(kind)
    seen = model(**inputs)
    regions = {f"region_{name}": seen.regions[name] for name in ("features", "boxes", "mask")}
    words = {name: inputs[name] for name in inputs if name == "input_ids"}
    assert_same(model(**regions, **words)[0], seen[0], atol=1e-5, rtol=1e-5)
    # what stands where no region is doesn't matter, and an image may have none at all
    regions["region_mask"] = torch.arange(6)[None] < torch.tensor([[3], [0], [6]])
    expected = model(**regions, **words)[0]
    assert expected.isfinite().all()
    regions["region_features"] = regions["region_features"].masked_fill(~regions["region_mask"][..., None], 9.0)
    regions["region_boxes"] = regions["region_boxes"].masked_fill(~regions["region_mask"][..., None], 0.5)
    assert_same(model(**regions, **words)[0], expected, atol=1e-6, rtol=1e-6)
    none = {name: value[:, :0] for name, value in regions.items()}
    assert model(**none, **words)[0].isfinite().all()


@EVERY
@torch.no_grad()
def test_given_boxes_take_the_place_of_selected_ones(kind):
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


@pytest.mark.parametrize("kind", READY)
def test_wrong_regions_are_explained(kind):
    model = build(kind)
    right = torch.zeros(2, 5, model.get_encoder().region_size)
    with pytest.raises(ValueError, match=r"`region_features` has shape \(2, 5, 3\), expected \(batch_size"):
        model(region_features=torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"`region_boxes` has shape \(2, 4, 4\), expected \(2, 5, 4\)"):
        model(region_features=right, region_boxes=torch.zeros(2, 4, 4))
    if model.needs_boxes:
        with pytest.raises(ValueError, match="`region_boxes` has shape None"):
            model(region_features=right)
    with pytest.raises(ValueError, match=r"Give `pixel_values`, or .*got"):
        model()


@TRAINED
def test_every_weight_learns(kind):
    model = build(kind).train()
    loss_of(model, kind).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    first = next(weight for weight in model.get_encoder().backbone.parameters() if weight.dim() > 1)
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("reentrant", [True, False])
@TRAINED
def test_gradient_checkpointing_changes_no_gradient(kind, reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = build(kind, dropout=0.0, answer_dropout=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        loss_of(model, kind).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert_same(*gradients, atol=1e-5, rtol=1e-4)


@TRAINED
def test_trains_under_autocast_and_runs_in_half_precision(kind):
    model = build(kind).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, kind)
    loss.float().backward()
    assert loss.isfinite() and all(
        weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters()
    )
    inputs = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs_of(kind).items()
    }
    with torch.no_grad():
        outputs = model.eval().bfloat16()(**inputs)
    assert outputs.logits.isfinite().all() and outputs.regions.features.dtype == torch.bfloat16


@EVERY
@torch.no_grad()
def test_saves_and_loads_the_same_bytes(kind, tmp_path):
    model, auto_class = build(kind), getattr(transformers, KINDS[kind][1])
    model.save_pretrained(tmp_path / "once")
    loaded = auto_class.from_pretrained(tmp_path / "once")
    assert type(loaded) is type(model)
    loaded.save_pretrained(tmp_path / "twice")
    names = sorted(file.name for file in (tmp_path / "once").iterdir())
    assert {"config.json", "model.safetensors", "modeling_butd.py"} <= set(names)
    assert filecmp.cmpfiles(tmp_path / "once", tmp_path / "twice", names, shallow=False)[0] == names
    # kernels may round differently by where weights lie in memory
    assert_same(loaded(**inputs_of(kind))[0], model(**inputs_of(kind))[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["captions", "captions by lstm", "answers", "published answers"])
@torch.no_grad()
def test_several_texts_about_each_image(kind):
    model, inputs = build(kind), inputs_of(kind)
    words = torch.randint(3, 40, (6, 4))
    images = {name: value for name, value in inputs.items() if name != "input_ids"}
    twice = {name: value.repeat_interleave(2, dim=0) for name, value in images.items()}
    assert_same(model(**images, input_ids=words).logits, model(**twice, input_ids=words).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="`input_ids` has 4 rows, expected a multiple of the 3 images"):
        model(**images, input_ids=words[:4])
