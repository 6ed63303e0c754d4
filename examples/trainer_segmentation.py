# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune an instance segmenter with transformers' own `Trainer`:

    python examples/trainer_segmentation.py --data FOLDER --model RUN/best --output_dir RUN2 --num_train_epochs 3

FOLDER is as of `examples/train_segmentation.py`, with the splits `train` and `val`; its classes take the place of the
model's. Every option of `TrainingArguments` works. The model in RUN2 is for `from_pretrained`.
Boxes without a mask train classes and boxes alone.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace

from torch import tensor
from transformers import HfArgumentParser, Trainer, TrainingArguments

from butd_hf import ButdForInstanceSegmentation, ButdImageProcessor
from butd_hf.data.detection import coco_annotations, label_names, load_detections
from butd_hf.inference.objects import read_objects, reference_of
from butd_hf.metrics.average_precision import average_precision


@dataclass
class Options:
    data: str = field(metadata={"help": "COCO-format JSON file, or folder with annotations.json and images/."})
    model: str = field(metadata={"help": "Checkpoint of a segmenter, or of a detector."})
    eval_split: str = field(default="val", metadata={"help": "Split to score."})


def main() -> dict[str, float]:
    parser = HfArgumentParser([Options, TrainingArguments], description=__doc__)
    parser.set_defaults(remove_unused_columns=False, eval_do_concat_batches=False)
    options, arguments = parser.parse_args_into_dataclasses()
    train, val = (load_detections(options.data, split=split) for split in ("train", options.eval_split))
    names = label_names(train)
    labels = {"id2label": dict(enumerate(names)), "label2id": dict(zip(names, range(len(names)), strict=True))}
    model = ButdForInstanceSegmentation.from_pretrained(options.model, ignore_mismatched_sizes=True, **labels)
    processor = ButdImageProcessor.from_pretrained(options.model)

    def collate(rows: list[dict]) -> dict:
        images, objects = [row["image"] for row in rows], [coco_annotations(row) for row in rows]
        return dict(processor(images=images, annotations=objects, return_segmentation_masks=True, return_tensors="pt"))

    def score(evaluated) -> dict[str, float]:
        found = []
        for (_, logits, boxes, masks), labels in zip(evaluated.predictions, evaluated.label_ids, strict=True):
            outputs = SimpleNamespace(logits=tensor(logits), pred_boxes=tensor(boxes), pred_masks=tensor(masks))
            seen = read_objects(outputs, processor, [row["orig_size"] for row in labels], threshold=0.001, masks=True)
            found += [each.as_prediction() for each in seen]
        return average_precision(found, [reference_of(row) for row in val], names=names, masks=True)

    data = {"train_dataset": train, "eval_dataset": val, "data_collator": collate}
    trainer = Trainer(model, arguments, processing_class=processor, compute_metrics=score, **data)
    trainer.train()
    trainer.save_model()
    return trainer.evaluate()


if __name__ == "__main__":
    print(main())
