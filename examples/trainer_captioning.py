# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune a captioner with transformers' own `Seq2SeqTrainer`:

    python examples/trainer_captioning.py --data FOLDER --output_dir RUN --num_train_epochs 3 --learning_rate 1e-4

FOLDER is as of `examples/train_captioning.py`: captions and images, of the splits `train` and `dev`. Every option of
`Seq2SeqTrainingArguments` works. The model in RUN is for `from_pretrained`, and captions are scored at the end.
"""

import random
from dataclasses import dataclass, field

from transformers import HfArgumentParser, Seq2SeqTrainer, Seq2SeqTrainingArguments

from butd_hf import ButdForConditionalGeneration, ButdProcessor, default_checkpoint
from butd_hf.data.captions import load_captions
from butd_hf.metrics import CaptionMetrics


@dataclass
class Options:
    data: str = field(metadata={"help": "Captions file, or folder with captions.jsonl and images/."})
    model: str | None = field(default=None, metadata={"help": "Checkpoint; the embedded captioner by default."})
    eval_split: str = field(default="dev", metadata={"help": "Split to score."})


def main() -> dict[str, float]:
    parser = HfArgumentParser([Options, Seq2SeqTrainingArguments], description=__doc__)
    parser.set_defaults(predict_with_generate=True, remove_unused_columns=False)
    options, arguments = parser.parse_args_into_dataclasses()
    checkpoint = options.model or default_checkpoint("image-to-text")
    model = ButdForConditionalGeneration.from_pretrained(checkpoint)
    processor = ButdProcessor.from_pretrained(checkpoint)
    train, dev = (load_captions(options.data, split=split) for split in ("train", options.eval_split))

    def collate(rows: list[dict]) -> dict:
        captions = [random.choice(row["captions"]) for row in rows]
        pixels = processor(images=[row["image"] for row in rows], return_tensors="pt")
        return {**pixels, "labels": processor.encode_captions(captions)["labels"]}

    def score(evaluated) -> dict[str, float]:
        tokens = evaluated.predictions.clip(min=0)  # the trainer pads with -100
        return CaptionMetrics().compute(processor.batch_decode(tokens, skip_special_tokens=True), dev["captions"])

    data = {"train_dataset": train, "eval_dataset": dev, "data_collator": collate}
    trainer = Seq2SeqTrainer(model, arguments, processing_class=processor, compute_metrics=score, **data)
    trainer.train()
    trainer.save_model()
    return trainer.evaluate()


if __name__ == "__main__":
    print(main())
