# SPDX-License-Identifier: Apache-2.0
"""Images that nobody takes and somebody sends, through the pipeline with the embedded default."""

import PIL.Image
import pytest
from transformers import pipeline

import butd_hf


@pytest.fixture(scope="module")
def captioner():
    return pipeline("image-to-text", model=butd_hf.default_checkpoint("image-to-text"))


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (300, 200)], ids=str)
def test_images_without_anything_in_them_get_a_caption(captioner, size, tmp_path):
    PIL.Image.new("RGB", size, "white").save(tmp_path / "odd.png")
    assert captioner(str(tmp_path / "odd.png"))[0]["generated_text"].strip()


@pytest.mark.parametrize("kind", ["truncated", "text"])
def test_what_cannot_be_read_is_named(captioner, kind, tmp_path, image_paths):
    good, bad = image_paths[0], tmp_path / f"{kind}.png"
    with open(good, "rb") as opened:
        bad.write_bytes(opened.read()[:200] if kind == "truncated" else b"this is not an image")
    with pytest.raises(ValueError, match=rf"{kind}\.png"):
        captioner(str(bad))
    with pytest.raises(ValueError, match=rf"{kind}\.png"):
        captioner([good, str(bad)], batch_size=2)
