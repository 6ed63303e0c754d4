# SPDX-License-Identifier: Apache-2.0
"""
Fine-tune a model that answers questions with transformers' own `Trainer`:

    python examples/trainer_vqa.py --data FOLDER --model RUN/best --output_dir RUN2 --num_train_epochs 3

FOLDER is as of `examples/train_vqa.py`, with the splits `train` and `val`; the answers are those of its training
questions. Every option of `TrainingArguments` works. The model in RUN2 is for `from_pretrained`.
"""

from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments

from butd_hf import ButdForQuestionAnswering, ButdProcessor
from butd_hf.data.answers import answer_scores, build_answers
from butd_hf.data.questions import load_questions
from butd_hf.metrics.question_answering import score_answers


@dataclass
class Options:
    data: str = field(metadata={"help": "Questions file or folder."})
    model: str = field(metadata={"help": "Checkpoint that answers questions; its answers are replaced."})
    eval_split: str = field(default="val", metadata={"help": "Split to score."})


def main() -> dict[str, float]:
    parser = HfArgumentParser([Options, TrainingArguments], description=__doc__)
    parser.set_defaults(remove_unused_columns=False)
    options, arguments = parser.parse_args_into_dataclasses()
    train, val = (load_questions(options.data, split=split) for split in ("train", options.eval_split))
    answers = build_answers(train)
    labels = {"id2label": dict(enumerate(answers)), "label2id": dict(zip(answers, range(len(answers)), strict=True))}
    model = ButdForQuestionAnswering.from_pretrained(options.model, ignore_mismatched_sizes=True, **labels)
    processor = ButdProcessor.from_pretrained(options.model)

    def collate(rows: list[dict]) -> dict:
        images, questions = ([row[name] for row in rows] for name in ("image", "question"))
        scores = [answer_scores(row["answers"], together=row["together"]) for row in rows]
        targets = torch.tensor([[each.get(answer, 0.0) for answer in answers] for each in scores])
        return {**processor(images=images, text=questions, return_tensors="pt"), "labels": targets}

    def score(evaluated) -> dict[str, float]:
        said = [answers[label] for label in evaluated.predictions.argmax(-1)]
        return score_answers(said, val["answers"], together=val["together"][0])

    data = {"train_dataset": train, "eval_dataset": val, "data_collator": collate}
    trainer = Trainer(model, arguments, processing_class=processor, compute_metrics=score, **data)
    trainer.train()
    trainer.save_model()
    return trainer.evaluate()


if __name__ == "__main__":
    print(main())
