# SPDX-License-Identifier: Apache-2.0
"""
Train an image captioning model, with a frozen backbone whose regions are computed once:

    accelerate launch examples/train_captioning.py --data FOLDER --output_dir RUN --freeze all --cache REGIONS

then fine-tune it end to end:

    accelerate launch examples/train_captioning.py --data FOLDER --output_dir RUN2 --init_from RUN/best \
        --freeze 0 --learning_rate 1e-4 --backbone_learning_rate 2e-5 --augment flip crop

FOLDER holds `captions.jsonl` and `images/`; COCO and Karpathy-split JSON files work too. Several are mixed, with
`--data_weights` in given shares. What is too large for that is streamed: a folder of WebDataset shards, or anything
that `datasets` can stream as `stream:NAME`, scored on captions of your own:

    accelerate launch examples/train_captioning.py --data SHARDS stream:USER/NAME --data_weights 0.7 0.3 \
        --eval_data FOLDER --steps_per_epoch 1000 --output_dir RUN

A picture that can't be read is passed over with a warning, unless there is `--strict`. RUN explains itself: settings,
versions, metrics, predictions, `best/` for `from_pretrained` and `last/` for `--resume`. The best model is the one
with the highest CIDEr on the evaluation split. On a CPU, `--num_threads` says how many threads to use.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset, IterableDataset
from transformers import HfArgumentParser

from butd_hf.conversion.backbone_weights import load_backbone_weights
from butd_hf.data.caption_streams import as_stream_table, first_captions, is_stream, open_captions
from butd_hf.data.captions import load_captions
from butd_hf.data.data_errors import require_files
from butd_hf.data.extraction import extract_regions
from butd_hf.data.splits import mix, numbered, rows_of_split
from butd_hf.data.tokenization import train_tokenizer
from butd_hf.data.transforms import Augmentation, load_image, views_of
from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.image_processing_butd import ButdImageProcessor
from butd_hf.modeling.modeling_captioning_butd import ButdForConditionalGeneration
from butd_hf.modeling.processing_butd import ButdProcessor
from butd_hf.training.arguments import LoopArguments
from butd_hf.training.bottom_up_weights import load_bottom_up
from butd_hf.training.caption_examples import CaptionDataset, CaptionStream
from butd_hf.training.captioning import CaptioningTask
from butd_hf.training.frozen_stages import FrozenStages
from butd_hf.training.loop import TrainingLoop, build_accelerator
from butd_hf.training.optimizers import freeze_depthwise, freeze_stages
from butd_hf.training.self_critical import SelfCriticalTask


EVALUATION_SPLITS = ("dev", "val", "validation", "test")


@dataclass
class CaptioningArguments:
    """What to train on, and what to train. An option without a default keeps what `--init_from` has."""

    data: list[str] = field(
        metadata={
            "help": "Captions file, or folder with captions.jsonl and images/; shards or stream:NAME; or several."
        }
    )
    data_weights: list[float] | None = field(default=None, metadata={"help": "In which shares --data are mixed."})
    eval_data: str | None = field(default=None, metadata={"help": "Captions to score; by default the first --data."})
    images: str | None = field(default=None, metadata={"help": "Images folder; images/ beside the captions file."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    eval_split: str | None = field(default=None, metadata={"help": f"Split to score: first of {EVALUATION_SPLITS}."})
    strict: bool = field(default=False, metadata={"help": "Stop at a picture that can't be read instead of warning."})
    limit: int = field(default=0, metadata={"help": "Use only this many images of each split, for trials."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Of streams: images in memory, one of which is next."})

    init_from: str | None = field(default=None, metadata={"help": "Checkpoint to start from, e.g. RUN/best."})
    bottom_up_from: str | None = field(
        default=None, metadata={"help": "Checkpoint whose bottom-up half to take, e.g. of a detector; a new decoder."}
    )
    backbone: str = field(default="tf_efficientnet_lite2", metadata={"help": "Any timm name; not with --init_from."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Weights file, installed package that carries one, or 'timm' to download."}
    )
    selector: str | None = field(default=None, metadata={"help": "Region selector: saliency, grid, ..."})
    num_regions: int | None = field(default=None, metadata={"help": "Most regions per image."})
    image_grid_size: int | None = field(
        default=None, metadata={"help": "Cells to a side of the whole image that join learned regions; 0: none."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Height and width in pixels."})
    longest_edge: int | None = field(
        default=None, metadata={"help": "Keep the aspect ratio: image_size is the shortest edge, this the longest."}
    )
    decoder: str | None = field(default=None, metadata={"help": "transformer, lstm (Up-Down) or gru."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the decoder."})
    attention_size: int | None = field(default=None, metadata={"help": "Width of lstm's and gru's attention."})
    recurrent_variant: str | None = field(default=None, metadata={"help": "paper or port, of lstm and gru."})
    num_layers: int | None = field(default=None, metadata={"help": "Decoder layers."})
    num_region_layers: int | None = field(default=None, metadata={"help": "Self-attention layers among regions."})
    num_heads: int | None = field(default=None, metadata={"help": "Attention heads."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the feed-forward layers."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout of the decoder."})
    attention_dropout: float | None = field(default=None, metadata={"help": "Dropout of attention weights."})
    region_dropout: float | None = field(default=None, metadata={"help": "Share of regions hidden in training."})
    label_smoothing: float | None = field(default=None, metadata={"help": "Label smoothing of the token loss."})

    attn_implementation: str | None = field(
        default=None, metadata={"help": "sdpa, eager, ...; with bf16 on a CPU, eager trains twice as fast."}
    )

    tokenizer_kind: str = field(default="word", metadata={"help": "word or bpe."})
    vocab_size: int = field(default=10000, metadata={"help": "Most tokens of the vocabulary."})
    min_frequency: int = field(default=5, metadata={"help": "Rarer words are unknown."})
    vocab_images: int = field(default=20000, metadata={"help": "First images of a stream that teach the vocabulary."})
    max_length: int = field(default=24, metadata={"help": "Longest training caption in tokens."})
    captions_per_image: int = field(default=5, metadata={"help": "Captions drawn per image and step."})
    augment: list[str] = field(default_factory=lambda: ["flip"], metadata={"help": "Of flip, crop, jitter; or none."})

    self_critical: bool = field(default=False, metadata={"help": "Reward whole captions by CIDEr-D; --init_from."})
    num_samples: int = field(default=5, metadata={"help": "Captions sampled per image, with --self_critical."})
    baseline: Literal["mean", "greedy", "beam"] = field(
        default="mean", metadata={"help": "What a sample must beat: the others' mean, greedy or beam search."}
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Of that sampling; lower after training with label smoothing, e.g. 0.6."}
    )

    freeze: str = field(default="none", metadata={"help": "Backbone: all, none, or its N first stages."})
    freeze_depthwise: bool = field(
        default=False,
        metadata={"help": "Freeze depthwise kernels too: on a CPU, EfficientNets train faster."},
    )
    cache: str | None = field(
        default=None, metadata={"help": "Folder for what frozen stages compute once; with --freeze all, for regions."}
    )
    compile: bool = field(default=False, metadata={"help": "torch.compile the stages that fill --cache."})
    cache_dtype: str = field(default="float16", metadata={"help": "float16 or float32."})

    num_beams: int = field(default=3, metadata={"help": "Beams of the evaluation."})
    max_new_tokens: int = field(default=24, metadata={"help": "Longest generated caption."})
    eval_batch_size: int = field(default=32, metadata={"help": "Images per batch of extraction and evaluation."})

    def __post_init__(self) -> None:
        self.augment = [name for name in self.augment if name != "none"]
        self.streamed = any(map(is_stream, self.data))
        if len(self.data) > 1 and self.images is not None:
            raise ValueError(f"--images is the folder of one --data, got {len(self.data)}: leave it out.")
        if self.eval_data is None and is_stream(self.data[0]):
            raise ValueError(f"--eval_data must name captions to score: {self.data[0]} is a stream to learn from.")
        if self.streamed and (self.cache is not None or self.self_critical):
            option = "--cache" if self.cache is not None else "--self_critical"
            raise ValueError(f"{option} goes through all images before training: it can't be had with a stream.")
        if self.freeze not in ("all", "none") and not self.freeze.isdigit():
            raise ValueError(f"--freeze must be all, none or a number of stages, got {self.freeze!r}.")
        if self.init_from is not None and self.bottom_up_from is not None:
            raise ValueError("--bottom_up_from begins a new model: leave out --init_from, which continues one.")
        if self.cache is not None and self.freeze in ("none", "0"):
            raise ValueError(f"--cache needs frozen stages, got --freeze {self.freeze}: there is nothing to keep.")
        if self.cache is not None and self.freeze != "all" and self.longest_edge is not None:
            raise ValueError("--cache with --freeze N needs images of one size: leave out --longest_edge.")
        if self.cache is not None and "jitter" in self.augment:
            raise ValueError("--cache holds fixed views of each image: flip and crop are possible, jitter is not.")


def load_splits(arguments: CaptioningArguments, seed: int) -> tuple[Dataset | IterableDataset, Dataset]:
    """The images to learn from, a stream if any of their sources is one, and those to score."""
    sources, tables = [], []
    for number, source in enumerate(arguments.data):
        if is_stream(source):
            stream = open_captions(source, arguments.train_split)
            sources.append(stream.take(arguments.limit) if arguments.limit else stream)
            continue
        tables.append(load_captions(source, images=arguments.images, require_images=arguments.strict))
        table = rows_of_split(tables[-1], arguments.train_split, source, arguments.limit)
        if len(arguments.data) > 1:
            table = numbered(table, number)
        sources.append(as_stream_table(table) if arguments.streamed else table)
    source = arguments.eval_data or arguments.data[0]
    table = tables[0] if arguments.eval_data is None else load_captions(source, require_images=False)
    known = set(table["split"])
    eval_split = arguments.eval_split or next((name for name in EVALUATION_SPLITS if name in known), None)
    eval_table = rows_of_split(table, eval_split, source, arguments.limit)
    require_files(eval_table["image"], source)
    return mix(sources, arguments.data_weights, seed), eval_table


def build_processor(arguments: CaptioningArguments, backbone: str, captions: Iterable[str]) -> ButdProcessor:
    """The processor of the checkpoint to start from, or one for the backbone and the training captions."""
    if arguments.init_from is not None:
        processor = ButdProcessor.from_pretrained(arguments.init_from)
    else:
        tokenizer = train_tokenizer(
            captions,
            kind=arguments.tokenizer_kind,
            vocab_size=arguments.vocab_size,
            min_frequency=arguments.min_frequency,
        )
        if arguments.bottom_up_from is not None:
            image_processor = ButdImageProcessor.from_pretrained(arguments.bottom_up_from)
        else:
            image_processor = ButdImageProcessor.from_backbone(backbone)
        processor = ButdProcessor(image_processor, tokenizer)
    if arguments.longest_edge is not None:
        shortest_edge = arguments.image_size or min(256, arguments.longest_edge)
        size = {"shortest_edge": shortest_edge, "longest_edge": arguments.longest_edge}
        processor.image_processor = type(processor.image_processor)(
            **{**processor.image_processor.to_dict(), "size": size}
        )
    elif arguments.image_size is not None:
        size = {"height": arguments.image_size, "width": arguments.image_size}
        processor.image_processor = type(processor.image_processor)(
            **{**processor.image_processor.to_dict(), "size": size}
        )
    return processor


def build_config(arguments: CaptioningArguments) -> ButdConfig:
    """The config of the checkpoint to start from, or the default one, with what the command line says."""
    if arguments.init_from is not None:
        config = ButdConfig.from_pretrained(arguments.init_from)
    else:
        # captions alone don't teach where objects are: the learned selector comes with `init_from`, or when asked for
        bottom_up = {"backbone": arguments.backbone, "selector": arguments.selector or "saliency"}
        if arguments.bottom_up_from is not None:
            bottom_up = ButdConfig.from_pretrained(arguments.bottom_up_from).bottom_up_config.to_dict()
            if arguments.selector not in (None, bottom_up["selector"]):
                bottom_up.pop("out_indices", None)  # selectors differ in which maps they use
                bottom_up["selector"] = arguments.selector
        config = ButdConfig(bottom_up_config=bottom_up)
    asked = {
        "bottom_up_config": {
            "selector": arguments.selector,
            "num_regions": arguments.num_regions,
            "image_grid_size": arguments.image_grid_size,
        },
        "top_down_config": {
            "decoder": arguments.decoder,
            "hidden_size": arguments.hidden_size,
            "attention_size": arguments.attention_size,
            "recurrent_variant": arguments.recurrent_variant,
            "num_hidden_layers": arguments.num_layers,
            "num_region_layers": arguments.num_region_layers,
            "num_attention_heads": arguments.num_heads,
            "intermediate_size": arguments.intermediate_size,
            "dropout": arguments.dropout,
            "attention_dropout": arguments.attention_dropout,
            "region_dropout": arguments.region_dropout,
        },
    }
    settings = config.to_dict()
    for part, values in asked.items():
        settings[part].update({name: value for name, value in values.items() if value is not None})
    if arguments.label_smoothing is not None:
        settings["label_smoothing"] = arguments.label_smoothing
    return ButdConfig.from_dict(settings)


def build_model(arguments: CaptioningArguments, processor: ButdProcessor) -> ButdForConditionalGeneration:
    """The model, with the weights it starts from, and frozen where asked."""
    config = build_config(arguments)
    if arguments.init_from is not None:
        model = ButdForConditionalGeneration.from_pretrained(
            arguments.init_from, config=config, attn_implementation=arguments.attn_implementation
        )
    else:
        tokenizer = processor.tokenizer
        settings = config.to_dict()
        settings["top_down_config"].update(
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        model = ButdForConditionalGeneration(ButdConfig.from_dict(settings))
        if arguments.attn_implementation is not None:
            model.set_attn_implementation(arguments.attn_implementation)
        if arguments.bottom_up_from is not None:
            load_bottom_up(model, arguments.bottom_up_from)
    bottom_up = model.base_model.bottom_up
    if arguments.backbone_weights is not None:
        print(load_backbone_weights(bottom_up.backbone, arguments.backbone_weights, config.bottom_up_config.backbone))
    if arguments.freeze == "all":
        bottom_up.requires_grad_(False)
    elif arguments.freeze != "none":
        freeze_stages(bottom_up.backbone, int(arguments.freeze))
    if arguments.freeze_depthwise:
        freeze_depthwise(bottom_up.backbone)
    return model


def build_datasets(
    arguments: CaptioningArguments,
    loop: LoopArguments,
    model: ButdForConditionalGeneration,
    processor: ButdProcessor,
    accelerator: Accelerator,
    train_table: Dataset | IterableDataset,
    eval_table: Dataset,
) -> tuple[CaptionDataset | CaptionStream, CaptionDataset]:
    """Examples to learn from and to score: pictures, or regions if they are to be computed once."""
    settings = {
        "captions_per_image": arguments.captions_per_image,
        "augmentation": Augmentation(tuple(arguments.augment)) if arguments.augment else None,
        "seed": loop.seed,
        "strict": arguments.strict,
    }
    if arguments.streamed:
        stream = CaptionStream(train_table, shuffle_buffer=arguments.shuffle_buffer, **settings)
        return stream, CaptionDataset(eval_table)
    train_store = eval_store = None
    if arguments.cache is not None:
        tables = {"train": (train_table, views_of(arguments.augment)), "eval": (eval_table, ("identity",))}
        backbone = model.base_model.bottom_up.backbone
        stages = FrozenStages(backbone, int(arguments.freeze)) if arguments.freeze.isdigit() else None
        if stages is not None and arguments.compile:
            stages.compile()
        train_store, eval_store = (
            extract_regions(
                stages or model,
                processor,
                # each once, however often a mixture has it
                list(dict.fromkeys(zip(table["image_id"], table["image"], strict=True))),
                Path(arguments.cache) / name,
                views=views,
                dtype=arguments.cache_dtype,
                batch_size=arguments.eval_batch_size,
                num_workers=loop.num_workers,
                accelerator=accelerator,
                strict=arguments.strict or name == "eval",
            )
            for name, (table, views) in tables.items()
        )
        if stages is not None:
            example = load_image(eval_table[0]["image"])
            stages.skip(backbone, processor(images=example, return_tensors="pt")["pixel_values"])
    return CaptionDataset(train_table, store=train_store, **settings), CaptionDataset(eval_table, store=eval_store)


def main() -> None:
    parser = HfArgumentParser([CaptioningArguments, LoopArguments], description=__doc__)
    parser.set_defaults(metric_for_best="cider")
    arguments, loop = parser.parse_args_into_dataclasses()
    accelerator = build_accelerator(loop)
    set_seed(loop.seed)

    train_table, eval_table = load_splits(arguments, loop.seed)
    if arguments.streamed:
        captions = first_captions(train_table, arguments.vocab_images)
    else:
        captions = [caption for captions in train_table["captions"] for caption in captions]
    processor = build_processor(arguments, arguments.backbone, captions)
    model = build_model(arguments, processor)
    train_dataset, eval_dataset = build_datasets(
        arguments, loop, model, processor, accelerator, train_table, eval_table
    )
    task_class, own_settings = CaptioningTask, {}
    if arguments.self_critical:
        task_class, own_settings = (
            SelfCriticalTask,
            {
                "num_samples": arguments.num_samples,
                "baseline": arguments.baseline,
                "temperature": arguments.temperature,
            },
        )
    task = task_class(
        model,
        processor,
        train_dataset,
        eval_dataset,
        max_length=arguments.max_length,
        num_beams=arguments.num_beams,
        max_new_tokens=arguments.max_new_tokens,
        eval_batch_size=arguments.eval_batch_size,
        num_workers=loop.num_workers,
        stored_stages=arguments.cache is not None and arguments.freeze != "all",
        settings=asdict(arguments),
        **own_settings,
    )
    TrainingLoop(task, loop, accelerator).run()


if __name__ == "__main__":
    main()
