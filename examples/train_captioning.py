# SPDX-License-Identifier: Apache-2.0
"""Train an image captioning model, with a frozen backbone whose regions are computed once:

    accelerate launch examples/train_captioning.py --data FOLDER --output_dir RUN --freeze all --cache REGIONS

then fine-tune it end to end:

    accelerate launch examples/train_captioning.py --data FOLDER --output_dir RUN2 --init_from RUN \
        --learning_rate 1e-4 --backbone_learning_rate 2e-5 --augment flip crop

or reward whole captions with `--init_from RUN --self_critical`. FOLDER holds `captions.jsonl` and `images/`; COCO and
Karpathy-split JSON files work too. Several are mixed, in the shares of `--data_weights`. Larger data are streamed: a
folder of WebDataset shards, or what `datasets` can stream as `stream:NAME`, scored on captions of your own:

    accelerate launch examples/train_captioning.py --data SHARDS stream:USER/NAME --data_weights 0.7 0.3 \
        --eval_data FOLDER --max_steps 10000 --eval_strategy steps --eval_steps 1000 --save_strategy steps \
        --save_steps 1000 --output_dir RUN

Every option of `Seq2SeqTrainingArguments` works. The best model is the one with the highest CIDEr on the evaluation
split. RUN is for `from_pretrained`, and holds its card, predictions and checkpoints; `--resume_from_checkpoint last`
goes on from the last of these.
"""

from datasets import IterableDataset
from transformers import set_seed

from butd_hf import ButdForConditionalGeneration, ButdProcessor
from butd_hf.data.captions import load_captions
from butd_hf.data.tokenization import train_tokenizer
from butd_hf.data.transforms import Augmentation
from butd_hf.training.arguments import CaptionArguments, DataArguments, ModelArguments, TextArguments, parse_arguments
from butd_hf.training.captioning import CaptionTask
from butd_hf.training.models import build_config, build_image_processor, build_model, is_checkpoint_of, resized
from butd_hf.training.run import run
from butd_hf.training.samples import SampleStream, SampleTable
from butd_hf.training.self_critical import SelfCriticalTrainer
from butd_hf.training.splits import load_splits, open_regions, texts_of
from butd_hf.training.trainer import ButdTrainer


def main() -> dict[str, float]:
    groups = (DataArguments, ModelArguments, TextArguments, CaptionArguments)
    data, options, text, own, training = parse_arguments(
        *groups, description=__doc__, generates=True, metric_for_best_model="cider"
    )
    set_seed(training.seed)

    def load(source: str):
        return load_captions(source, images=data.images, require_images=data.strict)

    train_rows, eval_rows = load_splits(data, load, training.seed)
    if is_checkpoint_of(options.init_from, ButdForConditionalGeneration):
        processor = ButdProcessor.from_pretrained(options.init_from)
        processor.image_processor = resized(processor.image_processor, options)
    else:
        captions = texts_of(train_rows, "captions", own.vocab_images)
        tokenizer = train_tokenizer(
            captions, kind=text.tokenizer_kind, vocab_size=text.vocab_size, min_frequency=text.min_frequency
        )
        processor = ButdProcessor(build_image_processor(options), tokenizer)
    tokens = {name: getattr(processor.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    # captions alone don't teach where objects are: the learned selector comes with a checkpoint
    new = {"top_down_config": {"vocab_size": len(processor.tokenizer), **tokens}}
    config = build_config(options, ButdForConditionalGeneration, new, {"selector": "saliency"})
    if training.label_smoothing_factor:  # the model's own, which knows where labels don't count
        config.label_smoothing, training.label_smoothing_factor = training.label_smoothing_factor, 0.0
    model = build_model(options, ButdForConditionalGeneration, config)
    # saved with the model, so that it captions as it was evaluated; an unknown word is no word to say
    model.generation_config.update(
        num_beams=training.generation_num_beams,
        max_new_tokens=training.generation_max_length,
        suppress_tokens=[processor.tokenizer.unk_token_id],
    )
    train_store, eval_store = open_regions(options, data, training, model, processor, train_rows, eval_rows)

    task = CaptionTask(
        processor,
        captions_per_image=own.captions_per_image,
        max_length=text.max_length,
        augmentation=Augmentation(tuple(data.augment)) if data.augment else None,
    )
    shared = {"seed": training.seed, "strict": data.strict}
    if isinstance(train_rows, IterableDataset):
        share = {"process": training.process_index, "num_processes": training.world_size}
        samples = SampleStream(train_rows, task.read, shuffle_buffer=data.shuffle_buffer, **share, **shared)
        learned_from = "a stream of images with captions"
    else:
        samples = SampleTable(train_rows, task.read, training=True, store=train_store, **shared)
        learned_from = f"{len(train_rows):,} images with {sum(map(len, train_rows['captions'])):,} captions"
    eval_samples = SampleTable(eval_rows, task.read, store=eval_store)
    rates = {"ema_decay": options.ema_decay, "backbone_learning_rate": options.backbone_learning_rate}
    trainer_class, reward = ButdTrainer, {}
    if own.self_critical:
        reward = {"num_samples": own.num_samples, "baseline": own.baseline, "temperature": own.temperature}
        trainer_class = SelfCriticalTrainer
    trainer = trainer_class(model, training, task, samples, eval_samples, **rates, **reward)
    return run(trainer, data, options, learned_from)


if __name__ == "__main__":
    print(main())
