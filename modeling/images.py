# SPDX-License-Identifier: Apache-2.0
"""Images in every form that people have them, as tensors of one form; errors name the image that is wrong."""

import base64
import contextlib
import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from huggingface_hub.utils import httpx
from transformers.image_utils import ChannelDimension


DOWNLOAD_SECONDS = 30.0  # a server that stays silent this long is taken as failing
HALF_GREY_LEVEL = 0.5 / 255  # floats this far outside [0, 1] still round to a valid 8-bit value

SOURCES = "a path, http(s) URL or data URI of an image that Pillow reads"
SHAPES = "(height, width), (height, width, channels) or (channels, height, width) with 1 to 4 channels"
KINDS = f"{SOURCES}, a PIL image, or a numpy array or torch tensor of bool, integer or float values"


def is_list(images: Any) -> bool:
    """Whether this is several images, each an object of its own."""
    return isinstance(images, Sequence) and not isinstance(images, (str, bytes))


def fetch_images(images: Any, name: str, timeout: float = DOWNLOAD_SECONDS) -> Any:
    """The same, nested alike, with paths and addresses replaced by the images there."""
    if isinstance(images, (str, os.PathLike)):
        return read_image(os.fspath(images), name, timeout)
    if is_list(images):
        return [fetch_images(image, f"{name}[{index}]", timeout) for index, image in enumerate(images)]
    return images


def read_image(source: str, name: str, timeout: float) -> PIL.Image.Image:
    """The image at a path, http(s) URL or data URI. Raises `ValueError` with its name if there is none."""
    try:
        file: str | BytesIO = source
        if source.startswith(("http://", "https://")):
            response = httpx.get(source, timeout=timeout, follow_redirects=True)
            file = BytesIO(response.raise_for_status().content)
        elif source.startswith("data:"):
            file = BytesIO(base64.b64decode(source.partition(",")[2]))
        with PIL.Image.open(file) as image:
            image.load()
    except Exception as error:  # decoders raise whatever a broken file leads them into
        source = source if len(source) <= 1000 else source[:100] + "…"  # a data URI holds the whole image
        raise ValueError(
            f"{name}: cannot read {source!r} ({type(error).__name__}: {error}), expected {SOURCES}."
        ) from error
    return image


def each_image(images: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every single image of nested lists and batched arrays, with its name in error messages."""
    if is_list(images) or (isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim > 3):
        if len(images) == 0:
            raise ValueError(f"{name}: got nothing, expected at least one image.")
        for index, image in enumerate(images):
            yield from each_image(image, f"{name}[{index}]")
    else:
        yield name, images


def decode_image(image: PIL.Image.Image, name: str) -> np.ndarray:
    """A PIL image, upright, as (height, width) or (height, width, channels) without palettes or odd colour spaces."""
    try:
        image.load()
        with contextlib.suppress(Exception):  # unreadable EXIF says nothing about orientation; the pixels are fine
            image = PIL.ImageOps.exif_transpose(image)
        if image.mode == "La":
            image = image.convert("LA")
        elif image.mode in ("1", "L", "P", "PA", "RGB", "RGBa") and image.has_transparency_data:
            image = image.convert("RGBA")
        elif image.mode not in ("1", "L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
            image = image.convert("RGB")
        return np.array(image)
    except Exception as error:  # a lazily opened file may be found broken only here
        raise ValueError(
            f"{name}: cannot decode a PIL image of mode {image.mode} and size {image.size} "
            f"({type(error).__name__}: {error}), expected {SOURCES}."
        ) from error


def channels_first(
    image: np.ndarray | torch.Tensor, name: str, data_format: str | ChannelDimension | None
) -> torch.Tensor:
    """An array as a tensor (channels, height, width). Raises `ValueError` if its shape or dtype is no image's."""
    is_numpy = isinstance(image, np.ndarray)
    came = f"{name}: got {type(image).__name__} of shape {tuple(image.shape)} and dtype {image.dtype}"
    if image.dtype.kind not in "biuf" or image.dtype.itemsize > 8 if is_numpy else image.is_complex():
        raise ValueError(f"{came}, expected bool, integer or float values.")
    if 0 in image.shape:
        raise ValueError(f"{came}, expected every side to be at least 1.")
    if is_numpy:  # a copy, because torch takes neither read-only memory nor negative strides nor foreign byte order
        image = torch.from_numpy(np.array(image, dtype=image.dtype.newbyteorder("="), order="C"))
    if image.ndim == 2:
        return image[None]
    if image.ndim == 3:
        if data_format is not None:
            formats = [ChannelDimension(data_format)]
        else:
            formats = [ChannelDimension.LAST, ChannelDimension.FIRST][:: 1 if is_numpy else -1]
        for data_format in formats:
            turned = image.movedim(-1, 0) if data_format == ChannelDimension.LAST else image
            if turned.shape[0] <= 4:
                return turned
    raise ValueError(f"{came}, expected {SHAPES}.")


def finite_pixels(image: torch.Tensor, name: str) -> torch.Tensor:
    """The values as float32. Raises `ValueError` if one is no number."""
    if not image.isfinite().all():
        raise ValueError(f"{name}: got NaN or infinite values, expected finite ones.")
    return image.to(torch.float32)


def eight_bit_pixels(image: torch.Tensor, name: str) -> torch.Tensor:
    """Values of any kind as 0 to 255. Raises `ValueError` if they lie outside the range of their kind."""
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    if image.is_floating_point():
        image = finite_pixels(image, name)
        low, high = image.min().item(), image.max().item()
        if low < -HALF_GREY_LEVEL or high > 1 + HALF_GREY_LEVEL:
            raise ValueError(
                f"{name}: got float values in [{low:.4g}, {high:.4g}], expected [0, 1]; pass 0..255 as uint8, or "
                "do_rescale=False for values that are scaled already."
            )
        return (image * 255).round().clamp(0, 255).to(torch.uint8)
    is_sixteen_bit = image.dtype == torch.uint16
    image = image.to(torch.int64)
    low, high = image.min().item(), image.max().item()
    if low < 0 or high > 65535:
        raise ValueError(f"{name}: got integer values in [{low}, {high}], expected 0..255 or 0..65535.")
    if is_sixteen_bit or high > 255:
        image = (image + 128) // 257  # to the nearest: 65535 is 255 * 257
    return image.to(torch.uint8)


def on_white(image: torch.Tensor, white: float) -> torch.Tensor:
    """Grey, grey with alpha, RGB or RGBA (channels, height, width) as RGB (3, height, width) on white."""
    if image.shape[0] in (2, 4):
        colour, alpha = image[:-1], image[-1:]
        if image.dtype == torch.uint8:
            colour, alpha = colour.to(torch.int32), alpha.to(torch.int32)
            image = ((colour * alpha + white * (white - alpha) + white // 2) // white).to(torch.uint8)
        else:
            image = colour * alpha + white * (white - alpha)
    return image.expand(3, -1, -1)
