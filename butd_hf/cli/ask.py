# SPDX-License-Identifier: Apache-2.0
"""`butd-hf ask`: images and a question in, answers out."""

from typing import Annotated, Any

import typer

from .console import print_rows
from .images import ImageTask, run_on_images
from .options import BatchSizeOption, DeviceOption, DrawOption, JsonOption, ModelOption


def ask(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="File, folder, pattern or URL.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    model: ModelOption = None,
    draw: DrawOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="At most this many answers, the best.")] = 5,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Answer a question about an image, or about each of several; --draw shows where each attention hop attends to.

    Exit code 1 if an image cannot be read; the question is answered for the others all the same.
    """

    def load() -> ImageTask:
        from ..drawing import draw_caption
        from ..inference import answer_questions
        from .loading import load_checkpoint

        name, answerer, processor = load_checkpoint(model, device, "visual-question-answering")
        if answerer.config.bottom_up_config.selector == "given":
            raise typer.BadParameter(f"{name} takes ready regions and sees no images.", param_hint="--model")

        def describe(found: Any, image: Any) -> dict[str, Any]:
            pairs = zip(found.answers, found.scores, strict=True)
            answers = [{"answer": answer, "score": round(score, 4)} for answer, score in pairs]
            return {"question": question, "answers": answers}

        def draw_hops(found: Any, image: Any) -> Any:
            hops = [f"hop {number}" for number in range(1, len(found.attentions) + 1)]
            headline = f"{question.rstrip('?')}? {found.answers[0]} ({found.scores[0]:.0%})"
            return draw_caption(image, found.boxes, hops, found.attentions, caption=headline, masks=found.masks)

        return ImageTask(
            processor.image_processor,
            predict=lambda batch: answer_questions(answerer, processor, batch, [question] * len(batch), top_k=top_k),
            describe=describe,
            draw=draw_hops,
            print_results=lambda results: print_answers(results, question),
        )

    run_on_images([image], load, drawing=draw, as_json=json, batch_size=batch_size, what="answering")


def print_answers(results: list[dict[str, Any]], question: str) -> None:
    """A line per answer."""
    rows = [
        {"image": result["image"], "answer": each["answer"], "score": f"{each['score']:.1%}"}
        for result in results
        for each in result["answers"]
    ]
    print_rows(rows, title=question)
