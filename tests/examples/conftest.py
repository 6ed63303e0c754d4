import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def caption_data(tmp_path_factory):
    """Six pictures of one colour each, four to learn from. Not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    lines = []
    for index, colour in enumerate(("red", "green", "blue", "red", "green", "blue")):
        pixels = np.random.default_rng(index).integers(0, 60, (48, 64, 3), dtype=np.uint8)
        pixels[..., index % 3] += 150
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        captions = [f"a {colour} picture", f"something {colour} on the left", f"all {colour}"]
        lines.append({"image": f"{index}.png", "split": "train" if index < 4 else "dev", "captions": captions})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
