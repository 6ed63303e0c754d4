# SPDX-License-Identifier: Apache-2.0
"""Tiny models of every task with random weights."""

import pytest
import torch

import butd_hf


@pytest.fixture(scope="session")
def tiny():
    """Function that builds a model of a class of `butd_hf` in eval mode, always with the same weights.

    It takes changes of the halves of the config, as dictionaries, and other fields of it.
    """

    def build(name: str, bottom_up: dict | None = None, top_down: dict | None = None, **fields):
        torch.manual_seed(0)
        bottom_up_config = {
            "backbone": "test_efficientnet",
            "num_regions": 6,
            "min_regions": 4,
            "fpn_size": 16,
            "region_head_size": 16,
            **(bottom_up or {}),
        }
        top_down_config = {
            "vocab_size": 50,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 32,
            "attention_size": 16,
            "max_position_embeddings": 16,
            "initializer_range": 0.3,  # far enough from zero for outputs that differ
            **(top_down or {}),
        }
        fields = {"num_labels": 5, "num_predicates": 4, **fields}
        config = butd_hf.ButdConfig(bottom_up_config=bottom_up_config, top_down_config=top_down_config, **fields)
        return getattr(butd_hf, name)(config).eval()

    return build
