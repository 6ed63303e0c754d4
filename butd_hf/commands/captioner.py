# SPDX-License-Identifier: Apache-2.0
"""A captioning checkpoint, loaded, and many pictures run through it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from ..captioning import ImageCaption, caption_images
from ..modeling.modeling_captioning_butd import ButdForConditionalGeneration
from ..modeling.processing_butd import ButdProcessor
from ..progress import images_progress
from .loading import load_checkpoint
from .pictures import read_photo


@dataclass
class CaptionedPhoto:
    """A photograph with its caption, or the reason why it has none."""

    source: str
    picture: Image.Image | None = None
    caption: ImageCaption | None = None
    error: str | None = None


@dataclass
class Captioner:
    """
    A model ready to caption.

    Attributes:
        name: Folder or Hub name of its checkpoint.
        model: In evaluation mode, on its device.
        processor: What belongs to it.
    """

    name: str
    model: ButdForConditionalGeneration
    processor: ButdProcessor

    @classmethod
    def load(cls, name: str | None, device: str) -> "Captioner":
        """
        Loads a checkpoint, by default the one inside the package.

        Raises:
            typer.BadParameter: If there is none, it is no captioning model, or there is no such device.
        """
        return cls(*load_checkpoint(name, device, "image-to-text", ButdForConditionalGeneration, ButdProcessor))

    def caption(
        self,
        sources: Sequence[str],
        *,
        batch_size: int,
        prompt: str | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        output_attentions: bool = False,
    ) -> Iterator[CaptionedPhoto]:
        """Captions photographs in their order, those that can be read, with a progress bar if there are many."""
        options = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        options = {option: value for option, value in options.items() if value is not None}
        with images_progress(enabled=len(sources) > batch_size) as progress:
            bar = progress.add_task("captioning", total=len(sources))
            for start in range(0, len(sources), batch_size):
                photos = [self.read(source) for source in sources[start : start + batch_size]]
                readable = [photo for photo in photos if photo.picture is not None]
                if readable:
                    pictures = [photo.picture for photo in readable]
                    captions = caption_images(
                        self.model,
                        self.processor,
                        pictures,
                        prompt=prompt,
                        output_attentions=output_attentions,
                        **options,
                    )
                    for photo, caption in zip(readable, captions, strict=True):
                        photo.caption = caption
                progress.advance(bar, len(photos))
                yield from photos

    def read(self, source: str) -> CaptionedPhoto:
        """The photograph behind a path or URL, upright and in RGB as the model sees it."""
        try:
            return CaptionedPhoto(source, picture=read_photo(source, self.processor.image_processor))
        except ValueError as error:
            return CaptionedPhoto(source, error=str(error))
