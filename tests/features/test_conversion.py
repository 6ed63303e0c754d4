# SPDX-License-Identifier: Apache-2.0
import json
import tracemalloc

import numpy as np
import pytest

from butd_hf.data.region_rows import StoredRegions
from butd_hf.data.region_store import RegionStore
from butd_hf.data.region_writing import RegionStoreWriter
from butd_hf.features.conversion import FORMATS, convert_features, read_features
from butd_hf.features.records import FeatureFileError


def regions_of(seed, count=4, size=6):
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((count, 2, 2), dtype=np.float32), axis=1).reshape(count, 4)
    features = rng.standard_normal((count, size)).astype(np.float32)
    scores = rng.random(count, dtype=np.float32)
    return StoredRegions(
        features, boxes, np.ones(count, np.float32), np.ones(count, bool), 640 - seed, 480 + seed,
        labels=rng.integers(0, 1600, count, dtype=np.int32), label_scores=scores,
        attributes=rng.integers(0, 400, count, dtype=np.int32), attribute_scores=scores,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with RegionStoreWriter(tmp_path / "STORE") as writer:
        for seed in range(5):
            writer.add(f"COCO_{seed}", regions_of(seed))
    return tmp_path / "STORE"


def destination(tmp_path, output):
    return tmp_path / {"tsv": "a.tsv", "lxmert": "b.tsv", "npz": "npz", "npy": "data/cocobu", "store": "copy"}[output]


@pytest.mark.parametrize("output", FORMATS)
def test_out_of_the_store_and_into_it_again(store, tmp_path, output):
    to = destination(tmp_path, output)
    assert convert_features([store], to, output=output) == 5
    assert convert_features([to], tmp_path / "back") == 5
    back = RegionStore.open(tmp_path / "back")
    for seed in range(5):
        found, expected = back[f"COCO_{seed}"], regions_of(seed)
        assert np.array_equal(found.features, expected.features)
        assert np.allclose(found.boxes, expected.boxes, atol=1e-6)
        assert (found.width, found.height) == (640 - seed, 480 + seed)
        if output in ("lxmert", "store"):
            assert np.array_equal(found.labels, expected.labels)
            assert np.array_equal(found.attribute_scores, expected.attribute_scores)
    assert [path.name for path in tmp_path.rglob("*unfinished*")] == []


def test_layout_of_milvlg(store, tmp_path):
    convert_features([store], tmp_path / "npz", output="npz")
    with np.load(tmp_path / "npz" / "COCO_2.npz") as content:
        assert set(content.files) == {"x", "bbox", "num_bbox", "image_h", "image_w"}
        assert (int(content["image_w"]), int(content["image_h"]), int(content["num_bbox"])) == (638, 482, 4)
        assert content["x"].shape == (4, 6) and content["x"].dtype == content["bbox"].dtype == np.float32
        expected = regions_of(2).boxes * np.array([638, 482, 638, 482], np.float32)
        assert np.allclose(content["bbox"], expected, rtol=1e-6)


def test_layout_of_ruotianluo(store, tmp_path):
    convert_features([store], tmp_path / "cocobu", output="npy")
    features = np.load(tmp_path / "cocobu_att" / "COCO_1.npz")["feat"]
    assert np.array_equal(features, regions_of(1).features)
    assert np.allclose(np.load(tmp_path / "cocobu_fc" / "COCO_1.npy"), features.mean(0))
    boxes = np.load(tmp_path / "cocobu_box" / "COCO_1.npy")
    assert boxes.dtype == np.float32 and boxes[:, 2].max() > 1  # pixels

    # as they are met in the wild: without our file of sizes, features as .npy
    (tmp_path / "cocobu_sizes.jsonl").unlink()
    (tmp_path / "cocobu_att" / "COCO_1.npz").unlink()
    np.save(tmp_path / "cocobu_att" / "COCO_1.npy", features)
    with pytest.raises(FeatureFileError, match="give a file with the sizes"):
        convert_features([tmp_path / "cocobu"], tmp_path / "back")
    images = [{"cocoid": f"COCO_{seed}", "width": 640 - seed, "height": 480 + seed} for seed in range(5)]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images}))
    convert_features([tmp_path / "cocobu_att"], tmp_path / "back", sizes=tmp_path / "dataset.json")
    assert np.allclose(RegionStore.open(tmp_path / "back")["COCO_1"].boxes, regions_of(1).boxes, atol=1e-6)
    (tmp_path / "dataset.json").write_text(json.dumps({"images": images[1:]}))
    with pytest.raises(FeatureFileError, match=r"COCO_0\.npz: the size of the image is not known"):
        convert_features([tmp_path / "cocobu"], tmp_path / "again", sizes=tmp_path / "dataset.json")
    np.save(tmp_path / "cocobu_box" / "COCO_1.npy", boxes[1:])
    with pytest.raises(FeatureFileError, match=r"4 features, but 3 boxes in .*cocobu_box/COCO_1\.npy"):
        convert_features([tmp_path / "cocobu"], tmp_path / "again", sizes=tmp_path / "dataset.json")


def write_npz(file, **changes):
    regions = regions_of(0)
    content = {
        "x": regions.features,
        "bbox": regions.boxes * np.array([640, 480, 640, 480], np.float32),
        "num_bbox": 4,
        "image_h": 480,
        "image_w": 640,
        "info": {"objects_id": [1, 2]},  # a pickle, as MILVLG's files hold: not read
    }
    np.savez_compressed(file, **{**content, **changes})


def test_features_of_openvqa_are_transposed_and_padding_beyond_num_bbox_is_no_region(tmp_path):
    (tmp_path / "npz").mkdir()
    write_npz(tmp_path / "npz" / "a.npz", x=regions_of(0).features.T, num_bbox=3)
    (record,) = read_features(tmp_path / "npz")
    assert np.array_equal(record.regions.features, regions_of(0).features[:3]) and len(record.regions.boxes) == 3


NAN = np.full((4, 6), np.nan, np.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": NAN}, r"a\.npz: x: region 0 has NaN"),
        ({"x": NAN[:3]}, r"a\.npz: x has shape \(3, 6\), bbox \(4, 4\)"),
        ({"num_bbox": 5}, "num_bbox is 5; they don't fit"),
        ({"bbox": NAN}, r"a\.npz: bbox has shape \(4, 6\) .*expected \(num_regions, 4\)"),
        ({"image_h": [1, 2]}, r"a\.npz: image_h: expected a number"),
        ({"image_w": 480, "image_h": 640}, r"a\.npz: bbox: a box ends outside its image.*changed places"),
        ({"x": {"a": 1}}, r"a\.npz: x: cannot be read"),
    ],
)
def test_damaged_npz(tmp_path, changes, message):
    (tmp_path / "npz").mkdir()
    file = tmp_path / "npz" / "a.npz"
    write_npz(file, **changes)
    with pytest.raises(FeatureFileError, match=message):
        list(read_features(tmp_path / "npz"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FeatureFileError, match=r"a\.npz: bbox: cannot be read"):
        list(read_features(tmp_path / "npz"))


@pytest.mark.parametrize("output", FORMATS)
def test_an_image_that_comes_twice_is_named_and_nothing_is_left(store, tmp_path, output):
    convert_features([store], tmp_path / "first.tsv", output="tsv")
    to = tmp_path / "out" / "features"
    with pytest.raises(FeatureFileError, match=r"first\.tsv:1: column 1 \(image_id\): Image id 'COCO_0' occurs more"):
        convert_features([store, tmp_path / "first.tsv"], to, output=output)
    assert not to.parent.exists() or list(to.parent.iterdir()) == []


def test_refusals(store, tmp_path):
    with pytest.raises(FeatureFileError, match="is there already"):
        convert_features([store], store)
    (tmp_path / "a.tsv").write_text("")
    with pytest.raises(FeatureFileError, match="is there already"):
        convert_features([store], tmp_path / "a.tsv", output="tsv")
    with pytest.raises(FeatureFileError, match="no image in"):
        convert_features([tmp_path / "a.tsv"], tmp_path / "empty")
    with pytest.raises(FeatureFileError, match="expected a TSV file, a region store"):
        convert_features([tmp_path / "missing"], tmp_path / "out")
    with pytest.raises(FeatureFileError, match="output must be one of"):
        convert_features([store], tmp_path / "out", output="hdf5")
    assert convert_features([store], tmp_path / "a.tsv", output="tsv", overwrite=True) == 5
    with RegionStoreWriter(tmp_path / "MORE") as writer:
        writer.add("COCO_9", regions_of(9))
    assert convert_features([tmp_path / "a.tsv", tmp_path / "MORE"], tmp_path / "all", dtype="float16") == 6
    assert RegionStore.open(tmp_path / "all")["COCO_9"].features.dtype == np.float16


def test_conversion_needs_no_more_memory_for_more_images(tmp_path):
    def peak(count):
        with RegionStoreWriter(tmp_path / f"in-{count}", shard_size=200) as writer:
            for index in range(count):
                writer.add(str(index), regions_of(0, count=8, size=64))
        tracemalloc.start()
        convert_features([tmp_path / f"in-{count}"], tmp_path / f"{count}.tsv", output="tsv")
        convert_features([tmp_path / f"{count}.tsv"], tmp_path / f"out-{count}")
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(100)
    assert peak(1600) < 1.3 * peak(200)
