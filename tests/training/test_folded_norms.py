# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from torch import nn
from transformers import TimmBackbone, TimmBackboneConfig

from butd_hf.training.folded_norms import fold_frozen_norms


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def frozen_backbone(name: str) -> TimmBackbone:
    """A backbone whose frozen norms have seen something."""
    torch.manual_seed(0)
    backbone = TimmBackbone(TimmBackboneConfig(backbone=name, out_indices=[1, 2, 3], freeze_batch_norm_2d=True))
    for buffer_name, buffer in backbone.named_buffers():
        if "running_var" in buffer_name:
            buffer.uniform_(0.5, 2.0)
        elif "running_mean" in buffer_name:
            buffer.normal_()
    return backbone


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_the_backbone_gives_and_learns_the_same(name, images):
    plain = frozen_backbone(name)
    folded = copy.deepcopy(plain)
    assert fold_frozen_norms(folded, images) > 0
    assert folded.state_dict().keys() == plain.state_dict().keys()
    for model in (plain, folded, copy.deepcopy(folded)):  # averages of weights are copies
        model.zero_grad()
        model.outputs = model(images).feature_maps
        sum(feature_map.square().mean() for feature_map in model.outputs).backward()
        for found, expected in zip(model.outputs, plain.outputs, strict=True):
            assert torch.allclose(found, expected, atol=1e-4, rtol=1e-3)
        for (parameter_name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
            if expected.grad is None:  # of what lies behind the last map
                assert parameter.grad is None
                continue
            assert torch.allclose(parameter.grad, expected.grad, atol=1e-4, rtol=1e-2), parameter_name


def test_a_copy_uses_its_own_weights(images):
    backbone = frozen_backbone("test_efficientnet")
    fold_frozen_norms(backbone, images)
    other = copy.deepcopy(backbone)
    before = backbone(images).feature_maps[-1]
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(backbone(images).feature_maps[-1], before)
    assert not torch.allclose(other(images).feature_maps[-1], before)


def test_nothing_is_folded_where_neighbours_do_not_follow_each_other(images):
    class Backbone(nn.Module):
        """A norm beside a convolution, both of which see the image."""

        def __init__(self):
            super().__init__()
            donor = frozen_backbone("test_resnet")
            norms = [m for m in donor.modules() if "Frozen" in type(m).__name__ and len(m.running_mean) == 32]
            self.conv = nn.Conv2d(3, 32, 1)
            self.norm = norms[0]

        def forward(self, pixel_values):
            maps = [self.conv(pixel_values), self.norm(pixel_values.mean(dim=1, keepdim=True).expand(-1, 32, -1, -1))]
            return type("Output", (), {"feature_maps": maps})

    backbone = Backbone()
    before = [each.clone() for each in backbone(images).feature_maps]
    assert fold_frozen_norms(backbone, images) == 0
    assert all(torch.equal(*pair) for pair in zip(backbone(images).feature_maps, before, strict=True))


def test_norms_that_learn_stay(images):
    backbone = TimmBackbone(TimmBackboneConfig(backbone="test_resnet", out_indices=[-1]))
    assert fold_frozen_norms(backbone, images) == 0
