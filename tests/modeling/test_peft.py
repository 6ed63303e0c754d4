# SPDX-License-Identifier: Apache-2.0
"""Adapters of PEFT on the decoder and on the backbone."""

import pytest
import torch

import butd_hf


peft = pytest.importorskip("peft")

TARGETS = {
    "decoder": r".*top_down\..*(q_proj|v_proj|fc1|up_proj)",
    "backbone": r".*bottom_up\.backbone\..*(conv_pw|conv_pwl|conv_exp)",
}


def pixels():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(tiny_checkpoint):
    return butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize("part", TARGETS)
def test_an_adapter_learns_is_merged_and_saved(model, part, tmp_path):
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TARGETS[part]))
    learning = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    half = {"decoder": "top_down", "backbone": "bottom_up.backbone"}[part]
    assert learning and all("lora_" in name and half in name for name in learning)

    tokens = torch.randint(4, 20, (2, 6))
    adapted.eval()  # nothing is left out at random, so that the loss must fall
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.01)
    losses = []
    for _ in range(4):
        loss = adapted(pixel_values=pixels(), labels=tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]

    inputs = {"pixel_values": pixels(), "input_ids": tokens}
    with torch.no_grad():
        expected = adapted(**inputs).logits
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = butd_hf.ButdForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, expected, atol=1e-3, rtol=1e-3)
