# SPDX-License-Identifier: Apache-2.0
"""Weights in 8 bits by torchao, where it is installed, in every task."""

import pytest
import torch
from torch import nn
from transformers import TorchAoConfig

import butd_hf
from butd_hf.modeling.top_down.detection import weight_of


WORDS = {"input_ids": torch.tensor([[1, 5, 6], [1, 7, 8]])}
BOXES = {"region_boxes": torch.tensor([[[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.9, 0.9]]]).repeat(2, 1, 1)}
TASKS = {
    "ButdForConditionalGeneration": ("tiny_checkpoint", WORDS),
    "ButdForQuestionAnswering": ("tiny_oracle", WORDS),
    "ButdForSceneGraphGeneration": ("tiny_grapher", BOXES),
}


def assert_stays_close(name, folder, given, tmp_path):
    int8 = pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig()
    model_class, inputs = getattr(butd_hf, name), {"pixel_values": torch.rand(2, 3, 64, 64), **given}
    model = model_class.from_pretrained(folder, quantization_config=TorchAoConfig(int8)).eval()
    assert sum(type(parameter) is not nn.Parameter for parameter in model.parameters()) >= 10
    with torch.no_grad():
        logits, expected = model(**inputs).logits, model_class.from_pretrained(folder).eval()(**inputs).logits
        assert not torch.equal(logits, expected) and (logits - expected).norm() < 0.05 * expected.norm()
        if given is WORDS:
            model.save_pretrained(tmp_path)
            again = model_class.from_pretrained(tmp_path).eval()(**inputs).logits
            torch.testing.assert_close(again, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_words_and_graphs_stay_close(request, name, tmp_path):
    fixture, given = TASKS[name]
    assert_stays_close(name, request.getfixturevalue(fixture), given, tmp_path)


def test_objects_stay_close(tiny_detector, tmp_path):
    segments = tiny_detector.endswith("segmentation")
    name = "ButdForInstanceSegmentation" if segments else "ButdForObjectDetection"
    assert_stays_close(name, tiny_detector, BOXES, tmp_path)


class Opaque(torch.Tensor):
    """A weight that layers can use but nobody can read, as those of quantised layers are."""


def test_the_weight_of_a_quantized_layer_is_what_it_does():
    linear = nn.Linear(5, 3, bias=False)
    plain = weight_of(linear)
    assert plain is linear.weight
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Opaque))
    assert type(linear.weight) is Opaque
    torch.testing.assert_close(weight_of(linear).as_subclass(torch.Tensor), plain.detach())
