# SPDX-License-Identifier: Apache-2.0
"""Names of the weights of the embedded checkpoints: renaming a module must not orphan anybody's weights."""

import hashlib
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoConfig

import butd_hf


# task -> number of keys, and the SHA-256 of the sorted keys, one a line
KEYS = {
    "image-segmentation": (493, "ea2757b0424795e7b3311246c28da72cf8311f2e2b9eee71a94f5a23b3fc9dd5"),
    "image-to-text": (424, "767002d4c82cb520d85b0eb04a77bc67aa29f0351c5c0756dbb819a18dd92534"),
    "object-detection": (469, "aea3e7ef01c5a5150e0437128715b472992dc93021a70b8ac564e9466800f9e8"),
    "scene-graph-generation": (411, "05d3ef5f8a9c6f9007a55a71625cd3396d8abc31422ea6bfb71bd928e62cbdc9"),
    "visual-question-answering": (379, "e61dad7af67613c3e02feb5fd878618cb46de07405cfc9640e2fc4f7899ae67a"),
}


@pytest.mark.parametrize("task", KEYS)
def test_names_of_weights_stay(task):
    folder = butd_hf.default_checkpoint(task)
    config = AutoConfig.from_pretrained(folder)
    (architecture,) = config.architectures
    model = getattr(butd_hf, architecture)(config)
    keys = sorted(model.state_dict())
    assert (len(keys), hashlib.sha256("\n".join(keys).encode()).hexdigest()) == KEYS[task]
    with safe_open(Path(folder, "model.safetensors"), "pt") as weights:
        missing = set(keys) - set(weights.keys()) - set(model.all_tied_weights_keys)
        assert not missing and not set(weights.keys()) - set(keys)
