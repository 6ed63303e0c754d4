# SPDX-License-Identifier: Apache-2.0
"""Published detectors, made up with their names, shapes and order, against what they compute."""

import pickle

import pytest
import torch
from huggingface_hub import ModelCard

import butd_hf
from butd_hf.conversion import faster_rcnn_detectron2, faster_rcnn_milvlg
from butd_hf.conversion.checkpoint_folder import ConversionError, convert_checkpoint
from butd_hf.conversion.checkpoint_kind import ConversionOptions
from butd_hf.conversion.faster_rcnn_weights import published_name
from butd_hf.modeling.bottom_up import faster_rcnn_proposals
from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.modeling_butd import ButdRegionModel


LABELS, ATTRIBUTES, RPN, CHANNELS, LAYERS = 5, 3, 6, (4, 4, 8, 8), (1, 2, 1, 1)
KINDS = {"detectron2": faster_rcnn_detectron2, "milvlg": faster_rcnn_milvlg}
HEADS = {
    "detectron2": ("cls_embedding", "fc_attr", "attr_score"),
    "milvlg": ("cls_embed", "attr_linear1", "attr_linear2"),
}


@pytest.fixture(autouse=True)
def narrow_proposals(monkeypatch):
    """Published detectors propose with 512 channels."""
    monkeypatch.setattr(faster_rcnn_proposals, "HIDDEN_SIZE", RPN)


def published(kind: str, counters: bool = True) -> dict[str, torch.Tensor]:
    """A state dict as the ports save it, with random numbers."""
    generator = torch.Generator().manual_seed(0)
    made = {}

    def add(name, *shape):
        made[name] = (torch.rand(shape, generator=generator) - 0.5) * 0.4
        if name.endswith("running_var"):
            made[name] += 0.5

    def convolution(name, *shape):
        add(f"{name}.weight", *shape)
        for part in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.norm.{part}", shape[0])
        if counters:
            made[f"{name}.norm.num_batches_tracked"] = torch.tensor(7)

    convolution("backbone.stem.conv1", 64, 3, 7, 7)
    size = 64
    for stage, width, depth in zip(
        ("backbone.res2", "backbone.res3", "backbone.res4", "roi_heads.res5"), CHANNELS, LAYERS, strict=True
    ):
        for block in range(depth):
            name = f"{stage}.{block}"
            if block == 0:
                convolution(f"{name}.shortcut", 4 * width, size, 1, 1)
            convolution(f"{name}.conv1", width, size, 1, 1)
            convolution(f"{name}.conv2", width, width, 3, 3)
            convolution(f"{name}.conv3", 4 * width, width, 1, 1)
            size = 4 * width
    is_port = kind == "detectron2"
    rpn, head = "proposal_generator.rpn_head", "roi_heads.box_predictor"
    embedding, first, second = HEADS[kind]
    shapes = {
        f"{rpn}.conv": (RPN, 4 * CHANNELS[2], 3, 3),
        f"{rpn}.objectness_logits": (12 if is_port else 24, RPN, 1, 1),
        f"{rpn}.anchor_deltas": (48, RPN, 1, 1),
        f"{head}.cls_score": (LABELS + 1, size),
        f"{head}.bbox_pred": (4 * LABELS if is_port else 4 * (LABELS + 1), size),
        f"{head}.{first}": (size // 4, size + size // 8),
        f"{head}.{second}": (ATTRIBUTES + 1, size // 4),
    }
    for name, shape in shapes.items():
        add(f"{name}.weight", *shape)
        add(f"{name}.bias", shape[0])
    add(f"{head}.{embedding}.weight", LABELS + 1, size // 8)
    add("proposal_generator.anchor_generator.cell_anchors.0", 12, 4)
    return made


def saved(folder, kind, tensors, suffix):
    file = folder / f"detector{suffix}"
    if suffix == ".pkl":
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "Caffe", "matching_heuristics": True}))
    else:
        torch.save({"model": tensors, "iteration": 3} if kind == "milvlg" else tensors, file)
    return file


def vocabulary(folder, labels=LABELS):
    (folder / "objects_vocab.txt").write_text("\n".join(f"thing {index},object" for index in range(labels)) + "\n")
    (folder / "attributes_vocab.txt").write_text("red\ngray,grey\ntall\n")
    return folder / "objects_vocab.txt"


@pytest.mark.parametrize(
    ("kind", "suffix", "counters"),
    [("detectron2", ".bin", True), ("detectron2", ".pkl", False), ("milvlg", ".pth", False)],
)
@torch.no_grad()
def test_folder(tmp_path, kind, suffix, counters):
    """Everything arrives, anchors included; background first becomes background last."""
    tensors = published(kind, counters)
    folder = tmp_path / "converted"
    options = ConversionOptions(vocabulary=vocabulary(tmp_path))
    assert convert_checkpoint(saved(tmp_path, kind, tensors, suffix), folder, options) is KINDS[kind].KIND

    model = butd_hf.ButdRegionModel.from_pretrained(folder)
    config, bottom_up = model.config.bottom_up_config, model.bottom_up
    assert config.selector == "faster_rcnn_c4"
    assert config.variant == butd_hf.ButdImageProcessor.from_pretrained(folder).recipe
    assert config.variant == ("caffe" if kind == "milvlg" else "detectron2")
    limits = (config.min_regions, config.num_regions, config.score_threshold, config.nms_threshold)
    assert limits == ((10, 100, 0.2, 0.3) if kind == "milvlg" else (36, 36, 0.0, 0.5))
    assert config.id2label[2] == "thing 2,object" and config.id2attribute[1] == "gray,grey"
    anchors = tensors["proposal_generator.anchor_generator.cell_anchors.0"]
    assert torch.equal(bottom_up.selector.proposals.cell_anchors, anchors)
    objectness = tensors["proposal_generator.rpn_head.objectness_logits.weight"]
    assert torch.equal(bottom_up.selector.proposals.objectness.weight, objectness)
    assert torch.equal(bottom_up.backbone.layer2[1].conv2.weight, tensors["backbone.res3.1.conv2.weight"])
    norm = tensors["roi_heads.res5.0.shortcut.norm.running_var"]
    assert torch.equal(bottom_up.backbone.layer4[0].downsample[1].running_var, norm)

    # what the published head computes of a feature, in its own order
    head, feature = "roi_heads.box_predictor", torch.randn(2, bottom_up.region_size)
    embedding, first, second = HEADS[kind]
    scores = feature @ tensors[f"{head}.cls_score.weight"].T + tensors[f"{head}.cls_score.bias"]
    embedded = tensors[f"{head}.{embedding}.weight"][scores.argmax(dim=1)]
    hidden = torch.cat([feature, embedded], dim=1) @ tensors[f"{head}.{first}.weight"].T
    hidden = torch.relu(hidden + tensors[f"{head}.{first}.bias"])
    attributes = hidden @ tensors[f"{head}.{second}.weight"].T + tensors[f"{head}.{second}.bias"]
    deltas = feature @ tensors[f"{head}.bbox_pred.weight"].T + tensors[f"{head}.bbox_pred.bias"]
    things, rows = (slice(1, None), slice(4, None)) if kind == "milvlg" else (slice(None, -1), slice(None))
    background = 0 if kind == "milvlg" else -1
    found_scores, found_attributes = bottom_up.selector.head(feature)
    torch.testing.assert_close(found_scores[:, :-1], scores[:, things])
    torch.testing.assert_close(found_scores[:, -1], scores[:, background])
    torch.testing.assert_close(found_attributes[:, :-1], attributes[:, things])
    torch.testing.assert_close(found_attributes[:, -1], attributes[:, background])
    torch.testing.assert_close(bottom_up.selector.head.deltas(feature), deltas[:, rows])

    regions = model.eval()(torch.randn(1, 3, 64, 64))
    assert regions.mask.any()
    card = ModelCard.load(folder / "README.md")
    assert "ButdRegionModel" in card.text and card.data.pipeline_tag == "image-feature-extraction"
    assert str(tmp_path) not in card.text
    # as the bottom-up half of another model
    assert torch.equal(
        butd_hf.ButdModel.from_pretrained(folder).bottom_up.backbone.conv1.weight, bottom_up.backbone.conv1.weight
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_does_not_fit_is_listed(tmp_path, kind):
    tensors = published(kind)
    del tensors["backbone.res3.1.conv2.norm.bias"], tensors["proposal_generator.anchor_generator.cell_anchors.0"]
    tensors["roi_heads.box_predictor.bbox_pred.bias"] = torch.zeros(7)
    tensors["roi_heads.mask_head.weight"] = torch.zeros(2, 3)
    tensors["other.num_batches_tracked"] = torch.tensor(1)
    with pytest.raises(ConversionError) as refusal:
        convert_checkpoint(saved(tmp_path, kind, tensors, ".pth"), tmp_path / "converted")
    message = str(refusal.value)
    assert f"looks like {KINDS[kind].NAME}, but does not fit" in message
    for problem in (
        "missing: backbone.res3.1.conv2.norm.bias (4,)",
        "missing: proposal_generator.anchor_generator.cell_anchors.0 (12, 4)",
        f"misshapen: roi_heads.box_predictor.bbox_pred.bias (7,), expected ({24 if kind == 'milvlg' else 20},)",
        "not known: roi_heads.mask_head.weight (2, 3)",
        "not known: other.num_batches_tracked ()",
    ):
        assert problem in message
    assert message.count("\n") == 5
    assert not (tmp_path / "converted").exists()


def test_a_vocabulary_of_another_length_is_refused(tmp_path):
    file = saved(tmp_path, "milvlg", published("milvlg"), ".pth")
    options = ConversionOptions(vocabulary=vocabulary(tmp_path, labels=4))
    with pytest.raises(ConversionError, match=r"objects_vocab\.txt has 4 lines, the checkpoint tells 5 apart"):
        convert_checkpoint(file, tmp_path / "converted", options)


def test_without_vocabulary_and_without_attributes(tmp_path):
    tensors = published("detectron2")
    tensors = {name: tensor for name, tensor in tensors.items() if "attr" not in name and "embedding" not in name}
    convert_checkpoint(saved(tmp_path, "detectron2", tensors, ".pth"), tmp_path / "converted")
    config = ButdConfig.from_pretrained(tmp_path / "converted").bottom_up_config
    assert config.id2label[4] == "LABEL_4" and config.num_region_attributes == 0


def test_published_sizes():
    """The file of `unc-nlp/frcnn-vg-finetuned` has 640 tensors, a counter of each batch norm included."""
    for module, variant in ((faster_rcnn_detectron2, "detectron2"), (faster_rcnn_milvlg, "caffe")):
        config = ButdConfig(
            bottom_up_config={"selector": "faster_rcnn_c4", "backbone": "resnet101", "variant": variant}
        )
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in ButdRegionModel(config).state_dict().items()}
        names = {published_name(name, module.HEADS): name for name in shapes}
        assert len(names) == len(shapes) == 536
        assert len(names) + sum(name.endswith(".running_var") for name in names) == 640
        assert shapes[names["proposal_generator.rpn_head.objectness_logits.bias"]] == (
            12 if variant != "caffe" else 24,
        )
        deltas = names["roi_heads.box_predictor.bbox_pred.weight"]
        assert shapes[deltas] == (6400, 2048)
        assert faster_rcnn_milvlg.shapes(deltas, shapes[deltas]) == (6404, 2048)
        assert "backbone.res4.22.conv3.norm.running_mean" in names and "roi_heads.res5.2.conv2.weight" in names


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "trapped"), "w")

    (tmp_path / "detector.pkl").write_bytes(
        pickle.dumps({"model": {"roi_heads.box_predictor.cls_score.weight": Trap()}})
    )
    with pytest.raises(ConversionError, match="only plain data"):
        convert_checkpoint(tmp_path / "detector.pkl", tmp_path / "converted")
    assert not (tmp_path / "trapped").exists()
