# SPDX-License-Identifier: Apache-2.0
"""Train a scene graph model, which says how the objects of an image are related:

    accelerate launch examples/train_scene_graph.py --data FOLDER --output_dir RUN --init_from DETECTOR \
        --config dropout=0.5 --ema_decay 0.995 --num_train_epochs 7 --per_device_train_batch_size 16 \
        --learning_rate 1e-3 --weight_decay 0.1 --word_vectors glove.txt --train_sampling_strategy group_by_length

FOLDER is Visual Relationship Detection, Visual Genome, VG150, Open Images or PSG in their own files; in that of VRD,
`annotations*.json` lists images with `objects` and `relations`. Without images, labels and geometry of the annotated
objects teach alone (`--mode predcls`, the default); `--mode sgcls` or `--mode sgdet` also teaches the labels of
objects. DETECTOR is any checkpoint of this package, whose bottom-up half is taken over (frozen, unless there is
`--freeze none`) and finds the objects in photographs later; `--label_map` says where its classes are called otherwise
in the data. Labels begin as what their words mean with `--word_vectors`, a text file such as those of GloVe.

Every option of `TrainingArguments` works. The best model is the one with the highest R@50 on the evaluation split. RUN
is for `from_pretrained`, and holds its card, predictions and checkpoints; `--resume_from_checkpoint last` goes on from
the last of these.
"""

import json
from pathlib import Path

from transformers import set_seed

from butd_hf import ButdConfig, ButdForSceneGraphGeneration, ButdImageProcessor
from butd_hf.data.scene_graphs import label_names, load_scene_graphs, predicate_names
from butd_hf.inference.relations import read_graphs
from butd_hf.training.arguments import DataArguments, GraphArguments, ModelArguments, parse_arguments
from butd_hf.training.models import build_config, build_image_processor, build_model, is_checkpoint_of, resized
from butd_hf.training.run import run
from butd_hf.training.samples import SampleTable
from butd_hf.training.scene_graph import SceneGraphTask, join_labels
from butd_hf.training.splits import load_splits
from butd_hf.training.trainer import ButdTrainer
from butd_hf.training.word_vectors import label_embeddings


REGION_SIZE = 8  # of the features that a model without a bottom-up half never sees


def main() -> dict[str, float]:
    data, options, own, training = parse_arguments(
        *(DataArguments, ModelArguments, GraphArguments),
        description=__doc__,
        metric_for_best_model="recall_50_triples",
        augment=["none"],
        backbone="",
        freeze="all",
    )
    set_seed(training.seed)

    def load(source: str):
        keep = {"labels": own.num_labels, "predicates": own.num_predicates}
        where = {"images": data.images, "format": data.format}
        return load_scene_graphs(source, **keep, **where, strict=data.strict, require_images=data.strict)

    train_rows, eval_rows = load_splits(data, load, training.seed, keep=lambda row: len(row["relations"]) > 0)
    names, predicates = label_names(train_rows), predicate_names(train_rows)
    new = {
        "id2predicate": dict(enumerate(predicates)),
        "num_predicates": len(predicates),
        "tie_word_embeddings": False,
    }
    labels, bottom_up = names, {"selector": "given", "region_size": REGION_SIZE}
    if options.backbone:
        bottom_up = {"selector": "rpn", "num_region_labels": len(names)}
        options.freeze = "none"
    source = options.init_from or options.bottom_up_from
    if source is not None and not is_checkpoint_of(source, ButdForSceneGraphGeneration):
        other = ButdConfig.from_pretrained(source)
        published = other.bottom_up_config.selector == "faster_rcnn_c4"
        classes = list((other.bottom_up_config if published else other).id2label.values())
        if len(classes) == other.bottom_up_config.num_region_labels:
            label_map = json.loads(Path(own.label_map).read_text(encoding="utf-8")) if own.label_map else {}
            labels, new["region_label_ids"] = join_labels(names, classes, label_map)
    new["id2label"] = dict(enumerate(labels))
    new["label2id"] = {name: label for label, name in enumerate(labels)}
    has_images = all(image is not None for rows in (train_rows, eval_rows) for image in rows["image"])
    new["relation_appearance"] = has_images and (source is not None or bool(options.backbone))
    config = build_config(options, ButdForSceneGraphGeneration, new, bottom_up)
    model = build_model(options, ButdForSceneGraphGeneration, config)
    if not is_checkpoint_of(options.init_from, ButdForSceneGraphGeneration):
        embeddings = model.top_down.embed_labels.weight.data  # (num_labels, hidden_size)
        if options.word_vectors is not None:
            embeddings.copy_(label_embeddings(labels, options.word_vectors, embeddings.shape[1]))
        else:
            embeddings[len(names) :] = 0.0  # nothing is known of labels that the data doesn't have
    if own.mode == "predcls":
        model.object_head.requires_grad_(False)
    known = source is not None or bool(options.backbone)
    processor = build_image_processor(options) if known else resized(ButdImageProcessor(), options)

    graphs = read_graphs(train_rows)
    pixels = config.relation_appearance and has_images
    task = SceneGraphTask(processor, config, graphs, mode=own.mode, pixels=pixels, flip="flip" in data.augment)
    lengths = [len(graph.labels) for graph in graphs]
    samples = SampleTable(graphs, task.read, training=True, lengths=lengths, seed=training.seed, strict=data.strict)
    rates = {"ema_decay": options.ema_decay, "backbone_learning_rate": options.backbone_learning_rate}
    eval_samples = SampleTable(read_graphs(eval_rows), task.read)
    trainer = ButdTrainer(model, training, task, samples, eval_samples, **rates)
    relations = sum(len(graph.relations) for graph in graphs)
    return run(trainer, data, options, f"{len(graphs):,} images with {relations:,} relations")


if __name__ == "__main__":
    print(main())
