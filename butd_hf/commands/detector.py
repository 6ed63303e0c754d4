# SPDX-License-Identifier: Apache-2.0
"""A detection or segmentation checkpoint, loaded, and many pictures run through it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..modeling.image_processing_butd import ButdImageProcessor
from ..progress import images_progress
from .pictures import read_photo


@dataclass
class AnalysedPhoto:
    """A photograph with what was found in it, or the reason why nothing could be."""

    source: str
    picture: Image.Image | None = None
    found: Any = None
    error: str | None = None


def analyse(
    sources: Sequence[str],
    image_processor: ButdImageProcessor,
    find: Callable[[list[Image.Image]], list[Any]],
    *,
    batch_size: int,
    what: str,
) -> Iterator[AnalysedPhoto]:
    """Runs `find` on photographs in their order, those that can be read, with a progress bar if there are many."""
    with images_progress(enabled=len(sources) > batch_size) as progress:
        bar = progress.add_task(what, total=len(sources))
        for start in range(0, len(sources), batch_size):
            photos = []
            for source in sources[start : start + batch_size]:
                try:
                    photos.append(AnalysedPhoto(source, read_photo(source, image_processor)))
                except ValueError as error:
                    photos.append(AnalysedPhoto(source, error=str(error)))
            readable = [photo for photo in photos if photo.picture is not None]
            if readable:
                for photo, found in zip(readable, find([photo.picture for photo in readable]), strict=True):
                    photo.found = found
            progress.advance(bar, len(photos))
            yield from photos
