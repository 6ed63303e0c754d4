# SPDX-License-Identifier: Apache-2.0
import json
import multiprocessing
import pickle
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from butd_hf.data.extraction import extract_regions
from butd_hf.data.region_rows import DuplicateImageError, RegionStoreError, StoredRegions, decode_row
from butd_hf.data.region_store import STORE_FILE, RegionStore
from butd_hf.data.region_writing import RegionStoreWriter
from butd_hf.modeling.bottom_up.bottom_up import ButdBottomUpOutput
from butd_hf.modeling.configuration_butd import ButdBottomUpConfig
from butd_hf.modeling.regions import ButdRegions


class GridProcessor:
    """Pixels in [0, 1], all of one size."""

    def __init__(self, scale=255.0):
        self.scale = scale
        self.calls = 0

    def __call__(self, images, return_tensors):
        self.calls += 1
        pixels = np.stack([np.asarray(image, dtype=np.float32) / self.scale for image in images])
        return {"pixel_values": torch.from_numpy(pixels).permute(0, 3, 1, 2)}

    def to_dict(self):
        return {"scale": self.scale}


class TinyBottomUp(nn.Module):
    """Columns of the image as regions, of which the last is missing where the first pixel is dark."""

    def __init__(self):
        super().__init__()
        self.config = ButdBottomUpConfig(backbone="test_efficientnet")
        self.proj = nn.Conv2d(3, 5, 1)

    def forward(self, pixel_values):
        features = self.proj(pixel_values).mean(dim=2).transpose(1, 2)  # (batch_size, width, 5)
        batch_size, width, _ = features.shape
        mask = torch.ones(batch_size, width, dtype=torch.bool)
        mask[:, -1] = pixel_values[:, 0, 0, 0] > 0.5
        boxes = torch.rand(batch_size, width, 4)
        saliency = torch.ones(batch_size, width)
        return ButdBottomUpOutput(ButdRegions(features=features, boxes=boxes, saliency=saliency, mask=mask))


@pytest.fixture
def bottom_up():
    torch.manual_seed(0)
    return TinyBottomUp()


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (6, 4, 3), dtype=np.uint8)).save(path)
        pairs.append((f"image-{index}", str(path)))
    return pairs


def test_stored_regions_are_those_of_the_model(bottom_up, images, tmp_path):
    processor = GridProcessor()
    store = extract_regions(
        bottom_up, processor, images, tmp_path / "store", views=("identity", "flip"), batch_size=3, dtype="float32"
    )
    assert len(store) == 10
    assert store.views == ("identity", "flip")
    for image_id, path in images:
        for view, change in (("identity", lambda image: image), ("flip", ImageOps.mirror)):
            with torch.no_grad():
                expected = bottom_up(**processor([change(Image.open(path))], return_tensors="pt")).regions
            stored = store[image_id, view]
            kept = expected.mask[0].numpy()
            assert stored.mask.all() and len(stored.mask) == kept.sum()  # rows without a region are dropped
            assert np.allclose(stored.features, expected.features[0].numpy()[kept], atol=1e-6)
            assert stored.boxes.shape == (kept.sum(), 4)
    assert not (tmp_path / "store.unfinished").exists()


def test_a_current_store_is_used_and_a_stale_one_replaced(bottom_up, images, tmp_path):
    path = tmp_path / "store"

    def calls(processor, **changes):
        extract_regions(bottom_up, processor, changes.pop("images", images), path, batch_size=8, **changes)
        return processor.calls

    assert calls(GridProcessor()) == 1
    assert calls(GridProcessor()) == 0
    assert calls(GridProcessor(scale=200.0)) == 1  # another image processor
    assert calls(GridProcessor(), images=images[:4]) == 1  # other images
    assert calls(GridProcessor(), views=("identity", "flip")) == 2
    assert calls(GridProcessor(), dtype="float32") == 1
    with torch.no_grad():
        bottom_up.proj.weight.add_(1.0)
    assert calls(GridProcessor(), dtype="float32") == 1  # other weights
    bottom_up.config.dtype = torch.float32  # what loading writes into a config
    assert calls(GridProcessor(), dtype="float32") == 0
    assert len(RegionStore.open(path)) == 5


def test_a_store_without_its_last_file_is_not_finished(bottom_up, images, tmp_path):
    path = tmp_path / "store"
    extract_regions(bottom_up, GridProcessor(), images, path)
    description = json.loads((path / STORE_FILE).read_text())
    (path / STORE_FILE).unlink()
    with pytest.raises(RegionStoreError):
        RegionStore.open(path)
    (path / STORE_FILE).write_text(json.dumps({**description, "version": 99}))
    with pytest.raises(RegionStoreError, match="version 99"):
        RegionStore.open(path)


def test_errors(bottom_up, images, tmp_path):
    store = extract_regions(bottom_up, GridProcessor(), images, tmp_path / "store")
    with pytest.raises(KeyError, match="'flip'"):
        store["image-0", "flip"]
    with pytest.raises(RegionStoreError, match="more than once"):
        extract_regions(bottom_up, GridProcessor(), [*images, images[0]], tmp_path / "other")
    with pytest.raises(RegionStoreError, match="sideways"):
        extract_regions(bottom_up, GridProcessor(), images, tmp_path / "other", views=("sideways",))
    with torch.no_grad():
        bottom_up.proj.weight.mul_(1e9)
    with pytest.raises(RegionStoreError, match="not finite in float16"):
        extract_regions(bottom_up, GridProcessor(), images, tmp_path / "other")


def test_the_model_is_left_as_it_was(bottom_up, images, tmp_path):
    bottom_up.train()
    extract_regions(bottom_up, GridProcessor(), images, tmp_path / "store")
    assert bottom_up.training
    assert all(parameter.requires_grad for parameter in bottom_up.parameters())
    bottom_up.proj(torch.rand(1, 3, 4, 4)).sum().backward()  # still trainable


def regions_of(seed, count=3, region_size=5, dtype=np.float32):
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((count, 2, 2), dtype=np.float32), axis=1).reshape(count, 4)
    features = rng.standard_normal((count, region_size)).astype(dtype)
    return StoredRegions(features, boxes, rng.random(count, dtype=np.float32), np.ones(count, dtype=bool), 640, 480)


def same(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("features", "boxes", "saliency", "width", "height", "labels", "label_scores")
    )


@pytest.mark.parametrize(("dtype", "shard_size"), [("float16", 1), ("float32", 4), ("float32", 100)])
def test_what_is_written_is_read(tmp_path, dtype, shard_size):
    written = {f"image {seed}": regions_of(seed, count=seed % 4, dtype=dtype) for seed in range(10)}
    written["image 3"].labels = np.array([7, 1599, 0], np.int32)
    written["image 3"].label_scores = np.array([0.5, 0.25, 1.0], np.float32)
    with RegionStoreWriter(tmp_path / "store", dtype=dtype, shard_size=shard_size) as writer:
        for image_id, regions in written.items():
            writer.add(image_id, regions)
    store = RegionStore.open(tmp_path / "store")
    assert (len(store), store.dtype, store.region_size) == (10, np.dtype(dtype), 5)
    assert len(store.shards) == -(-10 // shard_size)
    for image_id in reversed(written):
        assert same(store[image_id], written[image_id])
        assert store[image_id].boxes.dtype == np.float32
    streamed = list(store.stream())
    assert [image_id for image_id, _, _ in streamed] == list(written)
    assert all(same(regions, written[image_id]) for image_id, _, regions in streamed)
    assert "image 3" in store and ("image 3", "flip") not in store and "image 10" not in store


def test_datasets_reads_and_streams_a_store(tmp_path):
    with RegionStoreWriter(tmp_path / "store", shard_size=2) as writer:
        for seed in range(5):
            writer.add(str(seed), regions_of(seed))
    store = RegionStore.open(tmp_path / "store")
    assert store.dataset()["image_id"][:] == list("01234")
    files = [str(shard) for shard in store.shards]
    streamed = datasets.load_dataset("arrow", data_files=files, split="train", streaming=True)
    for seed, row in enumerate(streamed):
        assert same(decode_row(row, store.dtype, store.region_size), regions_of(seed))
    assert streamed.num_shards == 3  # what several loaders share


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Neither Python's nor Arrow's, neither while a store is written nor while it is read."""

    def peak(count, name):
        path = tmp_path / name
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        with RegionStoreWriter(path, shard_size=100) as writer:
            for index in range(count):
                writer.add(f"image {index}", regions_of(0, count=8, region_size=64))
        store = RegionStore.open(path)
        assert sum(1 for _ in store.stream()) == count
        assert all(f"image {index}" in store for index in range(0, count, 7))
        store[f"image {count - 1}"]
        held = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
        tracemalloc.stop()
        return held

    peak(500, "first")  # whatever is imported or cached once
    small, large = peak(500, "small"), peak(4000, "large")
    assert large < 1.3 * small
    assert large < 4000 * 8 * 64 * 4 / 8  # far below what is stored


def test_a_store_that_fails_leaves_nothing_behind(tmp_path):
    def write(*rows):
        with RegionStoreWriter(tmp_path / "store", shard_size=1) as writer:
            for image_id, regions in rows:
                writer.add(image_id, regions)

    good, broken = regions_of(0), regions_of(0)
    broken.features[1, 2] = np.nan
    with pytest.raises(DuplicateImageError, match="'1' occurs more than once"):
        write(("0", good), ("1", good), ("2", good), ("1", good))
    with pytest.raises(RegionStoreError, match="size 4, those before 5"):
        write(("0", good), ("1", regions_of(0, region_size=4)))
    with pytest.raises(RegionStoreError, match="'0' are not finite"):
        write(("0", broken))
    assert list(tmp_path.iterdir()) == []
    write(("0", good))
    with pytest.raises(RegionStoreError, match="is there already"):
        write(("0", good))


def boxes_sum(store, results):
    results.put(float(store["1"].boxes.sum()))


def test_other_processes_read_an_open_store(tmp_path):
    """As the workers of a loader do, forked from a process that has read, or with a copy of the store."""
    with RegionStoreWriter(tmp_path / "store") as writer:
        for seed in range(2):
            writer.add(str(seed), regions_of(seed))
    store = RegionStore.open(tmp_path / "store")
    expected = float(store["1"].boxes.sum())
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=boxes_sum, args=(store, results))
    process.start()
    assert results.get(timeout=60) == expected
    process.join()
    assert float(pickle.loads(pickle.dumps(store))["1"].boxes.sum()) == expected
