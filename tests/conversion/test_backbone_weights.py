# SPDX-License-Identifier: Apache-2.0
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file
from transformers import TimmBackbone, TimmBackboneConfig

from butd_hf.conversion.backbone_weights import BackboneWeightsError, load_backbone_weights


NAME = "test_efficientnet"


@pytest.fixture
def classifier():
    """A whole classifier with weights and statistics unlike any fresh one's."""
    torch.manual_seed(7)
    model = timm.create_model(NAME)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(torch.rand_like(value))
    return model


def backbone(frozen_norms=True):
    return TimmBackbone(TimmBackboneConfig(backbone=NAME, freeze_batch_norm_2d=frozen_norms))


def assert_loaded(model, classifier):
    weights = classifier.state_dict()
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, weights[key.removeprefix("_backbone.")]), key


@pytest.mark.parametrize("frozen_norms", [False, True])
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_by_name(tmp_path, classifier, prefix, frozen_norms):
    file = tmp_path / "weights.safetensors"
    save_file({prefix + key: value for key, value in classifier.state_dict().items()}, file)
    model = backbone(frozen_norms)
    assert load_backbone_weights(model, file).endswith("matched by name")
    assert_loaded(model, classifier)


def test_by_order_from_another_implementation(tmp_path, classifier):
    renamed = {
        f"layer{place}.{key.rpartition('.')[2]}": value
        for place, (key, value) in enumerate(classifier.state_dict().items())
    }
    torch.save({"state_dict": renamed}, tmp_path / "weights.pth")
    model = backbone()
    assert load_backbone_weights(model, tmp_path / "weights.pth").endswith("matched by order")
    assert_loaded(model, classifier)


def test_from_a_package_without_running_it(tmp_path, classifier, monkeypatch):
    package = tmp_path / "some_weights_package"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save(classifier.state_dict(), package / "files" / "weights.pth")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    model = backbone()
    load_backbone_weights(model, "some_weights_package")
    assert_loaded(model, classifier)
    torch.save({}, package / "other.pth")
    with pytest.raises(BackboneWeightsError, match="exactly one weights file"):
        load_backbone_weights(model, "some_weights_package")


def test_what_does_not_fit_is_named(tmp_path, classifier):
    model = backbone()
    weights = classifier.state_dict()
    torch.save({f"x{key}": value for key, value in list(weights.items())[:5]}, tmp_path / "few.pth")
    with pytest.raises(BackboneWeightsError, match="has 5 tensors, the backbone needs"):
        load_backbone_weights(model, tmp_path / "few.pth")
    torch.save({f"x{key}": value.new_zeros(3, *value.shape) for key, value in weights.items()}, tmp_path / "wide.pth")
    with pytest.raises(BackboneWeightsError, match=r"xconv_stem.weight \(3, .* came where conv_stem.weight"):
        load_backbone_weights(model, tmp_path / "wide.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BackboneWeightsError, match="no state dict"):
        load_backbone_weights(model, tmp_path / "list.pth")
    with pytest.raises(BackboneWeightsError, match="No file and no installed package 'nowhere'"):
        load_backbone_weights(model, "nowhere")
