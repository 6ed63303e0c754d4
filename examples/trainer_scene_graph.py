# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune a scene graph model with transformers' own `Trainer`, on objects that are known (predicate classification):

    python examples/trainer_scene_graph.py --data annotations.json --model RUN/best --output_dir RUN2

The JSON file is a list of images with `split`, `objects` (`label`, `bbox` as x, y, width, height) and `relations`
(`subject`, `predicate`, `object`), as of the Visual Relationship Detection data set; the model must know its labels.
Pictures aren't read: labels and geometry teach alone. Every option of `TrainingArguments` works. The model in RUN2 is
for `from_pretrained`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert
from transformers import HfArgumentParser, Trainer, TrainingArguments

from butd_hf import ButdForSceneGraphGeneration


@dataclass
class Options:
    data: str = field(metadata={"help": "JSON file of annotated images."})
    model: str = field(metadata={"help": "Checkpoint of a scene graph model."})
    eval_split: str = field(default="val", metadata={"help": "Split whose loss is told."})


def main() -> dict[str, float]:
    parser = HfArgumentParser([Options, TrainingArguments], description=__doc__)
    parser.set_defaults(remove_unused_columns=False, label_names=["labels"], prediction_loss_only=True)
    options, arguments = parser.parse_args_into_dataclasses()
    model = ButdForSceneGraphGeneration.from_pretrained(options.model)
    names, predicates = model.config.label2id, {name: label for label, name in model.config.id2predicate.items()}
    images = [image for image in json.loads(Path(options.data).read_text()) if image["relations"]]
    train, val = ([image for image in images if image["split"] == split] for split in ("train", options.eval_split))

    def collate(images: list[dict]) -> dict:
        given, labels = {"region_boxes": [], "region_labels": [], "region_mask": []}, []
        for image in images:
            boxes = box_convert(torch.tensor([each["bbox"] for each in image["objects"]]).float(), "xywh", "xyxy")
            boxes = boxes / boxes.amax(0)[2:].repeat(2)  # the file doesn't say how large the picture is
            classes = torch.tensor([names[each["label"]] for each in image["objects"]])
            for name, value in zip(given, (boxes, classes, classes >= 0), strict=True):
                given[name].append(value)
            related = [[each["subject"], each["object"], predicates[each["predicate"]]] for each in image["relations"]]
            boxes = box_convert(boxes, "xyxy", "cxcywh")
            labels.append({"class_labels": classes, "boxes": boxes, "relations": torch.tensor(related)})
        return {name: pad_sequence(rows, batch_first=True) for name, rows in given.items()} | {"labels": labels}

    trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=val, data_collator=collate)
    trainer.train()
    trainer.save_model()
    return trainer.evaluate()


if __name__ == "__main__":
    print(main())
