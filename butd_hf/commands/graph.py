# SPDX-License-Identifier: Apache-2.0
"""`butd-hf graph`: photographs in, objects and the relations between them out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .caption import shown
from .console import print_json, print_table, report
from .detect import PhotosArgument, sources_and_drawings
from .options import BatchSizeOption, DeviceOption, DrawOption, JsonOption, ModelOption, ThresholdOption


TopOption = Annotated[int, typer.Option("--top", min=0, help="At most this many relations per picture, the best.")]
RelationThresholdOption = Annotated[
    float, typer.Option("--relation-threshold", min=0.0, max=1.0, help="Only relations that score higher.")
]
TwinOverlapOption = Annotated[
    float,
    typer.Option(
        "--twin-overlap",
        min=0.0,
        max=1.0,
        help="Boxes of one label that overlap by this much are one thing, which has no relation to itself.",
    ),
]
DotOption = Annotated[bool, typer.Option("--dot", help="Print Graphviz's DOT, a digraph per picture.")]


def graph(
    photos: PhotosArgument,
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
    """
    Find the objects in photographs and how they are related: subject, predicate, object and score.

    Exit code 1 if a photograph cannot be read; graphs of the others are found all the same.
    """
    if json and dot:
        raise typer.BadParameter("print either JSON or DOT, not both.", param_hint="--dot")
    sources, drawings = sources_and_drawings(photos, draw)

    from ..modeling.modeling_scene_graph_butd import ButdForSceneGraphGeneration
    from ..modeling.pipelines.scene_graph_generation import SceneGraphGenerationPipeline
    from .detector import analyse
    from .loading import load_checkpoint

    _, loaded, processor = load_checkpoint(model, device, "scene-graph-generation", ButdForSceneGraphGeneration)
    grapher = SceneGraphGenerationPipeline(model=loaded, image_processor=processor, device=loaded.device)

    def find(pictures: list[Any]) -> list[dict[str, list]]:
        return grapher(
            pictures,
            threshold=threshold,
            relation_threshold=relation_threshold,
            top_k=top,
            twin_overlap=twin_overlap,
            batch_size=len(pictures),
        )

    results: list[dict[str, Any]] = []
    analysed = analyse(sources, processor, find, batch_size=batch_size, what="finding graphs")
    for photo, drawing in zip(analysed, drawings, strict=True):
        result: dict[str, Any] = {"image": photo.source}
        if photo.picture is None:
            report(f"{shown(photo.source)}: {photo.error}")
            result["error"] = photo.error
        else:
            result.update(width=photo.picture.width, height=photo.picture.height, **photo.found)
            if drawing is not None:
                draw_found(photo.picture, photo.found, drawing)
                result["drawing"] = str(drawing)
        results.append(result)
    if json:
        print_json(results)
    elif dot:
        print_dot(results)
    else:
        print_relations(results)
    if any("error" in result for result in results):
        raise typer.Exit(1)


def draw_found(picture: Any, found: dict[str, list], file: Path) -> None:
    """Draws a graph beside its picture."""
    from ..drawing import draw_graph, save_figure

    save_figure(draw_graph(picture, found), file)


def print_dot(results: list[dict[str, Any]]) -> None:
    """A digraph per picture that could be read, named as the picture is."""
    from ..graphs import to_dot

    for result in results:
        if "error" not in result:
            print(to_dot(result, name=shown(result["image"])), end="")


def print_relations(results: list[dict[str, Any]]) -> None:
    """A line per relation."""
    from ..graphs import to_triplets

    rows = []
    for result in results:
        if "error" in result:
            continue
        for triplet, relation in zip(to_triplets(result), result["relations"], strict=True):
            rows.append([shown(result["image"]), *triplet, f"{relation['score']:.3f}"])
        if not result["relations"]:
            rows.append([shown(result["image"]), "no relations", "", "", ""])
    if rows:
        print_table(["image", "subject", "predicate", "object", "score"], rows)
