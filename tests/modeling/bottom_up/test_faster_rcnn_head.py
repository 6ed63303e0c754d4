# SPDX-License-Identifier: Apache-2.0
import torch

from butd_hf.modeling.bottom_up.faster_rcnn import ButdFasterRcnnHead
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig


def head(**kwargs) -> ButdFasterRcnnHead:
    kwargs = {"num_region_labels": 5, "num_region_attributes": 3, **kwargs}
    return ButdFasterRcnnHead(ButdBottomUpConfig(selector="faster_rcnn_c4", **kwargs), region_size=32)


@torch.no_grad()
def test_attributes_follow_the_likeliest_class():
    model, features = head(), torch.randn(4, 32)
    model.class_embedding.weight.mul_(10)
    class_logits, attribute_logits = model(features)
    assert class_logits.shape == (4, 6) and attribute_logits.shape == (4, 4)
    state = model.state_dict()
    for feature, classes, attributes in zip(features, class_logits, attribute_logits, strict=True):
        scores = state["classifier.weight"] @ feature + state["classifier.bias"]
        torch.testing.assert_close(classes, scores, atol=1e-5, rtol=1e-5)
        joined = torch.cat([feature, state["class_embedding.weight"][scores.argmax()]])
        hidden = (state["attribute_proj.weight"] @ joined + state["attribute_proj.bias"]).clamp(min=0)
        expected = state["attribute_classifier.weight"] @ hidden + state["attribute_classifier.bias"]
        torch.testing.assert_close(attributes, expected, atol=1e-5, rtol=1e-5)


def test_without_attributes():
    model = head(num_region_attributes=0)
    assert model(torch.randn(2, 32))[1] is None
    assert not any("attribute" in name or "embedding" in name for name in model.state_dict())
