# SPDX-License-Identifier: Apache-2.0
"""`butd-hf evaluate`: how well a checkpoint does its task on annotated images."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import report
from .evaluate_graphs import scene_graph
from .evaluation import load_data, predict_rows, print_scores, write_predictions
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


COMMON_HELP = "Boxes that a class needs to count for the mean over common classes."
FORMAT_HELP = "daquar, vqa2, gqa or easy_vqa; auto looks at the content."
METEOR_HELP = "METEOR, which needs Java; by default where it can be computed."
WUPS_HELP = "WUPS, which needs WordNet; by default where it can be computed."
CommonOption = Annotated[int, typer.Option("--common", min=1, help=COMMON_HELP)]

app = typer.Typer(help="Measure how well a checkpoint does its task.", no_args_is_help=True)


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
    meteor: Annotated[bool | None, typer.Option(help=METEOR_HELP)] = None,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """Score captions of a folder with captions.jsonl and images/, or of a COCO or Karpathy-split file.

    Each line of PREDICTIONS is {"image", "caption", "references"}. Exit code 1 if an image cannot be read; the others
    are scored all the same.
    """
    from ..data.captions import captions_file, images_folder, load_captions
    from ..inference import caption_images
    from ..metrics import CaptionMetrics
    from .loading import load_checkpoint

    table = load_data(load_captions, data, split=split)
    folder = images_folder(captions_file(data)).resolve()
    name, captioner, processor = load_checkpoint(model, device, "image-to-text")
    lengths = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    options = {option: value for option, value in lengths.items() if value is not None}
    lines = [
        {"image": os.path.relpath(row["image"], folder), "caption": found.caption, "references": row["captions"]}
        for row, found in predict_rows(
            list(table),
            processor.image_processor,
            lambda rows, images: caption_images(captioner, processor, images, prompt=prompt, **options),
            batch_size,
        )
    ]
    write_predictions(predictions, lines)
    scores = CaptionMetrics(meteor=meteor).compute(
        [line["caption"] for line in lines], [line["references"] for line in lines]
    )
    defaults = captioner.generation_config
    settings = {"task": "captioning", "model": name, "data": str(data), "split": split, "num_images": len(lines)}
    settings["num_beams"] = num_beams or defaults.num_beams or 1
    settings["max_new_tokens"] = max_new_tokens or defaults.max_new_tokens
    print_scores(scores, settings, as_json=json, complete=len(lines) == len(table))


@app.command()
def detection(
    context: typer.Context,
    data: DataOption,
    model: ModelOption = None,
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    common: CommonOption = 50,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """Score boxes on a folder with annotations.json and images/, or on a COCO-format file.

    Each line of PREDICTIONS is {"image_id", "image", "objects", "references", "regions"}. Exit code 1 if an image
    cannot be read; the others are scored all the same.
    """
    import torch

    from ..data.detection import label_names, load_detections
    from ..inference.objects import prediction_line, predictions_of, score_predictions
    from ..inference.regions import image_inputs
    from .loading import load_checkpoint

    table = load_data(load_detections, data, split=split)
    masks = context.info_name == "segmentation"
    name, detector, processor = load_checkpoint(model, device, "image-segmentation" if masks else "object-detection")
    names, known = label_names(table), list(detector.config.id2label.values())
    if names != known:
        raise typer.BadParameter(f"its classes {names} are not the model's {known}.", param_hint="--data")

    @torch.no_grad()
    def predict(rows: list[dict[str, Any]], images: list[Any]) -> list[dict[str, Any]]:
        outputs = detector(**image_inputs(detector, processor, images))
        return predictions_of(outputs, processor, [(image.height, image.width) for image in images], masks=masks)

    found = list(predict_rows(list(table), processor, predict, batch_size))
    lines = [{"image": Path(row["image"]).name, **prediction_line(row, each, names)} for row, each in found]
    write_predictions(predictions, lines)
    rows, predicted = zip(*found, strict=True)
    scores = score_predictions(predicted, rows, names=names, masks=masks, common=common)
    settings = {"task": context.info_name, "model": name, "data": str(data), "split": split, "num_images": len(rows)}
    print_scores(scores, {**settings, "common": common}, as_json=json, complete=len(rows) == len(table))


@app.command()
def vqa(
    data: DataOption,
    model: ModelOption = None,
    format: Annotated[str, typer.Option("--format", "-f", help=FORMAT_HELP)] = "auto",
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    types: Annotated[bool, typer.Option("--types", help="Accuracy of every type of question, too.")] = False,
    wups: Annotated[bool | None, typer.Option(help=WUPS_HELP)] = None,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """Score answers to the questions of a folder or file, see the data formats; `--data easy-vqa` is the package.

    Each line of PREDICTIONS is {"question_id", "image", "question", "answer", "score", "references"}; questions whose
    answers are kept back, as in test parts, are answered there and not scored. Exit code 1 if an image cannot be read;
    the others are scored all the same.
    """
    import torch

    from ..data.questions import load_questions
    from ..inference.answers import answer_scores
    from ..inference.regions import image_inputs
    from ..metrics.question_answering import WordNetUnavailableError, score_answers
    from .loading import load_checkpoint

    table = load_data(load_questions, data, split=split, format=format)
    name, answerer, processor = load_checkpoint(model, device, "visual-question-answering")
    questions: dict[str, list[dict[str, Any]]] = {}
    for row in table:
        questions.setdefault(row["image"], []).append(row)

    @torch.no_grad()
    def predict(rows: list[dict[str, Any]], images: list[Any]) -> list[list[dict[str, Any]]]:
        """The best answer to every question about each image, whose regions are selected once."""
        regions = answerer.encode_image(**image_inputs(answerer, processor.image_processor, images)).regions
        names = {"region_features": "features", "region_boxes": "boxes", "region_mask": "mask"}
        answers = []
        for place, row in enumerate(rows):
            texts = processor(text=[each["question"] for each in row["questions"]], return_tensors="pt")
            given = {name: regions[part][place : place + 1] for name, part in names.items()}
            scores = answer_scores(answerer, answerer(**given, **texts.to(answerer.device)).logits).max(dim=1)
            pairs = zip(scores.indices.tolist(), scores.values.tolist(), strict=True)
            answers.append(
                [{"answer": answerer.config.id2label[best], "score": round(score, 4)} for best, score in pairs]
            )
        return answers

    images = [{"image": image, "questions": rows} for image, rows in questions.items()]
    answered = [
        (row, answer)
        for image, answers in predict_rows(images, processor.image_processor, predict, batch_size)
        for row, answer in zip(image["questions"], answers, strict=True)
    ]
    lines = [
        {"question_id": row["question_id"], "image": Path(row["image"]).name, "question": row["question"]}
        | {**answer, "references": row["answers"]}
        for row, answer in answered
    ]
    write_predictions(predictions, lines)
    complete = len(answered) == len(table)
    scored = [{**row, **answer} for row, answer in answered if row["answers"]]
    if not scored:
        report("None of the questions has an answer to compare with: nothing to score.")
        raise typer.Exit(0 if predictions is not None and complete else 1)
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
    settings = {"task": "vqa", "model": name, "data": str(data), "split": split, "num_questions": len(scored)}
    settings["num_images"] = len({row["image"] for row in scored})
    print_scores(scores, settings, as_json=json, complete=complete)


SEGMENTATION_HELP = """Score boxes and masks; data, PREDICTIONS and exit codes are those of `detection`.

Masks are scored on the objects that have one; what is found on the others counts as neither right nor wrong.
"""
app.command("segmentation", help=SEGMENTATION_HELP)(detection)
app.command("scene-graph")(scene_graph)
