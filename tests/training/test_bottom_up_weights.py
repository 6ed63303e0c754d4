# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration
from butd_hf.modeling.modeling_detection_butd import ButdForObjectDetection
from butd_hf.training.bottom_up_weights import load_bottom_up


def captioner_with(detector: str, **changes) -> ButdForConditionalGeneration:
    """A captioner with the bottom-up half of a detector's config."""
    bottom_up = {**ButdConfig.from_pretrained(detector).bottom_up_config.to_dict(), **changes}
    top_down = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return ButdForConditionalGeneration(ButdConfig(bottom_up_config=bottom_up, top_down_config=top_down))


@pytest.mark.parametrize("changes", [{}, {"selector": "grid"}, {"num_regions": 4, "min_regions": 1}])
def test_a_captioner_looks_with_a_detectors_eyes(tiny_detector, changes):
    model = captioner_with(tiny_detector, **changes)
    load_bottom_up(model, tiny_detector)
    source = ButdForObjectDetection.from_pretrained(tiny_detector).base_model.bottom_up.state_dict()
    for name, value in model.base_model.bottom_up.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, source[name].to(value.dtype)), name


def test_weights_of_another_shape_are_refused(tiny_detector):
    model = captioner_with(tiny_detector, region_head_size=40)
    with pytest.raises(ValueError, match=r"doesn't fit the selector 'rpn': \d+ of \d+ tensors"):
        load_bottom_up(model, tiny_detector)
