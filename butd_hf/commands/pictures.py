# SPDX-License-Identifier: Apache-2.0
"""Photographs, read as the models see them."""

from typing import Any

from PIL import Image

from ..modeling.image_processing_butd import ButdImageProcessor


def read_photo(source: Any, image_processor: ButdImageProcessor) -> Image.Image:
    """The photograph behind a path or URL, upright and in RGB. Raises `ValueError` if it cannot be read."""
    try:
        pixels = image_processor.process_image(image_processor.fetch_images(source), name=str(source)[:200])
    except ValueError as error:
        raise ValueError(str(error).removeprefix("images: ")) from error
    return Image.fromarray(pixels.movedim(0, -1).numpy())
