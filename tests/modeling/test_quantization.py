# SPDX-License-Identifier: Apache-2.0
"""Weights in 8 bits by torchao, where it is installed, in every task."""

import pytest
import torch
from torch import nn
from transformers import TorchAoConfig

import butd_hf
from butd_hf.modeling.top_down.detection import weight_of


def quantized(model_class, folder, config):
    """A checkpoint with its linear layers in few bits, and how many of them are."""
    model = model_class.from_pretrained(folder, quantization_config=TorchAoConfig(config)).eval()
    return model, sum(type(parameter) is not nn.Parameter for parameter in model.parameters())


@pytest.fixture
def int8():
    return pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig()


def assert_close(outputs, expected):
    """Up to what 8 bits leave out."""
    assert not torch.equal(outputs, expected)
    assert (outputs - expected).norm() < 0.05 * expected.norm()


@pytest.fixture
def pixels():
    return {"pixel_values": torch.rand(2, 3, 64, 64)}


@pytest.mark.parametrize("task", ["captioning", "question answering"])
def test_words_stay_close(int8, pixels, tiny_checkpoint, tiny_oracle, task, tmp_path):
    model_class, folder = {
        "captioning": (butd_hf.ButdForConditionalGeneration, tiny_checkpoint),
        "question answering": (butd_hf.ButdForQuestionAnswering, tiny_oracle),
    }[task]
    model, count = quantized(model_class, folder, int8)
    assert count >= 10
    inputs = {**pixels, "input_ids": torch.tensor([[1, 5, 6], [1, 7, 8]])}
    with torch.no_grad():
        logits = model(**inputs).logits
        assert_close(logits, model_class.from_pretrained(folder).eval()(**inputs).logits)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = model_class.from_pretrained(tmp_path).eval()(**inputs).logits
    torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


def test_objects_stay_close(int8, pixels, tiny_detector):
    segments = tiny_detector.endswith("segmentation")
    model_class = butd_hf.ButdForInstanceSegmentation if segments else butd_hf.ButdForObjectDetection
    model, count = quantized(model_class, tiny_detector, int8)
    assert count >= 10
    given = {"region_boxes": torch.tensor([[[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]]).repeat(2, 1, 1)}
    with torch.no_grad():
        outputs, expected = (
            model(**pixels, **given),
            model_class.from_pretrained(tiny_detector).eval()(**pixels, **given),
        )
    assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.pred_boxes, expected.pred_boxes, atol=0.01, rtol=0)


def test_graphs_stay_close(int8, pixels, tiny_grapher):
    model, count = quantized(butd_hf.ButdForSceneGraphGeneration, tiny_grapher, int8)
    assert count >= 10
    given = {"region_boxes": torch.tensor([[[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]]).repeat(2, 1, 1)}
    with torch.no_grad():
        expected = butd_hf.ButdForSceneGraphGeneration.from_pretrained(tiny_grapher).eval()(**pixels, **given)
        assert_close(model(**pixels, **given).logits, expected.logits)


class Opaque(torch.Tensor):
    """A weight that layers can use but nobody can read, as those of quantised layers are."""


def test_the_weight_of_a_quantized_layer_is_what_it_does():
    linear = nn.Linear(5, 3, bias=False)
    plain = weight_of(linear)
    assert plain is linear.weight
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Opaque))
    assert type(linear.weight) is Opaque
    torch.testing.assert_close(weight_of(linear).as_subclass(torch.Tensor), plain.detach())
