# SPDX-License-Identifier: Apache-2.0
"""`butd-hf evaluate scene-graph`: how many annotated relations a checkpoint predicts."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import report
from .evaluation import load_data, print_scores, write_predictions
from .images import Processed, process_batches, read_image
from .options import BatchSizeOption, DataOption, DeviceOption, JsonOption, ModelOption, PredictionsOption, SplitOption


MODE_HELP = "Given are predcls: boxes and labels of objects; sgcls: boxes; sgdet: only images."
FORMAT_HELP = "vrd or vg150; auto looks at the files."
REPEATS_HELP = "Count a relation of each of several overlapping boxes of one object."


def scene_graph(
    data: DataOption,
    mode: Annotated[str, typer.Option("--mode", help=MODE_HELP)] = "predcls",
    model: ModelOption = None,
    format: Annotated[str, typer.Option("--format", "-f", help=FORMAT_HELP)] = "auto",
    split: SplitOption = None,
    json: JsonOption = False,
    predictions: PredictionsOption = None,
    per_predicate: Annotated[bool, typer.Option("--per-predicate", help="Recall of every predicate, too.")] = False,
    repeats: Annotated[bool, typer.Option("--repeats", help=REPEATS_HELP)] = False,
    batch_size: BatchSizeOption = 16,
    device: DeviceOption = "auto",
) -> None:
    """Score the relations between annotated objects, or between those found in images.

    Of several overlapping boxes of one object, only one has a relation: the recalls count repetitions for nothing (see
    --repeats). Each line of PREDICTIONS is {"image", "objects", "relations", "references"}. Exit code 1 if an image
    cannot be read; the others are scored all the same.
    """
    import torch

    from ..data.scene_graphs import label_names, load_scene_graphs, predicate_names
    from ..inference.relations import GRAPH_MODES, collate_graphs, predicted_graphs, prediction_line, read_graphs
    from ..metrics.graph_recall import SAME_OBJECT
    from ..metrics.scene_graphs import score_graphs
    from .loading import load_checkpoint

    if mode not in GRAPH_MODES:
        raise typer.BadParameter(f"{mode!r} is none of {', '.join(GRAPH_MODES)}.", param_hint="--mode")
    table = load_data(load_scene_graphs, data, split=split, format=format)
    without = sum(image is None for image in table["image"])
    if mode != "predcls" and without:
        reason = f"{mode} needs images, but {without} of {len(table)} in {data} have none; predcls does without."
        raise typer.BadParameter(reason, param_hint="--mode")
    name, grapher, processor = load_checkpoint(model, device, "scene-graph-generation")
    config = grapher.config
    predicate_ids = {predicate: number for number, predicate in config.id2predicate.items()}
    labels = numbers_of(label_names(table), config.label2id, "labels")
    predicates = numbers_of(predicate_names(table), predicate_ids, "predicates")
    sees = mode != "predcls" or (config.relation_appearance and not without)

    @torch.no_grad()
    def predict(batch: list[Processed]) -> list[dict[str, Any]]:
        examples = [each.item for each in batch]
        inputs = collate_graphs(examples, mode, [each.image for each in batch] if sees else None, processor)
        del inputs["labels"]
        outputs = grapher(**{name: value.to(grapher.device) for name, value in inputs.items()})
        sizes = [example.size for example in examples]
        return predicted_graphs(outputs, processor, sizes, repeat_overlap=None if repeats else SAME_OBJECT)

    examples = [renumbered(example, labels, predicates) for example in read_graphs(table)]
    examples.sort(key=lambda example: len(example.labels))  # less padding
    found = list(
        process_batches(
            examples,
            lambda example: read_image(example.image, processor) if sees else None,
            predict,
            batch_size=batch_size,
            what="evaluating",
        )
    )
    for each in found:
        if each.error is not None:
            report(f"{Path(each.item.image).name}: {each.error}")
    found = sorted((each for each in found if each.error is None), key=lambda each: each.item.index)
    ids = table["image_id"]
    lines = [
        {"image": ids[each.item.index]} | prediction_line(each.item, each.found, config.id2label, config.id2predicate)
        for each in found
    ]
    write_predictions(predictions, lines)
    names = list(config.id2predicate.values()) if per_predicate else None
    references = [each.item.as_reference() for each in found]
    try:
        scores = score_graphs([each.found for each in found], references, predicates=names)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--data / --split") from error
    settings = {"task": "scene-graph", "model": name, "data": str(data), "split": split, "mode": mode}
    settings["num_images"] = len(found)
    print_scores(scores, settings, as_json=json, complete=len(found) == len(examples))


def numbers_of(names: list[str], known: dict[str, int], what: str) -> list[int]:
    """The model's number of each name of the data. Raises `typer.BadParameter` if it doesn't know one."""
    if unknown := [name for name in names if name not in known]:
        reason = f"{len(unknown)} of its {len(names)} {what} are not the model's, the first is {unknown[0]!r}."
        raise typer.BadParameter(reason, param_hint="--data")
    return [known[name] for name in names]


def renumbered(example: Any, labels: list[int], predicates: list[int]) -> Any:
    """A graph in the model's numbers."""
    import torch

    relations = example.relations.clone()
    relations[:, 2] = torch.tensor(predicates)[relations[:, 2]]
    return replace(example, labels=torch.tensor(labels)[example.labels], relations=relations)
