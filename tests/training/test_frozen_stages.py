# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import timm
import torch
from transformers import TimmBackbone, TimmBackboneConfig

from butd_hf.data.region_rows import StoredRegions
from butd_hf.training.frozen_stages import FrozenStages, cells_to_map, collate_cells


SEQUENCES = ("test_efficientnet", "test_resnet", "test_convnext")


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_rest_of_the_backbone_goes_on_from_stored_cells(name, stages, images):
    torch.manual_seed(0)
    backbone = TimmBackbone(TimmBackboneConfig(backbone=name, out_indices=[-1])).eval()
    expected = backbone(images).feature_maps[-1]
    weights = {key: value.clone() for key, value in backbone.state_dict().items()}

    frozen = FrozenStages(backbone, stages)
    cells = frozen(images)
    stored = [
        StoredRegions(features.detach().numpy(), boxes.numpy(), saliency.numpy(), mask.numpy())
        for features, boxes, saliency, mask in zip(
            cells.features, cells.boxes, cells.saliency, cells.mask, strict=True
        )
    ]
    frozen.skip(backbone, images)
    for model in (backbone, copy.deepcopy(backbone)):  # averages of weights are copies
        found = model(**collate_cells(stored)).feature_maps[-1]
        assert torch.allclose(found, expected, atol=1e-5)
    assert all(torch.equal(value, weights[key]) for key, value in backbone.state_dict().items())


def test_cells_lie_in_reading_order(images):
    backbone = timm.create_model("test_resnet", features_only=True, out_indices=(-1,)).eval()
    cells = FrozenStages(backbone, 3)(images)
    assert cells.boxes.shape == (2, 8 * 12, 4)
    assert cells.boxes[0, 1].tolist() == pytest.approx([1 / 12, 0, 2 / 12, 1 / 8])
    features = cells_to_map(cells.features.contiguous(), cells.boxes)
    assert features.shape[-2:] == (8, 12)
    assert torch.equal(features[:, :, 0, 1], cells.features[:, 1])
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_a_backbone_that_is_no_sequence_of_stages_is_refused():
    vit = timm.create_model("test_vit", features_only=True, out_indices=(-1,), dynamic_img_size=True)
    with pytest.raises(ValueError, match="can't be run apart"):
        FrozenStages(vit, 1)


def test_maps_of_skipped_stages_are_missed(images):
    backbone = timm.create_model("test_resnet", features_only=True, out_indices=(1, -1))
    with pytest.raises(ValueError, match="returns their maps"):
        FrozenStages(backbone, 3).skip(backbone, images)


def test_too_many_stages():
    backbone = timm.create_model("test_resnet", features_only=True)
    with pytest.raises(ValueError, match="stages must be 1 to 5 for this backbone, got 6"):
        FrozenStages(backbone, 6)
