# SPDX-License-Identifier: Apache-2.0
"""Images that the user names: which they are, reading them, and running a model on all that can be read."""

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from PIL import Image

from .console import print_json, report


# what is taken from a folder; a file named by itself may be anything that Pillow reads
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
REMOTE = ("http://", "https://", "data:")
SHOWN_LETTERS = 100  # of a source in messages and tables: a data URI holds the whole image


def list_images(names: Iterable[str], hint: str = "IMAGE") -> list[str]:
    """Paths and URLs of images, in the order of the names, each folder and pattern sorted.

    Args:
        names: Files; folders, for the images directly in them; patterns like `album/**/*.jpg`; http(s) URLs and data
            URIs.
        hint: What the command calls them.

    Raises:
        typer.BadParameter: There is no such file, no image in a folder or nothing that fits a pattern.
    """
    sources: list[str] = []
    for name in names:
        path = Path(name)
        if name.startswith(REMOTE) or path.is_file():
            sources.append(name)
            continue
        if not path.exists() and not glob.has_magic(name):
            raise typer.BadParameter(f"no such file or folder: {name!r}.", param_hint=hint)
        files = path.iterdir() if path.exists() else map(Path, glob.glob(name, recursive=True))
        found = sorted(str(file) for file in files if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            expected = f"expected files ending in {', '.join(sorted(SUFFIXES))}"
            raise typer.BadParameter(f"no image in folder or pattern {name!r}: {expected}.", param_hint=hint)
        sources.extend(found)
    return sources


def read_image(source: str, image_processor: Any) -> Image.Image:
    """The image behind a path or URL, upright and in RGB as models see it. Raises `ValueError` if it is unreadable."""
    try:
        pixels = image_processor.process_image(image_processor.fetch_images(source), name=str(source)[:200])
    except ValueError as error:
        raise ValueError(str(error).removeprefix("images: ")) from error
    return Image.fromarray(pixels.movedim(0, -1).numpy())


@dataclass
class Processed:
    """An item with its image, and what a model made of it or the reason why it could not."""

    item: Any
    image: Image.Image | None = None
    found: Any = None
    error: str | None = None


def process_batches(
    items: Sequence[Any],
    read: Callable[[Any], Image.Image | None],
    predict: Callable[[list[Processed]], Sequence[Any]],
    *,
    batch_size: int,
    what: str,
) -> Iterator[Processed]:
    """Runs a model on the images of items, in their order, with a progress bar if there are several batches.

    Args:
        items: What is processed.
        read: Reads the image of an item. Where it raises `ValueError`, the item has its message as `error`.
        predict: A result for each item of a batch; it sees only those that could be read.
        batch_size: Items at a time.
        what: What the progress bar says.
    """
    from ..progress import images_progress

    with images_progress(enabled=len(items) > batch_size) as progress:
        bar = progress.add_task(what, total=len(items))
        for start in range(0, len(items), batch_size):
            batch = [Processed(item) for item in items[start : start + batch_size]]
            for each in batch:
                try:
                    each.image = read(each.item)
                except ValueError as error:
                    each.error = str(error)
            readable = [each for each in batch if each.error is None]
            for each, found in zip(readable, predict(readable) if readable else (), strict=True):
                each.found = found
            progress.advance(bar, len(batch))
            yield from batch


@dataclass
class ImageTask:
    """What a command does with images, once its model is loaded.

    Attributes:
        image_processor: What reads them.
        predict: Results for a batch of images.
        describe: A result as JSON prints it, from result and image.
        draw: A figure, from result and image.
        print_results: Prints described results as a table or the like.
    """

    image_processor: Any
    predict: Callable[[list[Image.Image]], Sequence[Any]]
    describe: Callable[[Any, Image.Image], dict[str, Any]]
    draw: Callable[[Any, Image.Image], Any]
    print_results: Callable[[list[dict[str, Any]]], None]


def run_on_images(
    names: Sequence[str],
    load: Callable[[], ImageTask],
    *,
    drawing: Path | None,
    as_json: bool,
    batch_size: int,
    what: str,
) -> None:
    """Runs a command on the images that the user named, draws and prints its results.

    Exit code 1 if an image cannot be read, which is reported; the others are processed all the same.

    Args:
        names: See `list_images`.
        load: Loads the model, when everything else is known to be right.
        drawing: Where the figure goes; with several images it gets their numbers.
        as_json: Whether to print JSON instead.
        batch_size: Images at a time.
        what: What the progress bar says.
    """
    sources = list_images(names)
    drawings = drawing_files(drawing, len(sources))
    task = load()
    batches = process_batches(
        sources,
        lambda source: read_image(source, task.image_processor),
        lambda batch: task.predict([each.image for each in batch]),
        batch_size=batch_size,
        what=what,
    )
    results: list[dict[str, Any]] = []
    for each, file in zip(batches, drawings, strict=True):
        result: dict[str, Any] = {"image": each.item}
        if each.error is not None:
            report(f"{shown(each.item)}: {each.error}")
            result["error"] = each.error
        else:
            result.update(task.describe(each.found, each.image))
            if file is not None:
                from ..drawing import save_figure

                save_figure(task.draw(each.found, each.image), file)
                result["drawing"] = str(file)
        results.append(result)
    done = [{**result, "image": shown(result["image"])} for result in results if "error" not in result]
    if as_json:
        print_json(results)
    else:
        task.print_results(done)
    if len(done) < len(results):
        raise typer.Exit(1)


def drawing_files(drawing: Path | None, count: int) -> list[Path | None]:
    """The file of each image's drawing: the given one, or that with a number if there are several."""
    if drawing is None:
        return [None] * count
    from ..drawing import check_figure_file

    try:
        check_figure_file(drawing)
        drawing.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--draw") from error
    numbers = [f"-{number:0{len(str(count))}d}" for number in range(1, count + 1)] if count > 1 else [""]
    return [drawing.with_stem(drawing.stem + number) for number in numbers]


def shown(source: str) -> str:
    """A path or URL as tables and messages show it."""
    is_long = len(source) > SHOWN_LETTERS and source.startswith("data:")
    return source[: SHOWN_LETTERS // 2] + "…" if is_long else source
