# SPDX-License-Identifier: Apache-2.0
"""`butd-hf ask`: photographs and a question in, answers out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .caption import drawing_files, shown
from .console import print_json, print_table, report
from .options import BatchSizeOption, DeviceOption, JsonOption, ModelOption
from .photos import NoPhotosError, find_photos


# libraries that take seconds to import wait inside the functions, so that help and mistakes are answered at once


def ask(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="File, folder, pattern or URL.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    model: ModelOption = None,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw",
            help="Draw the regions, numbered by saliency, and where each glimpse looked. "
            "With several photos OUT.png becomes OUT-1.png, OUT-2.png ...",
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="At most this many answers, the best.")] = 5,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """
    Answer a question about a photograph, or about each of several.

    Exit code 1 if one of them cannot be read; the others are asked about all the same.
    """
    try:
        sources = find_photos([photo])
    except NoPhotosError as error:
        raise typer.BadParameter(str(error), param_hint="PHOTO") from error
    drawings = drawing_files(draw, len(sources))

    from ..answering import answer_questions
    from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering
    from ..modeling.processing_butd import ButdProcessor
    from .detector import analyse
    from .loading import load_checkpoint

    name, loaded, processor = load_checkpoint(
        model, device, "visual-question-answering", ButdForQuestionAnswering, ButdProcessor
    )
    if loaded.config.bottom_up_config.selector == "given":
        raise typer.BadParameter(f"{name} takes ready regions and sees no pictures.", param_hint="--model")

    def find(pictures: list[Any]) -> list[Any]:
        return answer_questions(loaded, processor, pictures, [question] * len(pictures), top_k=top_k)

    results: list[dict[str, Any]] = []
    photos = analyse(sources, processor.image_processor, find, batch_size=batch_size, what="asking")
    for answered, drawing in zip(photos, drawings, strict=True):
        result: dict[str, Any] = {"image": answered.source, "question": question}
        if answered.found is None:
            report(f"{shown(answered.source)}: {answered.error}")
            result["error"] = answered.error
        else:
            pairs = zip(answered.found.answers, answered.found.scores, strict=True)
            result["answers"] = [{"answer": answer, "score": round(score, 4)} for answer, score in pairs]
            if drawing is not None:
                draw_photo(answered.picture, answered.found, drawing)
                result["drawing"] = str(drawing)
        results.append(result)

    done = [result for result in results if "answers" in result]
    if json:
        print_json(results)
    elif done:
        columns = ["image", "answer", "score"] if len(results) > 1 else ["answer", "score"]
        rows = [
            {"image": shown(result["image"]), "answer": each["answer"], "score": f"{each['score']:.1%}"}
            for result in done
            for each in result["answers"]
        ]
        print_table(columns, [[row[column] for column in columns] for row in rows], title=question)
    if len(done) < len(results):
        raise typer.Exit(1)


def draw_photo(picture: Any, found: Any, file: Path) -> None:
    """Draws a photograph with its regions, and a panel for each glimpse."""
    from ..drawing import draw_caption, save_figure

    glimpses = [f"glimpse {number}" for number in range(1, len(found.attentions) + 1)]
    headline = f"{found.question.rstrip('?')}? {found.answers[0]} ({found.scores[0]:.0%})"
    figure = draw_caption(picture, found.boxes, glimpses, found.attentions, caption=headline)
    save_figure(figure, file)
