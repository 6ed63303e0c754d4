# SPDX-License-Identifier: Apache-2.0
"""Train a model that answers questions about images, with a frozen bottom-up half whose regions are computed once:

    accelerate launch examples/train_vqa.py --data FOLDER --output_dir RUN --init_from CHECKPOINT \
        --freeze all --cache REGIONS

FOLDER holds `qa.jsonl` and `images/` (DAQUAR); VQA v2, GQA, Visual Genome and easy-VQA in their own files work too;
`--data easy-vqa` are small drawings, of which a package carries thousands. CHECKPOINT is any of this package: its
bottom-up half is taken over, and if it answers questions, all of it. `--freeze none` trains the backbone too; several
`--data` are mixed in the shares of `--data_weights`.

Every option of `TrainingArguments` works. The best model is the one with most exact matches on the evaluation split.
RUN is for `from_pretrained`, and holds its card, predictions and checkpoints; `--resume_from_checkpoint last` goes on
from the last of these.
"""

from transformers import set_seed

from butd_hf import ButdForQuestionAnswering, ButdProcessor
from butd_hf.data.answers import answer_scores, build_answers
from butd_hf.data.questions import load_questions
from butd_hf.data.tokenization import train_tokenizer
from butd_hf.data.transforms import Augmentation
from butd_hf.training.arguments import DataArguments, ModelArguments, QuestionArguments, TextArguments, parse_arguments
from butd_hf.training.models import build_config, build_image_processor, build_model, is_checkpoint_of, resized
from butd_hf.training.question_answering import QuestionTask, group_questions
from butd_hf.training.run import run
from butd_hf.training.samples import SampleTable
from butd_hf.training.splits import load_splits, open_regions
from butd_hf.training.trainer import ButdTrainer
from butd_hf.training.word_vectors import fill_token_embeddings


PROBLEM_TYPES = {"bce": "multi_label_classification", "ce": "single_label_classification"}


def main() -> dict[str, float]:
    groups = (DataArguments, ModelArguments, TextArguments, QuestionArguments)
    data, options, text, own, training = parse_arguments(
        *groups,
        description=__doc__,
        metric_for_best_model="exact_match",
        per_device_train_batch_size=64,
        max_length=32,
        min_frequency=1,
    )
    set_seed(training.seed)

    def load(source: str):
        return load_questions(source, images=data.images, format=data.format, require_images=data.strict).filter(
            lambda row: len(row["answers"]) > 0
        )

    train_rows, eval_rows = load_splits(data, load, training.seed)
    answers = build_answers(train_rows, min_count=own.min_answers, max_answers=own.max_answers)
    if is_checkpoint_of(options.init_from, ButdForQuestionAnswering):
        processor = ButdProcessor.from_pretrained(options.init_from)
        processor.image_processor = resized(processor.image_processor, options)
    else:
        vocabulary = {"vocab_size": text.vocab_size, "min_frequency": text.min_frequency}
        tokenizer = train_tokenizer(
            train_rows["question"], kind=text.tokenizer_kind, model_max_length=text.max_length, **vocabulary
        )
        processor = ButdProcessor(build_image_processor(options), tokenizer)
    tokens = {name: getattr(processor.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    new = {
        "top_down_config": {
            "vocab_size": len(processor.tokenizer),
            "max_position_embeddings": max(64, text.max_length),
            **tokens,
        },
        "id2label": dict(enumerate(answers)),
        "label2id": {answer: label for label, answer in enumerate(answers)},
        "tie_word_embeddings": False,  # answers are no words
    }
    config = build_config(options, ButdForQuestionAnswering, new, {"selector": "grid"})
    config.problem_type = PROBLEM_TYPES[own.loss]
    if training.label_smoothing_factor:
        config.label_smoothing, training.label_smoothing_factor = training.label_smoothing_factor, 0.0
    model = build_model(options, ButdForQuestionAnswering, config)
    if options.word_vectors is not None:
        embeddings = model.get_input_embeddings().weight.data
        fill_token_embeddings(embeddings, processor.tokenizer.get_vocab(), options.word_vectors)
    if own.loss == "ce":  # questions without an answer that the model knows teach nothing
        known = set(config.label2id)
        train_rows = train_rows.filter(
            lambda row: not known.isdisjoint(answer_scores(row["answers"], together=row["together"]))
        )
    train_store, eval_store = open_regions(options, data, training, model, processor, train_rows, eval_rows)

    task = QuestionTask(
        processor,
        config,
        questions_per_image=own.questions_per_image,
        form=own.soft_targets,
        max_length=text.max_length,
        augmentation=Augmentation(tuple(data.augment)) if data.augment else None,
    )
    samples = SampleTable(
        group_questions(train_rows, by_image=own.questions_per_image > 0),
        task.read,
        training=True,
        store=train_store,
        seed=training.seed,
        strict=data.strict,
    )
    eval_samples = SampleTable(group_questions(eval_rows, by_image=False), task.read, store=eval_store)
    rates = {"ema_decay": options.ema_decay, "backbone_learning_rate": options.backbone_learning_rate}
    trainer = ButdTrainer(model, training, task, samples, eval_samples, **rates)
    return run(trainer, data, options, f"{len(train_rows):,} questions about images")


if __name__ == "__main__":
    print(main())
