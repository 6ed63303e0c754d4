# SPDX-License-Identifier: Apache-2.0
"""`butd-hf graph`: images in, objects and the relations between them out."""

from typing import Annotated, Any

import typer

from .console import print_rows
from .images import ImageTask, run_on_images
from .options import (
    BatchSizeOption,
    DeviceOption,
    DrawOption,
    ImagesArgument,
    JsonOption,
    ModelOption,
    Share,
    ThresholdOption,
)


TWIN_HELP = "IoU from which boxes of one label are one object, which has no relation to itself."
TopOption = Annotated[int, typer.Option("--top", min=0, help="At most this many relations per image, the best.")]
RelationThresholdOption = Annotated[
    float, typer.Option("--relation-threshold", **Share, help="Only relations that score higher.")
]
TwinOverlapOption = Annotated[float, typer.Option("--twin-overlap", **Share, help=TWIN_HELP)]
DotOption = Annotated[bool, typer.Option("--dot", help="Print Graphviz's DOT, a digraph per image.")]


def graph(
    images: ImagesArgument,
    model: ModelOption = None,
    threshold: ThresholdOption = 0.3,
    relation_threshold: RelationThresholdOption = 0.0,
    top: TopOption = 20,
    twin_overlap: TwinOverlapOption = 0.5,
    draw: DrawOption = None,
    json: JsonOption = False,
    dot: DotOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Detect objects and how they are related: subject, predicate, object and score.

    Exit code 1 if an image cannot be read; the others are processed all the same.
    """
    if json and dot:
        raise typer.BadParameter("print either JSON or DOT, not both.", param_hint="--dot")

    def load() -> ImageTask:
        from ..drawing import draw_graph
        from ..modeling.pipelines.scene_graph_generation import SceneGraphGenerationPipeline
        from .loading import load_checkpoint

        _, grapher, processor = load_checkpoint(model, device, "scene-graph-generation")
        pipeline = SceneGraphGenerationPipeline(model=grapher, image_processor=processor, device=grapher.device)
        options = {"threshold": threshold, "relation_threshold": relation_threshold, "top_k": top}
        return ImageTask(
            processor,
            predict=lambda batch: pipeline(batch, **options, twin_overlap=twin_overlap, batch_size=len(batch)),
            describe=lambda found, image: {"width": image.width, "height": image.height, **found},
            draw=lambda found, image: draw_graph(image, found),
            print_results=print_dot if dot else print_relations,
        )

    run_on_images(images, load, drawing=draw, as_json=json, batch_size=batch_size, what="relating objects")


def print_dot(results: list[dict[str, Any]]) -> None:
    """A digraph per image, named as the image is."""
    from ..graphs import to_dot

    for result in results:
        print(to_dot(result, name=result["image"]), end="")


def print_relations(results: list[dict[str, Any]]) -> None:
    """A line per relation."""
    from ..graphs import to_triplets

    rows = []
    for result in results:
        for (subject, predicate, target), relation in zip(to_triplets(result), result["relations"], strict=True):
            rows.append(
                {"image": result["image"], "subject": subject, "predicate": predicate, "object": target}
                | {"score": relation["score"]}
            )
        if not result["relations"]:
            rows.append({"image": result["image"], "subject": "no relations"})
    print_rows(rows)
