# SPDX-License-Identifier: Apache-2.0
import base64
import json
import struct
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
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


# each entry: a PIL image, and the plain array that holds the same picture
def grey() -> PIL.Image.Image:
    return PIL.Image.fromarray(colours(channels=1))


def sixteen_bit() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 65536, (37, 53), dtype=np.uint16))


PICTURES = {
    "rgb": lambda: PIL.Image.fromarray(colours()),
    "grey": grey,
    "grey_alpha": lambda: PIL.Image.fromarray(colours(channels=2), mode="LA"),
    "rgba": lambda: PIL.Image.fromarray(colours(channels=4)),
    "one_bit": lambda: grey().convert("1"),
    "sixteen_bit": sixteen_bit,
    "wide_integers": lambda: PIL.Image.fromarray(np.asarray(sixteen_bit()).astype(np.int32)),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("size", [SQUARE, ASPECT])
def test_same_picture_gives_same_values_from_every_source(name: str, size: dict, tmp_path: Path, address: str):
    picture = PICTURES[name]()
    suffix = "tiff" if name in ("wide_integers",) else "png"
    path = tmp_path / f"picture.{suffix}"
    picture.save(path)
    array = np.array(picture)
    channels_first = array if array.ndim == 2 else array.transpose(2, 0, 1)
    sources = {
        "path": str(path),
        "pathlib": path,
        "url": f"{address}/{path.name}",
        "data uri": f"data:image/{suffix};base64,{base64.b64encode(path.read_bytes()).decode()}",
        "pil": picture,
        "numpy": array,
        "numpy channels first": np.ascontiguousarray(channels_first),
        "numpy reversed twice": array[::-1].copy()[::-1],
        "tensor": torch.from_numpy(channels_first.copy()),
        "tensor channels last": torch.from_numpy(array.copy()),
    }
    expected = pixels(picture, size)
    assert expected.dtype == torch.float32 and expected.isfinite().all()
    for source, image in sources.items():
        assert torch.equal(pixels(image, size), expected), source
    # and nothing depends on the rest of the batch
    batch = list(sources.values())
    together = ButdImageProcessor(size=size)([*batch, colours(20, 90)], return_tensors="pt").pixel_values
    height, width = expected.shape[-2:]
    for values in together[:-1]:
        assert torch.equal(values[:, :height, :width], expected[0])


def test_reading_warns_of_nothing(tmp_path: Path, processor: ButdImageProcessor):
    PIL.Image.fromarray(colours()).save(tmp_path / "picture.jpg")
    read_only = colours()
    read_only.setflags(write=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        processor([tmp_path / "picture.jpg", read_only, colours()], return_tensors="pt")
    assert [str(warning.message) for warning in caught] == []


def test_floats_in_unit_range_equal_their_eight_bit_picture():
    array = colours()
    expected = pixels(array)
    for dtype in (np.float32, np.float64):
        assert torch.equal(pixels(array.astype(dtype) / 255), expected)
    assert torch.equal(pixels(torch.from_numpy(array).permute(2, 0, 1) / 255), expected)
    assert torch.equal(pixels(array.astype(np.float32) / 255 + 1e-4), expected)  # rounding errors are forgiven
    assert torch.equal(pixels(array.astype(np.int64)), expected)
    assert torch.equal(pixels(array.astype(">i4")), expected)


def test_scaled_floats_are_not_reduced_to_eight_bits():
    smooth = np.linspace(0, 255, 37 * 53).reshape(37, 53).astype(np.uint8)
    expected, close = pixels(smooth), pixels(smooth.astype(np.float32) / 255, do_rescale=False)
    assert torch.allclose(close, expected, atol=4 / 255) and not torch.equal(close, expected)
    noise = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(0)) * 6 - 3
    values = pixels(noise, do_rescale=False, do_normalize=False)
    assert noise.min() <= values.min() < -1 and 1 < values.max() <= noise.max()


def test_sixteen_bit_is_scaled_not_clipped():
    array = colours(channels=1)
    assert torch.equal(pixels(array.astype(np.uint16) * 257), pixels(array))
    assert torch.equal(pixels(PIL.Image.fromarray(array.astype(np.uint16) * 257)), pixels(array))
    assert torch.equal(pixels(torch.from_numpy(array.astype(np.uint16) * 257)), pixels(array))
    dark = np.full((8, 8), 200, np.uint16)  # a dtype of 16 bits says so even of a dark picture
    assert pixels(dark).max() < -0.99


def test_orientation_is_applied_to_files_and_images(tmp_path: Path):
    array = np.zeros((20, 40, 3), np.uint8)
    array[:10, :10] = 255
    for orientation in range(1, 9):
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
    grey_file = tmp_path / "grey.png"
    PIL.Image.new("L", (8, 8), 7).save(grey_file, transparency=7)
    pictures = [clear, PIL.Image.fromarray(clear), PIL.Image.fromarray(clear).convert("RGBa"), clear[..., 2:]]
    pictures += [torch.from_numpy(clear).permute(2, 0, 1), clear / 255.0, tmp_path / "palette.png", grey_file]
    for picture in pictures:
        assert torch.equal(pixels(picture), white)
    assert torch.allclose(pixels(clear / 255.0, do_rescale=False), white)
    half = np.zeros((8, 8, 4), np.uint8)
    half[..., 3] = 128
    assert torch.equal(pixels(half), pixels(np.full((8, 8), 127, np.uint8)))


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_colour_spaces_are_converted(mode: str):
    picture = PIL.Image.fromarray(colours()).convert(mode)
    assert torch.equal(pixels(picture), pixels(picture.convert("RGB")))


def test_first_frame_of_an_animation(tmp_path: Path):
    frames = [PIL.Image.fromarray(colours(seed=seed)) for seed in range(3)]
    for suffix in ("gif", "png", "tiff", "webp"):
        path = tmp_path / f"frames.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)  # matters to webp alone
        with PIL.Image.open(path) as picture:
            assert torch.equal(pixels(path), pixels(picture))
        if suffix != "gif":
            assert torch.equal(pixels(path), pixels(frames[0]))


def test_channels_are_found_by_the_custom_of_the_type():
    ambiguous = colours(3, 9)  # (3, 9, 3)
    assert torch.equal(pixels(ambiguous), pixels(PIL.Image.fromarray(ambiguous)))
    tensor = torch.from_numpy(ambiguous)
    assert torch.equal(pixels(tensor), pixels(ambiguous.transpose(1, 2, 0)))
    assert torch.equal(pixels(tensor, input_data_format="channels_last"), pixels(ambiguous))
    # the array's format says nothing about the files of the same batch
    mixed = [tensor, PIL.Image.fromarray(ambiguous)]
    assert torch.equal(*pixels(mixed, input_data_format="channels_last"))


def test_nested_lists_and_batched_arrays_are_flattened():
    pictures = np.stack([colours(seed=seed) for seed in range(4)])
    expected = pixels(list(pictures))
    assert expected.shape == (4, 3, 48, 64)
    assert torch.equal(pixels(pictures), expected)
    assert torch.equal(pixels(torch.from_numpy(pictures).permute(0, 3, 1, 2)), expected)
    assert torch.equal(pixels([[pictures[0]], [pictures[1], pictures[2]], (pictures[3],)]), expected)


def test_square_mode_returns_no_mask(processor: ButdImageProcessor):
    assert list(processor([colours(), colours(9, 9)], return_tensors="pt")) == ["pixel_values"]
    assert list(processor([colours()], do_pad=False)) == ["pixel_values"]


def test_aspect_mode_pads_bottom_and_right():
    processor = ButdImageProcessor(size=ASPECT)
    features = processor([colours(64, 64), colours(40, 60), colours(96, 64)], return_tensors="pt")
    assert features.pixel_values.shape == (3, 3, 96, 96)
    assert features.pixel_mask.shape == (3, 96, 96) and features.pixel_mask.dtype == torch.int64
    for mask, values, (height, width) in zip(
        features.pixel_mask, features.pixel_values, [(64, 64), (64, 96), (96, 64)], strict=True
    ):
        expected = torch.zeros(96, 96, dtype=torch.int64)
        expected[:height, :width] = 1
        assert torch.equal(mask, expected)
        assert not values[:, mask == 0].any()
    assert "pixel_mask" not in processor(colours(), do_pad=False)
    fixed = processor(colours(64, 64), pad_size={"height": 128, "width": 160}, return_tensors="pt")
    assert fixed.pixel_mask.shape == (1, 128, 160) and fixed.pixel_mask.sum() == 64 * 64


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (20000, 10), (33, 32), (400, 300), (97, 31)])
@pytest.mark.parametrize("size_divisor", [1, 14, 32])
def test_sides_are_multiples_within_bounds(shape: tuple[int, int], size_divisor: int):
    size = {"shortest_edge": 50, "longest_edge": 100}
    features = ButdImageProcessor(size=size, size_divisor=size_divisor)(np.zeros(shape, np.uint8), return_tensors="pt")
    for side in features.pixel_values.shape[-2:]:
        assert side % size_divisor == 0 and size_divisor <= side <= 100
    assert features.pixel_mask.all()


def test_normalisation_and_its_switches(processor: ButdImageProcessor):
    array = np.full((48, 64, 3), 51, np.uint8)
    run = partial(processor, array, return_tensors="pt")
    assert torch.allclose(run().pixel_values, torch.tensor(-0.6))
    assert torch.allclose(run(do_normalize=False).pixel_values, torch.tensor(0.2))
    plain = run(do_normalize=False, do_rescale=False).pixel_values
    assert plain.dtype == torch.float32 and (plain == 51).all()
    unresized = processor([colours(8, 8), colours(9, 5)], do_resize=False, return_tensors="pt")
    assert unresized.pixel_values.shape == (2, 3, 9, 8) and unresized.pixel_mask.sum().item() == 64 + 45


def test_return_types(processor: ButdImageProcessor):
    as_list = processor([colours(), colours()])
    assert isinstance(as_list["pixel_values"], list) and as_list["pixel_values"][0].shape == (3, 48, 64)
    as_numpy = processor(colours(), return_tensors="np")["pixel_values"]
    assert isinstance(as_numpy, np.ndarray) and as_numpy.dtype == np.float32
    assert np.array_equal(as_numpy, pixels(colours()).numpy())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnet50.a1_in1k", "vgg16"])
def test_values_follow_the_backbone(name: str):
    processor = ButdImageProcessor.from_backbone(name, size=SQUARE)
    pretrained_config = timm.get_pretrained_cfg(name)
    assert list(processor.image_mean) == list(pretrained_config.mean)
    assert list(processor.image_std) == list(pretrained_config.std)
    assert processor.resample.name.lower() == pretrained_config.interpolation
    assert ButdImageProcessor.from_backbone(name, image_mean=[0.1, 0.2, 0.3]).image_mean == (0.1, 0.2, 0.3)


def test_unknown_backbone():
    with pytest.raises(ValueError, match="no_such_backbone"):
        ButdImageProcessor.from_backbone("no_such_backbone")


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"size": ASPECT, "size_divisor": 16, "do_pad": False}, {"image_mean": [0.1, 0.2, 0.3], "resample": 2}],
)
def test_saving_and_loading_keeps_every_byte(kwargs: dict, tmp_path: Path):
    processor = ButdImageProcessor(**kwargs)
    processor.save_pretrained(tmp_path / "first")
    loaded = ButdImageProcessor.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    first, second = (tmp_path / name / "preprocessor_config.json" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text())["image_processor_type"] == "ButdImageProcessor"
    image = colours()
    assert torch.equal(
        processor(image, return_tensors="pt").pixel_values, loaded(image, return_tensors="pt").pixel_values
    )


def truncated_jpeg() -> bytes:
    buffer = BytesIO()
    PIL.Image.fromarray(colours(64, 64)).save(buffer, "jpeg")
    return buffer.getvalue()[:-600]


BROKEN_FILES = {
    "truncated.jpg": truncated_jpeg,
    "text.jpg": lambda: b"not a picture",
    "empty.png": bytes,
    "chunk.png": lambda: b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDRxx",
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_file_is_named(name: str, tmp_path: Path, processor: ButdImageProcessor, address: str):
    path = tmp_path / name
    path.write_bytes(BROKEN_FILES[name]())
    for source in (path, str(path), f"{address}/{name}"):
        with pytest.raises(ValueError, match=rf"images\[2\].*{name}.*expected"):
            processor([colours(), colours(), source])


def test_lazily_opened_broken_image_is_named(tmp_path: Path, processor: ButdImageProcessor):
    path = tmp_path / "truncated.jpg"
    path.write_bytes(truncated_jpeg())
    with PIL.Image.open(path) as picture, pytest.raises(ValueError, match=r"images\[1\].*truncated\.jpg"):
        processor([colours(), picture])


def test_missing_sources_are_named(tmp_path: Path, processor: ButdImageProcessor, address: str):
    for source in (tmp_path / "missing.png", f"{address}/missing.png", tmp_path, "", "http://127.0.0.1:1/missing.png"):
        with pytest.raises(ValueError, match=r"images\[0\]\[1\].*cannot read") as caught:
            processor([[colours(), source]])
        assert str(source) in str(caught.value)


NOT_PICTURES = {
    "nan": np.full((8, 8, 3), np.nan, np.float32),
    "infinite": torch.full((3, 8, 8), torch.inf),
    "no height": np.zeros((0, 8, 3), np.uint8),
    "no width": torch.zeros(3, 8, 0),
    "empty image": PIL.Image.new("RGB", (0, 5)),
    "one dimension": np.zeros(8, np.uint8),
    "seven channels": np.zeros((8, 9, 7), np.uint8),
    "negative": np.full((8, 8), -1),
    "too large": np.full((8, 8), 70000),
    "floats above one": colours().astype(np.float32),
    "complex": np.zeros((8, 8), np.complex64),
    "text": np.full((8, 8), "x"),
    "bytes": b"x",
    "none": None,
    "number": 3,
}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_named(name: str, processor: ButdImageProcessor):
    with pytest.raises(ValueError, match=r"images\[3\]: got.*expected"):
        processor([colours(), colours(), colours(), NOT_PICTURES[name]])
    with pytest.raises(ValueError, match=r"images: got.*expected"):
        processor(NOT_PICTURES[name])


def test_nan_is_refused_without_rescaling_too(processor: ButdImageProcessor):
    with pytest.raises(ValueError, match="NaN"):
        processor(NOT_PICTURES["nan"], do_rescale=False)


def test_empty_batch(processor: ButdImageProcessor):
    for images in ([], [[]], np.zeros((0, 8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="got nothing"):
            processor(images)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"size": {"shortest_edge": 64}},
        {"size": {"shortest_edge": 64, "longest_edge": 32}},
        {"size": {"shortest_edge": 8, "longest_edge": 16}},
        {"size": {"height": 0, "width": 8}},
        {"size_divisor": 0},
        {"do_center_crop": True},
    ],
)
def test_settings_out_of_range(kwargs: dict, processor: ButdImageProcessor):
    with pytest.raises(ValueError):
        ButdImageProcessor(**kwargs)
    with pytest.raises(ValueError):
        processor(colours(), **kwargs)
