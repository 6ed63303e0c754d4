# SPDX-License-Identifier: Apache-2.0
"""`butd-hf caption`: photographs in, captions out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import print_json, print_table, report
from .options import (
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    MaxNewTokensOption,
    ModelOption,
    NumBeamsOption,
    PromptOption,
)
from .photos import NoPhotosError, find_photos


SHOWN_LETTERS = 100  # of a source in the table: a data URI holds the whole picture

# libraries that take seconds to import wait inside the functions, so that help and mistakes are answered at once


def caption(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO", help="Files, folders, patterns, URLs.")],
    model: ModelOption = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw",
            help="Draw the regions, numbered by saliency, and where each word looked. "
            "With several photos OUT.png becomes OUT-1.png, OUT-2.png ...",
        ),
    ] = None,
    json: JsonOption = False,
    prompt: PromptOption = None,
    num_beams: NumBeamsOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """
    Caption photographs.

    Exit code 1 if one of them cannot be read; the others are captioned all the same.
    """
    try:
        sources = find_photos(photos)
    except NoPhotosError as error:
        raise typer.BadParameter(str(error), param_hint="PHOTO") from error
    drawings = drawing_files(draw, len(sources))

    from .captioner import Captioner

    captioner = Captioner.load(model, device)
    captioned = captioner.caption(
        sources,
        batch_size=batch_size,
        prompt=prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        output_attentions=draw is not None,
    )
    results: list[dict[str, Any]] = []
    for photo, drawing in zip(captioned, drawings, strict=True):
        result = {"image": photo.source}
        if photo.caption is None:
            report(f"{shown(photo.source)}: {photo.error}")
            result["error"] = photo.error
        else:
            result["caption"] = photo.caption.caption
            if drawing is not None:
                draw_photo(photo.picture, photo.caption, drawing)
                result["drawing"] = str(drawing)
        results.append(result)

    done = [result for result in results if "caption" in result]
    if json:
        print_json(results)
    elif done:
        columns = ["image", "caption"] + (["drawing"] if draw is not None else [])
        print_table(columns, [[shown(result[column]) for column in columns] for result in done])
    if len(done) < len(results):
        raise typer.Exit(1)


def drawing_files(draw: Path | None, count: int) -> list[Path | None]:
    """The file of each photograph's drawing: the given one, or that with a number if there are several."""
    if draw is None:
        return [None] * count
    from ..drawing import check_figure_file

    try:
        check_figure_file(draw)
        draw.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--draw") from error
    digits = len(str(count))
    return [
        draw.with_stem(f"{draw.stem}-{number:0{digits}d}") if count > 1 else draw for number in range(1, count + 1)
    ]


def draw_photo(picture: Any, caption: Any, file: Path) -> None:
    """Draws a photograph with its regions and words."""
    from ..drawing import draw_caption, save_figure

    figure = draw_caption(picture, caption.boxes, caption.words, caption.attentions, caption=caption.caption)
    save_figure(figure, file)


def shown(text: str) -> str:
    """The text as the table shows it."""
    return text if len(text) <= SHOWN_LETTERS or not text.startswith("data:") else text[: SHOWN_LETTERS // 2] + "…"
