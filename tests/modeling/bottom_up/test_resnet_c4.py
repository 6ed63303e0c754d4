# SPDX-License-Identifier: Apache-2.0
"""The published ResNet against a transcription of it, layer by layer, while its own is folded and undilated."""

import math

import pytest
import torch
import torch.nn.functional as F

from butd_hf.modeling.bottom_up.resnet_c4 import ButdResnetC4
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig


def tiny() -> ButdResnetC4:
    kwargs = {"backbone": "resnet50", "backbone_kwargs": {"layers": [1, 2, 1, 2], "channels": [4, 8, 8, 16]}}
    config = ButdBottomUpConfig(selector="faster_rcnn_c4", **kwargs)
    model = ButdResnetC4(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("running_mean") or name.endswith("bias"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith("running_var") or tensor.dim() == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.dim() == 4:
            deviation = math.sqrt(2 / tensor[0].numel())
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * deviation)
    return model


def normalised(state, name, values):
    """Batch norm with the statistics of training."""
    mean, variance, weight, bias = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (values - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def block(state, name, values, stride, dilation):
    """A bottleneck of 2015: the stride is in the first 1 x 1 convolution."""
    shortcut = values
    if f"{name}.downsample.0.weight" in state:
        shortcut = F.conv2d(values, state[f"{name}.downsample.0.weight"], stride=stride)
        shortcut = normalised(state, f"{name}.downsample.1", shortcut)
    values = F.relu(normalised(state, f"{name}.bn1", F.conv2d(values, state[f"{name}.conv1.weight"], stride=stride)))
    values = F.conv2d(values, state[f"{name}.conv2.weight"], padding=dilation, dilation=dilation)
    values = F.relu(normalised(state, f"{name}.bn2", values))
    values = normalised(state, f"{name}.bn3", F.conv2d(values, state[f"{name}.conv3.weight"]))
    return F.relu(values + shortcut)


def published_map(state, pixels):
    values = F.conv2d(pixels, state["conv1.weight"], stride=2, padding=3)
    values = F.relu(normalised(state, "bn1", values))
    # 3 x 3 windows at a stride of 2 without padding; the last one may be partial
    partial = [1 - side % 2 for side in values.shape[:1:-1]]
    values = F.max_pool2d(F.pad(values, (0, partial[0], 0, partial[1]), value=-torch.inf), 3, 2)
    values = block(state, "layer1.0", values, 1, 1)
    values = block(state, "layer2.0", values, 2, 1)
    values = block(state, "layer2.1", values, 1, 1)
    return block(state, "layer3.0", values, 2, 1)


def max_pooled(values, box):
    """RoI pooling: corners rounded to cells, the last cell included, the largest value of each of 14 x 14 bins."""
    x0, y0, x1, y1 = (math.floor(side / 16 + 0.5) for side in box)
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    pooled = torch.zeros(values.shape[1], 14, 14)
    for row in range(14):
        for column in range(14):
            top, bottom = (y0 + math.floor(row * height / 14), y0 + math.ceil((row + 1) * height / 14))
            left, right = (x0 + math.floor(column * width / 14), x0 + math.ceil((column + 1) * width / 14))
            top, bottom = (min(max(side, 0), values.shape[2]) for side in (top, bottom))
            left, right = (min(max(side, 0), values.shape[3]) for side in (left, right))
            if top < bottom and left < right:
                pooled[:, row, column] = values[0, :, top:bottom, left:right].amax(dim=(1, 2))
    return pooled


BOXES = torch.tensor(
    [[0.0, 0.0, 99.0, 77.0], [3.0, 5.0, 20.0, 70.0], [40.0, 33.0, 41.0, 34.0], [60.2, 10.7, 99.0, 50.1]]
)


@pytest.mark.parametrize("size", [(64, 64), (61, 67)])
@torch.no_grad()
def test_map(size):
    model = tiny()
    pixels = torch.randn(1, 3, *size)
    found = model(pixels).feature_maps[0]
    expected = published_map(model.state_dict(), pixels)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_regions_go_through_a_dilated_last_stage():
    model = tiny()
    feature_map = model(torch.randn(1, 3, 78, 100)).feature_maps[0]
    found = model.describe(feature_map, BOXES)
    assert found.shape == (4, model.channels[-1]) == (4, 64)
    pooled = torch.stack([max_pooled(feature_map, box) for box in BOXES.tolist()])
    state = model.state_dict()
    expected = block(state, "layer4.1", block(state, "layer4.0", pooled, 1, 2), 1, 2).mean(dim=(2, 3))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("depth", "blocks"), [(50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)), (152, (3, 8, 36, 3))])
def test_any_depth(depth, blocks):
    with torch.device("meta"):
        model = ButdResnetC4(ButdBottomUpConfig(selector="faster_rcnn_c4", backbone=f"resnet{depth}"))
    assert (len(model.layer1), len(model.layer2), len(model.layer3), len(model.layer4)) == blocks
    assert model.channels == [1024, 2048]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50d", "seresnet50", "test_efficientnet"])
def test_other_backbones_are_refused(backbone):
    with pytest.raises(ValueError, match=f"plain bottleneck blocks.* got '{backbone}'"), torch.device("meta"):
        ButdResnetC4(ButdBottomUpConfig(selector="faster_rcnn_c4", backbone=backbone))


def test_more_regions_than_are_computed_at_once_and_gradients():
    model = tiny().train()
    feature_map = model(torch.randn(1, 3, 78, 100)).feature_maps[0]
    described = model.describe(feature_map, BOXES.repeat(20, 1))
    torch.testing.assert_close(described, model.describe(feature_map, BOXES).repeat(20, 1), atol=1e-4, rtol=1e-5)
    described.sum().backward()
    assert model.conv1.weight.grad.abs().sum() > 0 and model.layer4[0].conv1.weight.grad.abs().sum() > 0
