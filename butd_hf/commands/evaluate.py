# SPDX-License-Identifier: Apache-2.0
"""`butd-hf evaluate`: how well a checkpoint does its task on annotated pictures."""

import math
import os
from pathlib import Path
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


CommonOption = Annotated[
    int, typer.Option("--common", min=1, help="Boxes that a class needs to count for the mean over common classes.")
]
FormatOption = Annotated[
    str,
    typer.Option("--format", "-f", help="daquar, vqa2, gqa, visual_genome or easy_vqa; auto looks at the content."),
]

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
    from ..data.captions import captions_file, images_folder, load_captions
    from ..data.data_errors import DataError

    try:
        table = load_captions(data, split=split)
        folder = images_folder(captions_file(data)).resolve()
    except (DataError, OSError) as error:
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


@app.command()
def detection(
    data: DataOption,
    model: ModelOption = None,
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    common: CommonOption = 50,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """
    Score boxes on a folder with annotations.json and images/, or on a COCO-format file.

    Each line of PREDICTIONS is {"image_id", "image", "objects", "references", "regions"}. Exit code 1 if a picture
    cannot be read; the others are scored all the same.
    """
    score_objects(data, model, split, json, predictions, common, batch_size, device, masks=False)


@app.command()
def segmentation(
    data: DataOption,
    model: ModelOption = None,
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    common: CommonOption = 50,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """
    Score boxes and masks on a folder with annotations.json and images/, or on a COCO-format file.

    Masks are scored on the objects that have one; what is found on the others counts as neither right nor wrong.
    Each line of PREDICTIONS is {"image_id", "image", "objects", "references", "regions"}. Exit code 1 if a picture
    cannot be read; the others are scored all the same.
    """
    score_objects(data, model, split, json, predictions, common, batch_size, device, masks=True)


@app.command()
def vqa(
    data: DataOption,
    model: ModelOption = None,
    format: FormatOption = "auto",
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    types: Annotated[bool, typer.Option("--types", help="Accuracy of every type of question, too.")] = False,
    wups: Annotated[
        bool | None, typer.Option(help="WUPS, which needs WordNet; by default where it can be computed.")
    ] = None,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """
    Score answers to the questions of a folder or file, see the data formats; `--data easy-vqa` is the package.

    Each line of PREDICTIONS is {"question_id", "image", "question", "answer", "score", "references"}; questions whose
    answers are kept back, as in test parts, are answered there and not scored. Exit code 1 if a picture cannot be
    read; the others are scored all the same.
    """
    from ..data.data_errors import DataError
    from ..data.questions import load_questions

    try:
        table = load_questions(data, split=split, format=format)
    except (DataError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--data / --split / --format") from error

    from ..metrics.question_answering import WordNetUnavailableError, score_answers
    from .answerer import Answerer

    answerer = Answerer.load(model, device)
    scored: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    unreadable = 0
    for answered in answerer.answer(list(table), batch_size=batch_size):
        row = answered.row
        if answered.error is not None:
            report(f"{row['image']}: {answered.error}")
            unreadable += 1
            continue
        line = {"question_id": row["question_id"], "image": Path(row["image"]).name, "question": row["question"]}
        lines.append({**line, "answer": answered.answer, "score": answered.score, "references": row["answers"]})
        if row["answers"]:
            scored.append({**row, "answer": answered.answer})
    if not lines:
        report("None of the pictures can be read: nothing to score.")
        raise typer.Exit(1)
    if predictions is not None:
        write_lines(predictions, lines)
    if not scored:
        report("None of the questions has an answer to compare with: nothing to score.")
        raise typer.Exit(0 if predictions is not None and not unreadable else 1)
    try:
        scores = score_answers(
            [row["answer"] for row in scored],
            [row["answers"] for row in scored],
            together=scored[0]["together"],
            answer_types=[row["answer_type"] for row in scored],
            question_types=[row["question_type"] for row in scored] if types else None,
            wups=wups,
        )
    except WordNetUnavailableError as error:
        raise typer.BadParameter(str(error), param_hint="--wups") from error
    print_scores(
        scores,
        as_json=json,
        task="vqa",
        model=answerer.name,
        data=str(data),
        split=split,
        num_questions=len(scored),
        num_images=len({row["image"] for row in scored}),
    )
    if unreadable:
        raise typer.Exit(1)


def score_objects(
    data: Path,
    model: str | None,
    split: str | None,
    json: bool,
    predictions: Path | None,
    common: int,
    batch_size: int,
    device: str,
    *,
    masks: bool,
) -> None:
    """The body of `detection` and `segmentation`."""
    from ..data.data_errors import DataError
    from ..data.detection import label_names, load_detections

    try:
        table = load_detections(data, split=split)
    except (DataError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="--data / --split") from error

    import torch

    from ..detection import prediction_line, predictions_of, prepare_pictures, score_predictions
    from ..modeling.modeling_detection_butd import ButdForInstanceSegmentation, ButdForObjectDetection
    from .detector import analyse
    from .loading import load_checkpoint

    task, model_class = (
        ("image-segmentation", ButdForInstanceSegmentation) if masks else ("object-detection", ButdForObjectDetection)
    )
    name, loaded, processor = load_checkpoint(model, device, task, model_class)

    names = label_names(table)
    if list(loaded.config.id2label.values()) != names:
        raise typer.BadParameter(
            f"its classes {names} are not the model's {list(loaded.config.id2label.values())}.", param_hint="--data"
        )
    by_source = {row["image"]: row for row in table}

    @torch.no_grad()
    def find(pictures: list[Any]) -> list[Any]:
        outputs = loaded(**prepare_pictures(processor, pictures, loaded))
        sizes = [(picture.height, picture.width) for picture in pictures]
        return predictions_of(outputs, processor, sizes, masks=masks)

    rows, found = [], []
    for photo in analyse(list(by_source), processor, find, batch_size=batch_size, what="detecting"):
        row = by_source[photo.source]
        if photo.picture is not None and photo.picture.size != (row["width"], row["height"]):
            photo.error = f"it is {photo.picture.size}, but annotated as {(row['width'], row['height'])}"
        if photo.error is not None:
            report(f"{photo.source}: {photo.error}")
        else:
            rows.append(row)
            found.append(photo.found)
    if not rows:
        report("None of the pictures can be read: nothing to score.")
        raise typer.Exit(1)
    if predictions is not None:
        pairs = zip(rows, found, strict=True)
        write_lines(
            predictions,
            [{"image": Path(row["image"]).name, **prediction_line(row, each, names)} for row, each in pairs],
        )
    print_scores(
        score_predictions(found, rows, names=names, masks=masks, common=common),
        as_json=json,
        task="segmentation" if masks else "detection",
        model=name,
        data=str(data),
        split=split,
        num_images=len(rows),
        common=common,
    )
    if len(rows) < len(table):
        raise typer.Exit(1)


def print_scores(scores: dict[str, float], *, as_json: bool, **settings: Any) -> None:
    """Prints scores, and what they are scores of."""
    if as_json:
        numbers = {name: round(value, 4) if math.isfinite(value) else None for name, value in scores.items()}
        print_json({**settings, "metrics": numbers})
        return
    from ..metrics.names import metric_name

    title = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items() if value is not None)
    rows = [[metric_name(name), f"{value:.1f}"] for name, value in scores.items()]
    print_table(["metric", "score"], rows, title=title)
