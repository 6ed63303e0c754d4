"""`butd-hf evaluate`: how well a checkpoint does its task on annotated pictures."""

import os
from typing import Annotated, Any

import typer

from .console import print_json, print_table, report, write_lines
from .options import (
    BatchSizeOption,
    DataOption,
    DeviceOption,
    JsonOption,
    MaxNewTokensOption,
    ModelOption,
    NumBeamsOption,
    PredictionsOption,
    PromptOption,
    SplitOption,
)


app = typer.Typer(help="Measure how well a checkpoint does its task.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Measure how well a checkpoint does its task."""  # without a callback, one command alone would not be a name


@app.command()
def captioning(
    data: DataOption,
    model: ModelOption = None,
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    prompt: PromptOption = None,
    num_beams: NumBeamsOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    meteor: Annotated[
        bool | None, typer.Option(help="METEOR, which needs Java; by default where it can be computed.")
    ] = None,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """
    Score captions of a folder with captions.jsonl and images/, or of a COCO or Karpathy-split file.

    Each line of PREDICTIONS is {"image", "caption", "references"}. Exit code 1 if a picture cannot be read; the others
    are scored all the same.
    """
    from ..data.captions import CaptionDataError, captions_file, load_captions

    try:
        table = load_captions(data, split=split)
        folder = (captions_file(data).parent / "images").resolve()
    except (CaptionDataError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--data / --split") from error

    from ..metrics import CaptionMetrics
    from .captioner import Captioner

    captioner = Captioner.load(model, device)
    lines: list[dict[str, Any]] = []
    captioned = captioner.caption(
        list(table["image"]),
        batch_size=batch_size,
        prompt=prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
    )
    for photo, references in zip(captioned, table["captions"], strict=True):
        image = os.path.relpath(photo.source, folder)
        if photo.caption is None:
            report(f"{image}: {photo.error}")
        else:
            lines.append({"image": image, "caption": photo.caption.caption, "references": references})
    if not lines:
        report("None of the pictures can be read: nothing to score.")
        raise typer.Exit(1)
    if predictions is not None:
        write_lines(predictions, lines)

    scores = CaptionMetrics(meteor=meteor).compute(
        [line["caption"] for line in lines], [line["references"] for line in lines]
    )
    generation = captioner.model.generation_config
    print_scores(
        scores,
        as_json=json,
        task="captioning",
        model=captioner.name,
        data=str(data),
        split=split,
        num_images=len(lines),
        num_beams=num_beams or generation.num_beams or 1,
        max_new_tokens=max_new_tokens or generation.max_new_tokens,
    )
    if len(lines) < len(table):
        raise typer.Exit(1)


def print_scores(scores: dict[str, float], *, as_json: bool, **settings: Any) -> None:
    """Prints scores, and what they are scores of."""
    if as_json:
        print_json({**settings, "metrics": {name: round(value, 4) for name, value in scores.items()}})
        return
    from ..metrics.names import METRIC_NAMES

    title = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)
    rows = [[METRIC_NAMES.get(name, name), f"{value:.1f}"] for name, value in scores.items()]
    print_table(["metric", "score"], rows, title=title)
