# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
from datasets import Dataset

from butd_hf.training.captioning import CaptionDataset


@pytest.fixture
def table(image_paths, tmp_path):
    """Three pictures, the second of them broken."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    paths = [image_paths[0], str(broken), image_paths[2]]
    return Dataset.from_dict({"image": paths, "image_id": ["0", "1", "2"], "captions": [["a"], ["b"], ["c"]]})


def test_a_broken_picture_is_named_counted_and_replaced(table, caplog):
    data = CaptionDataset(table, strict=False)
    with caplog.at_level(logging.WARNING):
        examples = [data[index] for index in (0, 1, 1, 2)]
    assert [example.index for example in examples] == [0, 2, 2, 2]
    assert examples[1].captions == ["c"]
    (warning,) = caplog.messages  # once
    assert "broken.png" in warning and "the 1. so far" in warning and data.broken.keys == {1}


def test_a_broken_picture_stops_a_strict_run(table):
    with pytest.raises(OSError, match=r"broken.png.* passed over without --strict"):
        CaptionDataset(table)[1]
    with pytest.raises(OSError, match="None of the 1 samples can be read"):
        CaptionDataset(table.select([1]), strict=False)[0]


def test_a_processor_of_another_model_is_refused(tiny_checkpoint, table):
    import butd_hf
    from butd_hf.training.captioning import CaptioningTask

    model = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint)
    processor.tokenizer.add_tokens([f"word{index}" for index in range(50)])
    data = CaptionDataset(table)
    with pytest.raises(ValueError, match=r"processor has \d+ tokens, the model \d+"):
        CaptioningTask(model, processor, data, data)
