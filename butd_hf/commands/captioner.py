"""A captioning checkpoint, loaded, and many pictures run through it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import typer
from PIL import Image
from transformers import PreTrainedConfig

from ..captioning import ImageCaption, caption_images
from ..modeling.modeling_butd import ButdForConditionalGeneration
from ..modeling.processing_butd import ButdProcessor
from ..progress import images_progress


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
        import butd_hf

        try:
            chosen = torch.device(best_device() if device == "auto" else device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise typer.BadParameter(f"no such device here: {device!r} ({error})", param_hint="--device") from error
        try:
            name = str(butd_hf.default_checkpoint("image-to-text")) if name is None else name
            kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
            if kind != "butd":
                raise ValueError(f"it is a {kind!r} model, expected 'butd'.")
            model = ButdForConditionalGeneration.from_pretrained(name)
            processor = ButdProcessor.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            raise typer.BadParameter(f"cannot load {name or 'the default'}: {error}", param_hint="--model") from error
        if chosen.type == "cpu" and model.dtype == torch.float16:
            model.float()  # halves are slow on CPUs
        model.eval().to(chosen)
        # convolutions are faster with channels last, on CPUs above all
        model.model.bottom_up.backbone.to(memory_format=torch.channels_last)
        return cls(name, model, processor)

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
        image_processor = self.processor.image_processor
        try:
            pixels = image_processor.process_image(image_processor.fetch_images(source), name=source)
        except ValueError as error:
            return CaptionedPhoto(source, error=str(error).removeprefix("images: "))
        return CaptionedPhoto(source, picture=Image.fromarray(pixels.movedim(0, -1).numpy()))


def best_device() -> str:
    """The fastest kind of device of this machine."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
