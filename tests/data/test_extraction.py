# SPDX-License-Identifier: Apache-2.0
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import butd_hf
from butd_hf.data import extraction
from butd_hf.data.data_errors import BrokenSampleError
from butd_hf.data.extraction import extract_regions
from butd_hf.data.given_boxes import GivenBoxes
from butd_hf.data.region_rows import RegionStoreError
from butd_hf.data.region_store import RegionStore
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUpOutput
from butd_hf.modeling.regions import ButdRegions
from butd_hf.training.collators import collate_regions


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint).eval()


@pytest.fixture(scope="module")
def processor(tiny_checkpoint):
    return butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eleven images of three shapes, mixed."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(11):
        height, width = [(64, 96), (120, 60), (70, 70)][index % 3]
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        pairs.append((f"{index}.png", str(folder / f"{index}.png")))
    return pairs


def content(folder):
    """Every file of a store, in bytes."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


OPTIONS = {"batch_size": 2, "shard_size": 3, "dtype": "float32"}


@pytest.fixture(scope="module")
def whole(model, processor, images, tmp_path_factory):
    """A store that nobody interrupted."""
    path = tmp_path_factory.mktemp("whole") / "store"
    extract_regions(model, processor, images, path, **OPTIONS)
    return path


def test_a_stored_row_gives_the_logits_that_pixels_give(model, processor, images, whole):
    store = RegionStore.open(whole)
    tokens = torch.tensor([[1, 5, 7, 9]])
    for image_id, path in images:
        with torch.no_grad():
            inputs = processor(images=path, return_tensors="pt")
            expected = model(**inputs, input_ids=tokens)
            found = model(**collate_regions([store[image_id]]), input_ids=tokens)
        assert torch.allclose(found.logits, expected.logits, atol=1e-4)
        assert (store[image_id].width, store[image_id].height) == Image.open(path).size
    assert model.generate(**collate_regions([store["0.png"]]), max_new_tokens=4).shape[1] > 2


def test_batches_are_of_near_shapes_and_independent_of_other_shards(images):
    alone = extraction.ShardBatches(images, 1, 6, 2, [1])
    among = list(extraction.ShardBatches(images, 1, 6, 2, [0, 1]))
    assert among[-3:] == list(alone)
    assert [place % 3 for batch in among[:3] for place, _ in batch] == [1, 1, 2, 2, 0, 0]  # narrow, square, wide


STAGES = {
    "in a shard": ("encode_row", 7),
    "before a report": ("write_json", 4),
    "before the description": ("describe_store", 1),
    "before the renaming": ("move_store", 1),
}


def killed(model, processor, images, path, stage):
    """What a process does that is killed at a stage."""
    name, calls = STAGES[stage]
    original, left = getattr(extraction, name), [calls]

    def dies(*arguments):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(extraction, name, dies)
    torch.set_num_threads(1)
    extract_regions(model, processor, images, path, **OPTIONS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_extraction_goes_on_and_gives_the_same_bytes(
    model, processor, images, whole, tmp_path, stage, monkeypatch
):
    path = tmp_path / "store"
    process = multiprocessing.get_context("fork").Process(target=killed, args=(model, processor, images, path, stage))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    done = len(list((tmp_path / "store.unfinished").glob("regions-*.arrow")))
    calls, forward = [], extraction.forward
    monkeypatch.setattr(extraction, "forward", lambda *arguments: calls.append(1) or forward(*arguments))
    extract_regions(model, processor, images, path, **OPTIONS)
    assert content(path) == content(whole)
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    if stage == "before a report":
        assert done == 3 and len(calls) == 7 - 4  # a shard with a report is not extracted again
    elif stage != "in a shard":
        assert done == 4 and not calls


def test_the_unfinished_is_begun_anew_where_anything_changed(model, processor, images, whole, tmp_path, monkeypatch):
    path = tmp_path / "store"

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "finish", fails)
    with pytest.raises(KeyboardInterrupt):
        extract_regions(model, processor, images[:6], path, **OPTIONS)
    with pytest.raises(RegionStoreError, match="unfinished extraction of other images"):
        extract_regions(model, processor, images, path, overwrite=False, **OPTIONS)
    monkeypatch.undo()
    extract_regions(model, processor, images, path, num_workers=1, **OPTIONS)  # loader processes change nothing
    assert content(path) == content(whole)
    with pytest.raises(RegionStoreError, match="is a store of other images or another model"):
        extract_regions(model, processor, images[:2], path, overwrite=False, **OPTIONS)


def test_images_that_cannot_be_read_are_named_and_left_out(model, processor, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(images[0][1]).read_bytes()[:200])
    mixed = [images[0], ("broken.png", str(broken)), *images[1:3], ("missing.png", str(tmp_path / "missing.png"))]
    with pytest.raises(OSError, match=r"broken\.png"):
        extract_regions(model, processor, mixed, tmp_path / "strict", **OPTIONS)
    store = extract_regions(model, processor, mixed, tmp_path / "store", strict=False, **OPTIONS)
    assert [one["image_id"] for one in store.skipped] == ["broken.png", "missing.png"]
    assert len(store) == 3 and "broken.png" not in store and "2.png" in store
    with pytest.raises(BrokenSampleError, match=r"No regions of image 'broken\.png': Cannot read image"):
        store["broken.png"]  # which training passes over
    with pytest.raises(OSError, match="lacks 2 images"):
        extract_regions(model, processor, mixed, tmp_path / "store", **OPTIONS)
    only = extract_regions(model, processor, mixed[1:2], tmp_path / "only", strict=False, **OPTIONS)
    assert len(only) == 0 and len(only.skipped) == 1
    assert list(only.stream()) == [] and only.dataset().num_rows == 0


@pytest.mark.parametrize("box_format", ["xywh", "relative"])
def test_given_boxes_are_described_exactly(model, processor, images, tmp_path, box_format):
    boxes = {"0.png": [[0, 0, 96, 64], [10, 20, 30, 40]], "1.png": [[5, 5, 25, 110]], "2.png": []}
    sizes = {"0.png": (96, 64), "1.png": (60, 120), "2.png": (70, 70)}
    written = {}
    for image_id, each in boxes.items():
        width, height = sizes[image_id]
        written[image_id] = [
            {
                "xyxy": [x0, y0, x1, y1],
                "xywh": [x0, y0, x1 - x0, y1 - y0],
                "relative": [x0 / width, y0 / height, x1 / width, y1 / height],
            }[box_format]
            for x0, y0, x1, y1 in each
        ]
    file = tmp_path / "boxes.jsonl"
    file.write_text("".join(json.dumps({"image_id": key, "boxes": value}) + "\n" for key, value in written.items()))
    given = GivenBoxes(file, box_format)
    store = extract_regions(model, processor, images[:3], tmp_path / "store", boxes=given, **OPTIONS)
    for image_id, path in images[:3]:
        regions = store[image_id]
        pixels = np.array(boxes[image_id], np.float32).reshape(-1, 4)
        assert np.allclose(regions.boxes * np.tile(sizes[image_id], 2), pixels, atol=1e-4)
        if len(pixels):
            inputs = processor(images=path, return_tensors="pt")
            with torch.no_grad():
                placed = torch.from_numpy(regions.boxes.copy())[None]
                expected = model.model.bottom_up(**inputs, region_boxes=placed).regions
            assert np.allclose(regions.features, expected.features[0].numpy(), atol=1e-5)
    with pytest.raises(ValueError, match=r"no boxes of 1 of 4 images, such as '3\.png'"):
        extract_regions(model, processor, images[:4], tmp_path / "other", boxes=given, **OPTIONS)


def test_the_published_detector_gets_the_scale(tmp_path, images):
    """Of proposals it drops those that are small in the image as it came; the processor says how large that was."""
    processor = butd_hf.ButdImageProcessor.from_recipe("caffe", size={"shortest_edge": 64, "longest_edge": 100})
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, pixel_values, pixel_mask=None, image_scale=None):
            seen.extend(image_scale.tolist())
            shape = (len(pixel_values), 2)
            regions = ButdRegions(
                features=torch.ones(*shape, 3),
                boxes=torch.zeros(*shape, 4),
                saliency=torch.ones(shape),
                mask=torch.ones(shape, dtype=torch.bool),
                class_logits=torch.tensor([0.0, 2.0]).expand(*shape, 2),
            )
            return ButdBottomUpOutput(regions)

    store = extract_regions(Watched(), processor, images[:2], tmp_path / "store", **OPTIONS)
    assert sorted(seen) == pytest.approx([100 / 120, 1.0])
    assert store["0.png"].labels.tolist() == [1, 1] and store["0.png"].attributes is None
    assert store["0.png"].label_scores == pytest.approx([0.8808, 0.8808], abs=1e-4)
