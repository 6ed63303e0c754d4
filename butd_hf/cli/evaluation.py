# SPDX-License-Identifier: Apache-2.0
"""What all evaluations have in common: loading data, predicting, and printing scores."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from .console import print_json, print_rows, report, write_lines
from .images import Processed, process_batches, read_image


def load_data(load: Callable[..., Any], data: Path, **options: Any) -> Any:
    """What `load` makes of the data. Raises `typer.BadParameter` if they aren't there or not in order."""
    try:
        return load(data, **options)
    except (ValueError, OSError, ImportError) as error:
        names = " / ".join(f"--{name}" for name in ("data", *options))
        raise typer.BadParameter(str(error), param_hint=names) from error


def predict_rows(
    rows: Sequence[dict[str, Any]],
    image_processor: Any,
    predict: Callable[[list[dict[str, Any]], list[Any]], Sequence[Any]],
    batch_size: int,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Rows, with what `predict` made of them and their images. Rows whose image can't be read, or isn't of the
    annotated `width` and `height` if there are any, are reported and left out.
    """

    def read(row: dict[str, Any]) -> Any:
        image = read_image(row["image"], image_processor)
        size = (row.get("width"), row.get("height"))
        if None not in size and image.size != size:
            raise ValueError(f"it is {image.size}, but annotated as {size}")
        return image

    def predict_batch(batch: list[Processed]) -> Sequence[Any]:
        return predict([each.item for each in batch], [each.image for each in batch])

    for each in process_batches(rows, read, predict_batch, batch_size=batch_size, what="evaluating"):
        if each.error is None:
            yield each.item, each.found
        else:
            report(f"{each.item['image']}: {each.error}")


def write_predictions(file: Path | None, lines: list[dict[str, Any]]) -> None:
    """Writes a predictions file if one is wanted. Ends with exit code 1 if there are no predictions at all."""
    if not lines:
        report("None of the images can be read: nothing to score.")
        raise typer.Exit(1)
    if file is not None:
        write_lines(file, lines)


def print_scores(scores: dict[str, float], settings: dict[str, Any], *, as_json: bool, complete: bool) -> None:
    """Prints scores, and what they are scores of. Ends with exit code 1 unless they are of all data."""
    if as_json:
        numbers = {name: round(value, 4) if math.isfinite(value) else None for name, value in scores.items()}
        print_json({**settings, "metrics": numbers})
    else:
        from ..metrics.names import metric_name

        title = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)
        print_rows([{"metric": metric_name(name), "score": f"{value:.1f}"} for name, value in scores.items()], title)
    if not complete:
        raise typer.Exit(1)
