# SPDX-License-Identifier: Apache-2.0
"""`butd-hf evaluate scene-graph`: how many annotated relations a checkpoint finds."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import report, write_lines
from .evaluate import print_scores
from .options import BatchSizeOption, DataOption, DeviceOption, JsonOption, ModelOption, PredictionsOption, SplitOption


ModeOption = Annotated[
    str,
    typer.Option("--mode", help="Given are predcls: boxes and labels of objects; sgcls: boxes; sgdet: only pictures."),
]
FormatOption = Annotated[
    str, typer.Option("--format", "-f", help="vrd, visual_genome, vg150, open_images or psg; auto looks at the files.")
]


def scene_graph(
    data: DataOption,
    mode: ModeOption = "predcls",
    model: ModelOption = None,
    format: FormatOption = "auto",
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    per_predicate: Annotated[
        bool, typer.Option("--per-predicate", help="The recall of every annotated predicate, too.")
    ] = False,
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Let each of several overlapping boxes of one thing tell the same of it.")
    ] = False,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """
    Score the relations between annotated objects, or between those found in pictures.

    With predcls, which needs no pictures, what counting alone gives stands beside: the most frequent predicate of
    each pair of labels, times how often such a pair is related. Of several overlapping boxes of one thing, only one
    tells a relation: the recalls count repetitions for nothing (see --repeats). Each line of PREDICTIONS is {"image",
    "objects", "relations", "references"}. Exit code 1 if a picture cannot be read; the others are scored all the same.
    """
    from ..data.scene_graphs import SceneGraphDataError, label_names, load_scene_graphs, predicate_names
    from ..relations import GRAPH_MODES, counted_graphs, prediction_line, read_graphs

    if mode not in GRAPH_MODES:
        raise typer.BadParameter(f"{mode!r} is none of {', '.join(GRAPH_MODES)}.", param_hint="--mode")
    try:
        table = load_scene_graphs(data, split=split, format=format)
    except (SceneGraphDataError, OSError, ImportError) as error:
        raise typer.BadParameter(str(error), param_hint="--data / --split / --format") from error
    without = sum(image is None for image in table["image"])
    if mode != "predcls" and without:
        raise typer.BadParameter(
            f"{mode} needs pictures, but {without} of {len(table)} images in {data} have none; predcls does without.",
            param_hint="--mode",
        )

    from ..metrics.graph_recall import SAME_OBJECT
    from ..metrics.scene_graphs import score_graphs
    from ..modeling.modeling_scene_graph_butd import ButdForSceneGraphGeneration
    from .loading import load_checkpoint

    name, loaded, processor = load_checkpoint(model, device, "scene-graph-generation", ButdForSceneGraphGeneration)
    config = loaded.config
    predicate_ids = {predicate: number for number, predicate in config.id2predicate.items()}
    labels = places_of(label_names(table), config.label2id, "labels")
    predicates = places_of(predicate_names(table), predicate_ids, "predicates")
    examples = [renumbered(example, labels, predicates) for example in read_graphs(table)]
    look = mode != "predcls" or (config.relation_appearance and not without)
    overlap = None if repeats else SAME_OBJECT
    found, unreadable = find_graphs(loaded, processor, examples, mode, look, batch_size, overlap)
    if not found:
        report("None of the pictures can be read: nothing to score.")
        raise typer.Exit(1)
    scored = [example for example, _ in found]
    if predictions is not None:
        lines = [prediction_line(example, graph, config.id2label, config.id2predicate) for example, graph in found]
        write_lines(
            predictions,
            [{"image": table[each.index]["image_id"], **line} for each, line in zip(scored, lines, strict=True)],
        )
    prior = loaded.top_down.frequency_prior
    references = [example.as_reference() for example in scored]
    options: dict[str, Any] = {"seen": prior.counted_triples() or None}
    try:
        scores = score_graphs(
            [graph for _, graph in found],
            references,
            predicates=list(config.id2predicate.values()) if per_predicate else None,
            **options,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--data / --split") from error
    if mode == "predcls" and len(prior.pair_keys):
        prior = prior.cpu().float()
        counted = score_graphs([counted_graphs(prior, example) for example in scored], references, **options)
        scores.update({f"counting_{key}": value for key, value in counted.items() if not key.startswith("ng_")})
    print_scores(
        scores, as_json=json, task="scene-graph", model=name, data=str(data), split=split, mode=mode,
        num_images=len(scored),
    )  # fmt: skip
    if unreadable:
        raise typer.Exit(1)


def places_of(names: list[str], known: dict[str, int], what: str) -> list[int]:
    """The model's number of each name of the data. Raises `typer.BadParameter` if it doesn't know one."""
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(
            f"{len(unknown)} of its {len(names)} {what} are not the model's, the first is {unknown[0]!r}.",
            param_hint="--data",
        )
    return [known[name] for name in names]


def renumbered(example: Any, labels: list[int], predicates: list[int]) -> Any:
    """A graph in the model's numbers."""
    import torch

    relations = example.relations.clone()
    relations[:, 2] = torch.tensor(predicates)[relations[:, 2]]
    return replace(example, labels=torch.tensor(labels)[example.labels], relations=relations)


def find_graphs(
    model: Any,
    processor: Any,
    examples: list[Any],
    mode: str,
    look: bool,
    batch_size: int,
    repeat_overlap: float | None,
) -> tuple[list[tuple[Any, dict[str, Any]]], int]:
    """Graphs with what was found, in the order of the examples, and how many pictures couldn't be read."""
    import torch
    from accelerate.utils import send_to_device

    from ..progress import images_progress
    from ..relations import collate_graphs, predicted_graphs
    from .pictures import read_photo

    found, unreadable = [], 0
    order = sorted(examples, key=lambda example: len(example.labels))  # less padding
    with images_progress(enabled=len(order) > batch_size) as progress, torch.no_grad():
        bar = progress.add_task("finding relations", total=len(order))
        for start in range(0, len(order), batch_size):
            batch, pictures = [], []
            for example in order[start : start + batch_size]:
                try:
                    if look:
                        pictures.append(read_photo(example.image, processor))
                    batch.append(example)
                except ValueError as error:
                    report(f"{Path(example.image).name}: {error}")
                    unreadable += 1
            progress.advance(bar, len(order[start : start + batch_size]))
            if not batch:
                continue
            inputs = collate_graphs(batch, mode, pictures if look else None, processor)
            del inputs["labels"]
            outputs = model(**send_to_device(inputs, model.device))
            sizes = [example.size for example in batch]
            graphs = predicted_graphs(outputs, processor, sizes, repeat_overlap=repeat_overlap)
            found.extend(zip(batch, graphs, strict=True))
    return sorted(found, key=lambda entry: entry[0].index), unreadable
