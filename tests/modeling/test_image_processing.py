# SPDX-License-Identifier: Apache-2.0
"""Images from every source: the same values, whatever holds them, and errors that name the one that fails."""

import base64
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import timm
import torch

from butd_hf.modeling.image_processing_butd import ButdImageProcessor


SQUARE = {"height": 48, "width": 64}
ASPECT = {"shortest_edge": 64, "longest_edge": 96}


def colours(height: int = 37, width: int = 53, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(images, size=SQUARE, **kwargs) -> torch.Tensor:
    return ButdImageProcessor(size=size)(images, return_tensors="pt", **kwargs).pixel_values


@pytest.fixture
def processor() -> ButdImageProcessor:
    return ButdImageProcessor(size=SQUARE)


@pytest.fixture
def address(tmp_path: Path):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


IMAGES = {
    "rgb": lambda: PIL.Image.fromarray(colours()),
    "grey": lambda: PIL.Image.fromarray(colours(channels=1)),
    "grey_alpha": lambda: PIL.Image.fromarray(colours(channels=2), mode="LA"),
    "rgba": lambda: PIL.Image.fromarray(colours(channels=4)),
    "one_bit": lambda: PIL.Image.fromarray(colours(channels=1)).convert("1"),
    "sixteen_bit": lambda: PIL.Image.fromarray(colours(channels=1).astype(np.uint16) * 257),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(("name", "size"), [*((name, SQUARE) for name in IMAGES), ("rgb", ASPECT), ("rgba", ASPECT)])
def test_same_image_gives_same_values_from_every_source(name: str, size: dict, tmp_path: Path, address: str):
    image = IMAGES[name]()
    path = tmp_path / "image.png"
    image.save(path)
    array = np.array(image)
    channels_first = array if array.ndim == 2 else array.transpose(2, 0, 1)
    sources = {
        "path": str(path),
        "pathlib": path,
        "url": f"{address}/{path.name}",
        "data uri": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        "pil": image,
        "numpy": array,
        "numpy channels first": np.ascontiguousarray(channels_first),
        "numpy reversed twice": array[::-1].copy()[::-1],
        "tensor": torch.from_numpy(channels_first.copy()),
        "tensor channels last": torch.from_numpy(array.copy()),
    }
    expected = pixels(image, size)
    assert expected.dtype == torch.float32 and expected.isfinite().all()
    for source, value in sources.items():
        assert torch.equal(pixels(value, size), expected), source
    # and nothing depends on the rest of the batch
    together = ButdImageProcessor(size=size)([*sources.values(), colours(20, 90)], return_tensors="pt").pixel_values
    for values in together[:-1]:
        assert torch.equal(values[:, : expected.shape[2], : expected.shape[3]], expected[0])


def test_number_formats_are_scaled_to_one_range():
    array = colours()
    expected = pixels(array)
    for same in (array.astype(np.float32) / 255, array / 255, array.astype(np.int64), array.astype(">i4")):
        assert torch.equal(pixels(same), expected)
    assert torch.equal(pixels(array.astype(np.float32) / 255 + 1e-4), expected)  # rounding errors are forgiven
    grey = colours(channels=1)
    assert torch.equal(pixels(grey.astype(np.uint16) * 257), pixels(grey))
    assert pixels(np.full((8, 8), 200, np.uint16)).max() < -0.99  # a dtype of 16 bits says so even of a dark image
    # floats that need no rescaling are not reduced to eight bits
    noise = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(0)) * 6 - 3
    values = pixels(noise, do_rescale=False, do_normalize=False)
    assert noise.min() <= values.min() < -1 and 1 < values.max() <= noise.max()


def test_orientation_is_applied_to_files_and_images(tmp_path: Path):
    array = np.zeros((20, 40, 3), np.uint8)
    array[:10, :10] = 255
    for orientation in (1, 3, 6):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        PIL.Image.fromarray(array).save(path, exif=exif)
        upright = np.array(PIL.ImageOps.exif_transpose(PIL.Image.open(path)))
        assert (upright.shape[:2] == (40, 20)) == (orientation >= 5)
        assert torch.equal(pixels(path), pixels(upright))
        assert torch.equal(pixels(PIL.Image.open(path)), pixels(upright))


def test_transparency_is_white_in_every_mode(tmp_path: Path):
    white = pixels(np.full((8, 8, 3), 255, np.uint8))
    clear = colours(8, 8, 4)
    clear[..., 3] = 0
    palette = PIL.Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=0)
    PIL.Image.new("L", (8, 8), 7).save(tmp_path / "grey.png", transparency=7)
    images = [clear, PIL.Image.fromarray(clear), PIL.Image.fromarray(clear).convert("RGBa"), clear[..., 2:]]
    images += [
        torch.from_numpy(clear).permute(2, 0, 1),
        clear / 255.0,
        tmp_path / "palette.png",
        tmp_path / "grey.png",
    ]
    for image in images:
        assert torch.equal(pixels(image), white)
    half = np.zeros((8, 8, 4), np.uint8)
    half[..., 3] = 128
    assert torch.equal(pixels(half), pixels(np.full((8, 8), 127, np.uint8)))


def test_other_colour_spaces_and_first_frames(tmp_path: Path):
    image = PIL.Image.fromarray(colours())
    for mode in ("P", "CMYK", "YCbCr"):
        assert torch.equal(pixels(image.convert(mode)), pixels(image.convert(mode).convert("RGB")))
    image.save(tmp_path / "frames.tiff", save_all=True, append_images=[PIL.Image.fromarray(colours(seed=1))])
    assert torch.equal(pixels(tmp_path / "frames.tiff"), pixels(image))


def test_nested_lists_and_batched_arrays_are_flattened():
    images = np.stack([colours(seed=seed) for seed in range(4)])
    expected = pixels(list(images))
    assert expected.shape == (4, 3, 48, 64)
    assert torch.equal(pixels(images), expected)
    assert torch.equal(pixels(torch.from_numpy(images).permute(0, 3, 1, 2)), expected)
    assert torch.equal(pixels([[images[0]], [images[1], images[2]], (images[3],)]), expected)


def test_padding_is_at_the_bottom_and_right_with_a_mask(processor: ButdImageProcessor):
    assert list(processor([colours(), colours(9, 9)], return_tensors="pt")) == ["pixel_values"]  # all of one size
    processor = ButdImageProcessor(size=ASPECT)
    features = processor([colours(64, 64), colours(40, 60), colours(96, 64)], return_tensors="pt")
    assert features.pixel_values.shape == (3, 3, 96, 96) and features.pixel_mask.dtype == torch.int64
    for mask, values, (height, width) in zip(
        features.pixel_mask, features.pixel_values, [(64, 64), (64, 96), (96, 64)], strict=True
    ):
        assert mask[:height, :width].all() and mask.sum() == height * width
        assert not values[:, mask == 0].any()
    assert "pixel_mask" not in processor(colours(), do_pad=False)
    fixed = processor(colours(64, 64), pad_size={"height": 128, "width": 160}, return_tensors="pt")
    assert fixed.pixel_mask.shape == (1, 128, 160) and fixed.pixel_mask.sum() == 64 * 64


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (20000, 10), (400, 300), (97, 31)])
def test_sides_are_multiples_within_bounds(shape: tuple[int, int]):
    size = {"shortest_edge": 50, "longest_edge": 100}
    for divisor in (1, 32):
        features = ButdImageProcessor(size=size, size_divisor=divisor)(np.zeros(shape, np.uint8), return_tensors="pt")
        for side in features.pixel_values.shape[-2:]:
            assert side % divisor == 0 and divisor <= side <= 100
        assert features.pixel_mask.all()


def test_normalisation_and_its_switches(processor: ButdImageProcessor):
    run = partial(processor, np.full((48, 64, 3), 51, np.uint8), return_tensors="pt")
    assert torch.allclose(run().pixel_values, torch.tensor(-0.6))
    assert torch.allclose(run(do_normalize=False).pixel_values, torch.tensor(0.2))
    assert (run(do_normalize=False, do_rescale=False).pixel_values == 51).all()
    unresized = processor([colours(8, 8), colours(9, 5)], do_resize=False, return_tensors="pt")
    assert unresized.pixel_values.shape == (2, 3, 9, 8) and unresized.pixel_mask.sum().item() == 64 + 45
    as_list = processor([colours(), colours()])["pixel_values"]
    assert isinstance(as_list, list) and as_list[0].shape == (3, 48, 64)
    as_numpy = processor(colours(), return_tensors="np")["pixel_values"]
    assert as_numpy.dtype == np.float32 and np.array_equal(as_numpy, pixels(colours()).numpy())


def test_values_follow_the_backbone():
    for name in ("test_efficientnet", "vgg16"):
        processor, config = ButdImageProcessor.from_backbone(name, size=SQUARE), timm.get_pretrained_cfg(name)
        assert list(processor.image_mean) == list(config.mean) and list(processor.image_std) == list(config.std)
        assert processor.resample.name.lower() == config.interpolation
    assert ButdImageProcessor.from_backbone("vgg16", image_mean=[0.1, 0.2, 0.3]).image_mean == (0.1, 0.2, 0.3)
    with pytest.raises(ValueError, match="no_such_backbone"):
        ButdImageProcessor.from_backbone("no_such_backbone")


@pytest.mark.parametrize("kwargs", [{}, {"size": ASPECT, "size_divisor": 16, "do_pad": False, "resample": 2}])
def test_saving_and_loading_keeps_every_byte(kwargs: dict, tmp_path: Path):
    processor = ButdImageProcessor(**kwargs)
    processor.save_pretrained(tmp_path / "first")
    loaded = ButdImageProcessor.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    first, second = (tmp_path / name / "preprocessor_config.json" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert "image_processor_type" not in json.loads(first.read_text())  # the model's config names it
    both = [one(colours(), return_tensors="pt").pixel_values for one in (processor, loaded)]
    assert torch.equal(*both)


def test_broken_and_missing_files_are_named(tmp_path: Path, processor: ButdImageProcessor, address: str):
    PIL.Image.fromarray(colours(64, 64)).save(tmp_path / "truncated.jpg")
    contents = {
        "truncated.jpg": (tmp_path / "truncated.jpg").read_bytes()[:-600],
        "text.jpg": b"none",
        "empty.png": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, f"{address}/{name}"):
            with pytest.raises(ValueError, match=rf"images\[2\].*{name}.*expected"):
                processor([colours(), colours(), source])
    with (
        PIL.Image.open(tmp_path / "truncated.jpg") as image,
        pytest.raises(ValueError, match=r"\[1\].*truncated\.jpg"),
    ):
        processor([colours(), image])
    for source in (tmp_path / "missing.png", f"{address}/missing.png", tmp_path, "", "http://127.0.0.1:1/missing.png"):
        with pytest.raises(ValueError, match=r"images\[0\]\[1\].*cannot read") as caught:
            processor([[colours(), source]])
        assert str(source) in str(caught.value)


NO_IMAGES = {
    "nan": np.full((8, 8, 3), np.nan, np.float32),
    "no height": np.zeros((0, 8, 3), np.uint8),
    "empty image": PIL.Image.new("RGB", (0, 5)),
    "one dimension": np.zeros(8, np.uint8),
    "seven channels": np.zeros((8, 9, 7), np.uint8),
    "negative": np.full((8, 8), -1),
    "too large": np.full((8, 8), 70000),
    "floats above one": colours().astype(np.float32),
    "complex": np.zeros((8, 8), np.complex64),
    "bytes": b"x",
    "none": None,
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_named(name: str, processor: ButdImageProcessor):
    with pytest.raises(ValueError, match=r"images\[3\]: got.*expected"):
        processor([colours(), colours(), colours(), NO_IMAGES[name]])
    with pytest.raises(ValueError, match=r"images: got.*expected"):
        processor(NO_IMAGES[name])


def test_empty_batches_and_settings_out_of_range(processor: ButdImageProcessor):
    for images in ([], [[]], np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="got nothing"):
            processor(images)
    with pytest.raises(ValueError, match="NaN"):
        processor(NO_IMAGES["nan"], do_rescale=False)
    sizes = ({"shortest_edge": 64}, {"shortest_edge": 64, "longest_edge": 32}, {"height": 0, "width": 8})
    for kwargs in (*({"size": size} for size in sizes), {"size_divisor": 0}, {"do_center_crop": True}):
        for call in (partial(ButdImageProcessor, **kwargs), partial(processor, colours(), **kwargs)):
            with pytest.raises(ValueError):
                call()
