# SPDX-License-Identifier: Apache-2.0
"""What the command line of scene graph training can say, and what is built from it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from datasets import Dataset
from transformers import HfArgumentParser, PreTrainedConfig

from ..conversion.backbone_weights import load_backbone_weights
from ..data.flaws import require_files
from ..data.scene_graphs import SceneGraphDataError, label_names, load_scene_graphs, predicate_names
from ..inference.relations import GRAPH_MODES
from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_scene_graph_butd import ButdForSceneGraphGeneration
from .arguments import LoopArguments
from .bottom_up_weights import load_bottom_up
from .loop import TrainingLoop, build_accelerator
from .scene_graph import SceneGraphDataset, SceneGraphTask
from .word_vectors import label_embeddings


EVALUATION_SPLITS = ("val", "dev", "validation", "test")
BLIND_REGION_SIZE = 8  # of the features that a model without a bottom-up half never sees


@dataclass
class SceneGraphArguments:
    """What to train on, and what to train. An option without a default keeps what `--init_from` has."""

    data: str = field(metadata={"help": "Annotation file or folder: VRD, Visual Genome, VG150, Open Images, PSG."})
    images: str | None = field(default=None, metadata={"help": "Images folder; images/ beside the annotations."})
    format: str = field(default="auto", metadata={"help": "vrd, visual_genome, vg150, open_images, psg; or auto."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    eval_split: str | None = field(default=None, metadata={"help": f"Split to score: first of {EVALUATION_SPLITS}."})
    num_labels: int | None = field(default=None, metadata={"help": "Keep only so many object labels, the commonest."})
    num_predicates: int | None = field(default=None, metadata={"help": "The same of predicates."})
    strict: bool = field(
        default=False, metadata={"help": "Stop at a broken picture or an unlisted label instead of leaving it out."}
    )
    limit: int = field(default=0, metadata={"help": "Use only this many images of each split, for trials."})
    mode: str = field(default="predcls", metadata={"help": f"What is given of pictures: {', '.join(GRAPH_MODES)}."})
    appearance: bool | None = field(
        default=None, metadata={"help": "Judge relations by what regions look like; by default if there are pictures."}
    )

    init_from: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from: its bottom-up half and, if it makes scene graphs, all of it."},
    )
    backbone: str | None = field(
        default=None, metadata={"help": "Any timm name; without it and --init_from there is no bottom-up half."}
    )
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Weights file, installed package that carries one, or 'timm' to download."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Height and width in pixels."})
    train_bottom_up: bool = field(default=False, metadata={"help": "Train the bottom-up half of --init_from along."})
    label_map: str | None = field(
        default=None,
        metadata={"help": 'JSON file, {"class of the bottom-up half": "label of the data"}, where names differ.'},
    )
    predicate_names: str | None = field(
        default=None, metadata={"help": 'JSON file, {"predicate of the data": "name to show"}, where data misleads.'}
    )

    hidden_size: int | None = field(default=None, metadata={"help": "Width of the top-down half."})
    num_layers: int | None = field(default=None, metadata={"help": "Layers in which pairs look at regions."})
    num_region_layers: int | None = field(default=None, metadata={"help": "Self-attention layers among regions."})
    num_heads: int | None = field(default=None, metadata={"help": "Attention heads."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the feed-forward layers."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout of the top-down half."})
    pair_budget: int | None = field(default=None, metadata={"help": "Most pairs that are looked at per image."})
    pair_rivals: bool | None = field(default=None, metadata={"help": "Hear how a pair stands among its rivals."})
    word_vectors: str | None = field(
        default=None, metadata={"help": "Text file of word vectors, such as GloVe's, that labels begin as."}
    )
    frequency_prior: bool | None = field(default=None, metadata={"help": "Begin with how often labels are related."})
    min_count: int = field(default=1, metadata={"help": "Pairs of labels that were met less often share a prior."})
    logit_adjustment: float | None = field(default=None, metadata={"help": "0 to 1: favour rare predicates."})
    pair_loss: float | None = field(default=None, metadata={"help": "Weight of which pairs are related."})
    predicate_loss: float | None = field(default=None, metadata={"help": "Weight of how they are related."})
    object_loss: float | None = field(default=None, metadata={"help": "Weight of the labels of objects."})

    augment: list[str] = field(default_factory=list, metadata={"help": "Of flip; left and right change places."})
    group_sizes: bool = field(
        default=False, metadata={"help": "Batches of images with about as many objects: less padding, faster."}
    )
    eval_batch_size: int = field(default=16, metadata={"help": "Images per batch of the evaluation."})

    def __post_init__(self) -> None:
        self.augment = [name for name in self.augment if name != "none"]
        for name, values, expected in (("mode", [self.mode], GRAPH_MODES), ("augment", self.augment, ("flip",))):
            if not set(values) <= set(expected):
                raise ValueError(f"--{name} must be of {expected}, got {getattr(self, name)!r}.")


def load_splits(arguments: SceneGraphArguments) -> tuple[Dataset, Dataset]:
    """Images to learn from, those with relations, and those to score."""
    table = load_scene_graphs(
        arguments.data,
        images=arguments.images,
        format=arguments.format,
        labels=arguments.num_labels,
        predicates=arguments.num_predicates,
        strict=arguments.strict,
        require_images=arguments.strict,
    )
    splits, related = list(table["split"]), [len(relations) > 0 for relations in table["relations"]]
    eval_split = arguments.eval_split or next((name for name in EVALUATION_SPLITS if name in splits), None)
    found = []
    for split in (arguments.train_split, eval_split):
        rows = [row for row, name in enumerate(splits) if name == split]
        if split == arguments.train_split:
            rows = [row for row in rows if related[row]]
        if not any(related[row] for row in rows):
            raise ValueError(f"{arguments.data} has no relations in split {split!r}, but {sorted(set(splits))}.")
        found.append(table.select(rows[: arguments.limit or None]))
    require_files(filter(None, found[1]["image"]), arguments.data, SceneGraphDataError)
    return found[0], found[1]


def read_names(file: str | None) -> dict[str, str]:
    """A JSON file that maps names to names; an empty mapping if there is none."""
    if file is None:
        return {}
    names = json.loads(Path(file).read_text(encoding="utf-8"))
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{file} must hold one JSON object that maps names to names, got {type(names).__name__}.")
    return names


def renamed(names: Sequence[str], shown: Mapping[str, str], option: str) -> list[str]:
    """Names as they are shown. Raises `ValueError` if a name to change isn't there."""
    if unknown := sorted(set(shown) - set(names)):
        raise ValueError(f"{option} renames {unknown[:5]}, which are not in the data.")
    return [shown.get(name, name) for name in names]


def makes_scene_graphs(checkpoint: str | None) -> bool:
    """Whether a checkpoint holds a scene graph model, and not just a bottom-up half to start from."""
    if checkpoint is None:
        return False
    return "ButdForSceneGraphGeneration" in (
        PreTrainedConfig.get_config_dict(checkpoint)[0].get("architectures") or []
    )


def join_labels(names: list[str], classes: list[str], label_map: dict[str, str]) -> tuple[list[str], list[int]]:
    """
    Labels of the data and, behind them, classes that the bottom-up half tells apart and the data doesn't have.

    Args:
        names: Labels of the data.
        classes: Of the bottom-up half.
        label_map: What a class is called in the data, where names differ.

    Returns:
        All labels, and which of them each class means.
    """
    if unknown := sorted({*label_map.values()} - {*names}):
        raise ValueError(f"--label_map names labels that are not in the data: {unknown}.")
    if unknown := sorted({*label_map} - {*classes}):
        raise ValueError(f"--label_map names classes that the bottom-up half doesn't know: {unknown}.")
    meant = [label_map.get(name, name) for name in classes]
    labels = [*names, *(name for name in dict.fromkeys(meant) if name not in names)]
    return labels, [labels.index(name) for name in meant]


def build_config(arguments: SceneGraphArguments, names: list[str], predicates: list[str], look: bool) -> ButdConfig:
    """The config of the checkpoint to start from, or a new one, with what the command line and the data say."""
    if makes_scene_graphs(arguments.init_from):
        settings = ButdConfig.from_pretrained(arguments.init_from).to_dict()
    else:
        labels, meant = names, None
        bottom_up: dict[str, Any] = {"selector": "given", "region_size": BLIND_REGION_SIZE}
        if arguments.init_from is not None:
            other = ButdConfig.from_pretrained(arguments.init_from)
            bottom_up = other.bottom_up_config.to_dict()
            classes = [other.id2label[label] for label in range(other.num_labels)]
            if bottom_up["selector"] == "faster_rcnn_c4":
                classes = list(other.bottom_up_config.id2label.values())
            if len(classes) == bottom_up["num_region_labels"]:
                labels, meant = join_labels(names, classes, read_names(arguments.label_map))
        elif arguments.backbone is not None:
            bottom_up = {"backbone": arguments.backbone, "selector": "rpn", "num_region_labels": len(names)}
        settings = ButdConfig(bottom_up_config=bottom_up).to_dict()
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {name: label for label, name in enumerate(labels)}
        settings["id2predicate"] = dict(enumerate(predicates))
        settings["num_predicates"] = len(predicates)
        settings["region_label_ids"] = meant
        settings["relation_appearance"] = look
        settings["tie_word_embeddings"] = False
    if arguments.predicate_names is not None:
        shown = renamed(predicates, read_names(arguments.predicate_names), "--predicate_names")
        settings["predicate_names"] = dict(enumerate(shown))
    asked = {
        "hidden_size": arguments.hidden_size,
        "num_hidden_layers": arguments.num_layers,
        "num_region_layers": arguments.num_region_layers,
        "num_attention_heads": arguments.num_heads,
        "intermediate_size": arguments.intermediate_size,
        "dropout": arguments.dropout,
    }
    settings["top_down_config"].update({name: value for name, value in asked.items() if value is not None})
    asked = {
        "relation_appearance": arguments.appearance,
        "pair_budget": arguments.pair_budget,
        "pair_rivals": arguments.pair_rivals,
        "frequency_prior": arguments.frequency_prior,
        "logit_adjustment": arguments.logit_adjustment,
        "pair_loss_coefficient": arguments.pair_loss,
        "predicate_loss_coefficient": arguments.predicate_loss,
        "object_loss_coefficient": arguments.object_loss,
    }
    settings.update({name: value for name, value in asked.items() if value is not None})
    return ButdConfig.from_dict(settings)


def build_image_processor(arguments: SceneGraphArguments) -> ButdImageProcessor:
    """The image processor of the checkpoint to start from, or one for the backbone."""
    if arguments.init_from is not None:
        processor = ButdImageProcessor.from_pretrained(arguments.init_from)
    elif arguments.backbone is not None:
        processor = ButdImageProcessor.from_backbone(arguments.backbone)
    else:
        processor = ButdImageProcessor()
    if arguments.image_size is not None:
        size = {"height": arguments.image_size, "width": arguments.image_size}
        processor = type(processor)(**{**processor.to_dict(), "size": size})
    return processor


def build_model(
    arguments: SceneGraphArguments, train_dataset: SceneGraphDataset, look: bool
) -> ButdForSceneGraphGeneration:
    """The model, with the weights it starts from, frozen where it has nothing to learn from."""
    config = build_config(arguments, train_dataset.labels, train_dataset.predicates, look)
    if makes_scene_graphs(arguments.init_from):
        model = ButdForSceneGraphGeneration.from_pretrained(arguments.init_from, config=config)
    else:
        model = ButdForSceneGraphGeneration(config)
        if arguments.init_from is not None:
            load_bottom_up(model, arguments.init_from)
        embeddings = model.top_down.embed_labels.weight.data  # (num_labels, hidden_size)
        if arguments.word_vectors is not None:
            names = [config.id2label[label] for label in range(config.num_labels)]
            embeddings.copy_(label_embeddings(names, arguments.word_vectors, embeddings.shape[1]))
        else:  # labels that the data doesn't have: nothing is known of them, whatever the random beginning
            embeddings[len(train_dataset.labels) :] = 0.0
    if arguments.backbone_weights is not None:
        print(load_backbone_weights(model.bottom_up.backbone, arguments.backbone_weights, arguments.backbone))
    model.fit_frequency_prior([graph.as_labels() for graph in train_dataset.graphs], arguments.min_count)
    if arguments.mode == "predcls":
        model.object_head.requires_grad_(False)
    learns = look and (arguments.train_bottom_up or arguments.init_from is None)
    if not learns:
        model.bottom_up.requires_grad_(False)
    if arguments.mode != "sgdet" and config.bottom_up_config.selector == "rpn":
        # boxes are given, so nothing teaches to propose any; processes that train together must teach every weight
        selector = model.bottom_up.selector
        head = selector.region_head
        for part in (selector.proposal_head, head.box_proj, head.class_proj, head.attribute_proj, head.mask_head):
            if part is not None:
                part.requires_grad_(False)
    return model


def build_task(arguments: SceneGraphArguments, loop: LoopArguments) -> SceneGraphTask:
    """Model and data."""
    train_table, eval_table = load_splits(arguments)
    pictures = all(image is not None for table in (train_table, eval_table) for image in table["image"])
    sees = arguments.init_from is not None or arguments.backbone is not None
    look = arguments.mode != "predcls" or (pictures and sees if arguments.appearance is None else arguments.appearance)
    opposites = {}
    if arguments.augment:
        predicates = predicate_names(train_table)
        shown = renamed(predicates, read_names(arguments.predicate_names), "--predicate_names")
        opposites = opposite_predicates(shown)
    train_dataset = SceneGraphDataset(
        train_table,
        flip="flip" in arguments.augment,
        opposites=opposites,
        seed=loop.seed,
        strict=arguments.strict,
    )
    return SceneGraphTask(
        build_model(arguments, train_dataset, look),
        build_image_processor(arguments),
        train_dataset,
        SceneGraphDataset(eval_table),
        mode=arguments.mode,
        look=look,
        eval_batch_size=arguments.eval_batch_size,
        num_workers=loop.num_workers,
        group_sizes=arguments.group_sizes,
        settings={**asdict(arguments), "num_labels_of_data": len(label_names(train_table))},
    )


def opposite_predicates(names: Sequence[str]) -> dict[int, int]:
    """Predicates that change places in a mirror: those that differ in left and right."""
    swap = {"left": "right", "right": "left"}
    places = {name: number for number, name in enumerate(names)}
    twins = {number: " ".join(swap.get(word, word) for word in name.split()) for number, name in enumerate(names)}
    return {number: places[twin] for number, twin in twins.items() if twin in places and places[twin] != number}


def train(description: str | None) -> dict[str, float]:
    """Trains as the command line says, and returns the metrics of the last evaluation."""
    parser = HfArgumentParser([SceneGraphArguments, LoopArguments], description=description)
    parser.set_defaults(metric_for_best="recall_50_triples")
    arguments, loop = parser.parse_args_into_dataclasses()
    accelerator = build_accelerator(loop)
    set_seed(loop.seed)
    return TrainingLoop(build_task(arguments, loop), loop, accelerator).run()


__all__ = ["SceneGraphArguments", "build_task", "train"]
