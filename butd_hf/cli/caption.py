# SPDX-License-Identifier: Apache-2.0
"""`butd-hf caption`: images in, captions out."""

from .console import print_rows
from .images import ImageTask, run_on_images
from .options import (
    BatchSizeOption,
    DeviceOption,
    DrawOption,
    ImagesArgument,
    JsonOption,
    MaxNewTokensOption,
    ModelOption,
    NumBeamsOption,
    PromptOption,
)


# libraries that take seconds to import are imported inside functions, so that help and mistakes are answered at once


def caption(
    images: ImagesArgument,
    model: ModelOption = None,
    draw: DrawOption = None,
    json: JsonOption = False,
    prompt: PromptOption = None,
    num_beams: NumBeamsOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Caption images; --draw shows the regions, numbered by saliency, and where each word attends to.

    Exit code 1 if an image cannot be read; the others are captioned all the same.
    """

    def load() -> ImageTask:
        from ..drawing import draw_caption
        from ..inference import caption_images
        from .loading import load_checkpoint

        _, captioner, processor = load_checkpoint(model, device, "image-to-text")
        lengths = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        options = {name: value for name, value in lengths.items() if value is not None}
        options.update(prompt=prompt, output_attentions=draw is not None)
        return ImageTask(
            processor.image_processor,
            predict=lambda batch: caption_images(captioner, processor, batch, **options),
            describe=lambda found, image: {"caption": found.caption},
            draw=lambda found, image: draw_caption(
                image, found.boxes, found.words, found.attentions, caption=found.caption, masks=found.masks
            ),
            print_results=print_rows,
        )

    run_on_images(images, load, drawing=draw, as_json=json, batch_size=batch_size, what="captioning")
