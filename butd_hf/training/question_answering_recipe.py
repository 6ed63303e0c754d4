# SPDX-License-Identifier: Apache-2.0
"""What the command line of VQA training can say, and what is built from it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedConfig

from ..conversion.backbone_weights import load_backbone_weights
from ..data.answers import TargetForm, build_answers
from ..data.data_errors import require_files
from ..data.extraction import extract_regions
from ..data.questions import answered_rows, learnable_rows, load_questions
from ..data.region_store import RegionStore
from ..data.splits import mix, numbered
from ..data.tokenization import train_tokenizer
from ..data.transforms import Augmentation, load_image, views_of
from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from ..modeling.processing_butd import ButdProcessor
from .answer_teachers import AnswerTeachers
from .arguments import LoopArguments
from .bottom_up_weights import load_bottom_up
from .frozen_stages import FrozenStages
from .optimizers import freeze_depthwise, freeze_stages
from .question_answering import QuestionAnsweringTask, QuestionDataset
from .standardized_regions import standardize_regions
from .word_vectors import fill_token_embeddings


EVALUATION_SPLITS = ("dev", "val", "validation", "test")


@dataclass
class QuestionArguments:
    """What to train on, and what to train. An option without a default keeps what `--init_from` has."""

    data: list[str] = field(
        metadata={"help": "Questions file or folder (see load_questions), or easy-vqa; or several."}
    )
    data_weights: list[float] | None = field(default=None, metadata={"help": "In which shares --data are mixed."})
    images: str | None = field(default=None, metadata={"help": "Images folder; images/ beside the questions."})
    format: str = field(default="auto", metadata={"help": "daquar, vqa2, gqa, visual_genome, easy_vqa; or auto."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    eval_split: str | None = field(default=None, metadata={"help": f"Split to score: first of {EVALUATION_SPLITS}."})
    strict: bool = field(
        default=False, metadata={"help": "Stop at a broken picture or an unknown answer instead of warning."}
    )
    limit: int = field(default=0, metadata={"help": "Use only this many questions of each split, for trials."})

    init_from: str | None = field(
        default=None,
        metadata={"help": "Checkpoint to start from: its bottom-up half and, if it answers questions, all of it."},
    )
    backbone: str = field(default="tf_efficientnet_lite2", metadata={"help": "Any timm name; not with --init_from."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Weights file, installed package that carries one, or 'timm' to download."}
    )
    out_indices: list[int] | None = field(default=None, metadata={"help": "Feature maps of the backbone to use."})
    selector: str | None = field(default=None, metadata={"help": "Region selector: grid, saliency, rpn, ..."})
    num_regions: int | None = field(default=None, metadata={"help": "Most regions per image."})
    image_size: int | None = field(default=None, metadata={"help": "Height and width in pixels."})
    decoder: str | None = field(default=None, metadata={"help": "Question encoder: transformer, lstm or gru."})
    text_encoder: str | None = field(default=None, metadata={"help": "Pretrained question encoder, e.g. of the Hub."})
    question_variant: str | None = field(default=None, metadata={"help": "glimpses, or a published answer head."})
    num_glimpses: int | None = field(default=None, metadata={"help": "How often the model looks."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the top-down half."})
    embedding_size: int | None = field(default=None, metadata={"help": "Width of the words of lstm and gru."})
    word_vectors: str | None = field(
        default=None, metadata={"help": "Text file of word vectors, such as GloVe's, that words begin as."}
    )
    question_ngrams: int | None = field(
        default=None, metadata={"help": "Buckets for hashed n-grams, heard beside the question's state."}
    )
    answer_size: int | None = field(default=None, metadata={"help": "Width of the layer before the answers."})
    num_layers: int | None = field(default=None, metadata={"help": "Layers of the question encoder."})
    num_region_layers: int | None = field(default=None, metadata={"help": "Self-attention layers among regions."})
    num_heads: int | None = field(default=None, metadata={"help": "Attention heads."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the feed-forward layers."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout of the top-down half."})
    attention_dropout: float | None = field(default=None, metadata={"help": "Dropout of attention weights."})
    region_dropout: float | None = field(default=None, metadata={"help": "Share of regions hidden in training."})
    word_dropout: float | None = field(default=None, metadata={"help": "Share of words hidden in training."})
    answer_dropout: float | None = field(default=None, metadata={"help": "Dropout before the answers."})
    label_smoothing: float | None = field(default=None, metadata={"help": "Label smoothing, with --loss ce."})

    min_frequency: int = field(default=1, metadata={"help": "Rarer words of questions are unknown."})
    vocab_size: int = field(default=10000, metadata={"help": "Most tokens of the question vocabulary."})
    max_length: int = field(default=32, metadata={"help": "Longest question in tokens; the rest is cut."})
    min_answers: int = field(default=1, metadata={"help": "Rarer answers are left out; published VQA v2 models: 9."})
    max_answers: int | None = field(default=None, metadata={"help": "Most answers to tell apart."})

    loss: Literal["bce", "ce"] = field(
        default="bce", metadata={"help": "Every answer by itself against its soft score, or cross-entropy of one."}
    )
    soft_targets: TargetForm = field(default="leave_one_out", metadata={"help": "Or simplified: min(1, n / 3)."})
    questions_per_image: int = field(
        default=0, metadata={"help": "Questions drawn per image, looked at once; --batch_size counts images. 0: each."}
    )
    teachers: list[str] = field(
        default_factory=list,
        metadata={"help": "Models that this recipe trained with other seeds; they answer --foreign_questions."},
    )
    foreign_questions: int = field(
        default=0, metadata={"help": "Questions of any image that are asked about each, too, for --teachers."}
    )
    augment: list[str] = field(default_factory=lambda: ["flip"], metadata={"help": "Of flip, crop, jitter; or none."})
    standardize_regions: bool = field(
        default=False, metadata={"help": "Begin with regions' features of mean 0 and variance 1; needs --cache."}
    )
    regions: Literal["all", "none"] = field(
        default="all", metadata={"help": "none: what the question alone can tell, regions masked."}
    )
    questions: Literal["all", "none"] = field(
        default="all", metadata={"help": "none: what the picture alone can tell, questions empty."}
    )

    freeze: str = field(default="none", metadata={"help": "Backbone: all, none, or its N first stages."})
    freeze_depthwise: bool = field(default=False, metadata={"help": "Freeze depthwise kernels too: faster on CPUs."})
    cache: str | None = field(
        default=None, metadata={"help": "Folder for what frozen stages compute once; with --freeze all, for regions."}
    )
    cache_dtype: str = field(default="float16", metadata={"help": "float16 or float32."})
    eval_batch_size: int = field(default=128, metadata={"help": "Questions per batch of the evaluation."})
    extract_batch_size: int = field(default=16, metadata={"help": "Images per batch of --cache."})

    def __post_init__(self) -> None:
        self.augment = [name for name in self.augment if name != "none"]
        if len(self.data) > 1 and self.images is not None:
            raise ValueError(f"--images is the folder of one --data, got {len(self.data)}: leave it out.")
        if self.freeze not in ("all", "none") and not self.freeze.isdigit():
            raise ValueError(f"--freeze must be all, none or a number of stages, got {self.freeze!r}.")
        if self.cache is not None and self.freeze in ("none", "0"):
            raise ValueError(f"--cache needs frozen stages, got --freeze {self.freeze}: there is nothing to keep.")
        if self.cache is not None and "jitter" in self.augment:
            raise ValueError("--cache holds fixed views of each image: flip and crop are possible, jitter is not.")
        if self.standardize_regions and (self.cache is None or self.freeze != "all"):
            raise ValueError("--standardize_regions needs the regions of --cache with --freeze all.")
        if bool(self.teachers) != bool(self.foreign_questions) or (self.teachers and self.loss != "ce"):
            raise ValueError(
                "--teachers, --foreign_questions and --loss ce need each other, got "
                f"{len(self.teachers)} teachers, {self.foreign_questions} questions and --loss {self.loss}."
            )
        if self.teachers and self.cache is not None and self.freeze != "all":
            raise ValueError(
                f"--teachers see regions or pictures, but --cache with --freeze {self.freeze} has neither."
            )
        beginnings = [name for name in ("word_vectors", "standardize_regions") if getattr(self, name)]
        if beginnings and answers_questions(self.init_from):
            raise ValueError(f"--{beginnings[0]} is for a new model, but {self.init_from} answers questions already.")
        for name, expected in (("regions", ("all", "none")), ("questions", ("all", "none")), ("loss", ("bce", "ce"))):
            if getattr(self, name) not in expected:
                raise ValueError(f"--{name} must be one of {expected}, got {getattr(self, name)!r}.")


def load_splits(arguments: QuestionArguments, seed: int) -> tuple[Dataset, Dataset]:
    """
    The questions to learn from and those to score, which are of the first `--data`. Questions without an answer are in
    neither.
    """
    sources = []
    eval_table = None
    for number, source in enumerate(arguments.data):
        table = load_questions(
            source, images=arguments.images, format=arguments.format, require_images=arguments.strict
        )
        if len(arguments.data) > 1:
            table = numbered(table, number)
        sources.append(answered_rows(table, arguments.train_split, source, arguments.limit))
        if eval_table is None:
            known = set(table["split"])
            eval_split = arguments.eval_split or next((name for name in EVALUATION_SPLITS if name in known), None)
            eval_table = answered_rows(table, eval_split, source, arguments.limit)
            require_files(eval_table["image"], source)
    return mix(sources, arguments.data_weights, seed), eval_table


def answers_questions(checkpoint: str | None) -> bool:
    """Whether a checkpoint holds a question answering model, and not just a bottom-up half to start from."""
    if checkpoint is None:
        return False
    return "ButdForQuestionAnswering" in (PreTrainedConfig.get_config_dict(checkpoint)[0].get("architectures") or [])


def build_processor(arguments: QuestionArguments, questions: list[str]) -> ButdProcessor:
    """The image processor of the checkpoint to start from, or of the backbone; the tokenizer of the questions."""
    if answers_questions(arguments.init_from):
        processor = ButdProcessor.from_pretrained(arguments.init_from)
    else:
        if arguments.init_from is not None:
            image_processor = ButdImageProcessor.from_pretrained(arguments.init_from)
        else:
            image_processor = ButdImageProcessor.from_backbone(arguments.backbone)
        if arguments.text_encoder is not None:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(arguments.text_encoder)
        else:
            tokenizer = train_tokenizer(
                questions,
                vocab_size=arguments.vocab_size,
                min_frequency=arguments.min_frequency,
                model_max_length=arguments.max_length,
            )
        processor = ButdProcessor(image_processor, tokenizer)
    if arguments.image_size is not None:
        size = {"height": arguments.image_size, "width": arguments.image_size}
        settings = {**processor.image_processor.to_dict(), "size": size}
        processor.image_processor = type(processor.image_processor)(**settings)
    return processor


def build_config(arguments: QuestionArguments, processor: ButdProcessor, answers: list[str]) -> ButdConfig:
    """The config of the checkpoint to start from, or a new one, with what the command line says."""
    whole = answers_questions(arguments.init_from)
    if whole:
        settings = ButdConfig.from_pretrained(arguments.init_from).to_dict()
    else:
        tokenizer = processor.tokenizer
        # questions alone don't teach where objects are: the learned selector comes with `init_from`, or when asked for
        bottom_up = {"backbone": arguments.backbone, "selector": arguments.selector or "grid"}
        if arguments.init_from is not None:
            bottom_up = ButdConfig.from_pretrained(arguments.init_from).bottom_up_config.to_dict()
        if arguments.selector not in (None, bottom_up["selector"]):
            bottom_up.pop("out_indices", None)  # selectors differ in which maps they use
        settings = ButdConfig(
            bottom_up_config=bottom_up,
            top_down_config={
                "vocab_size": len(tokenizer),
                "pad_token_id": tokenizer.pad_token_id,
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "max_position_embeddings": max(64, arguments.max_length),
            },
        ).to_dict()
        settings["id2label"] = dict(enumerate(answers))
        settings["label2id"] = {answer: label for label, answer in enumerate(answers)}
    asked: dict[str, dict[str, Any]] = {
        "bottom_up_config": {
            "selector": arguments.selector,
            "num_regions": arguments.num_regions,
            "out_indices": arguments.out_indices,
        },
        "top_down_config": {
            "decoder": arguments.decoder,
            "text_encoder": arguments.text_encoder,
            "question_variant": arguments.question_variant,
            "num_glimpses": arguments.num_glimpses,
            "hidden_size": arguments.hidden_size,
            "embedding_size": arguments.embedding_size,
            "question_ngrams": arguments.question_ngrams,
            "answer_size": arguments.answer_size,
            "num_hidden_layers": arguments.num_layers,
            "num_region_layers": arguments.num_region_layers,
            "num_attention_heads": arguments.num_heads,
            "intermediate_size": arguments.intermediate_size,
            "dropout": arguments.dropout,
            "attention_dropout": arguments.attention_dropout,
            "region_dropout": arguments.region_dropout,
            "word_dropout": arguments.word_dropout,
            "answer_dropout": arguments.answer_dropout,
        },
    }
    for part, values in asked.items():
        settings[part].update({name: value for name, value in values.items() if value is not None})
    settings["tie_word_embeddings"] = False  # answers are no words
    settings["problem_type"] = {"bce": "multi_label_classification", "ce": "single_label_classification"}[
        arguments.loss
    ]
    if arguments.label_smoothing is not None:
        settings["label_smoothing"] = arguments.label_smoothing
    return ButdConfig.from_dict(settings)


def build_model(
    arguments: QuestionArguments, processor: ButdProcessor, answers: list[str]
) -> ButdForQuestionAnswering:
    """The model, with the weights it starts from, and frozen where asked."""
    config = build_config(arguments, processor, answers)
    if answers_questions(arguments.init_from):
        model = ButdForQuestionAnswering.from_pretrained(arguments.init_from, config=config)
    else:
        model = ButdForQuestionAnswering(config)
        if arguments.init_from is not None:
            load_bottom_up(model, arguments.init_from)
        if arguments.word_vectors is not None:
            embeddings = model.get_input_embeddings().weight.data
            known = fill_token_embeddings(embeddings, processor.tokenizer.get_vocab(), arguments.word_vectors)
            print(f"{known} of {len(embeddings)} tokens begin as the vectors of {arguments.word_vectors}")
    bottom_up = model.base_model.bottom_up
    if arguments.backbone_weights is not None:
        print(load_backbone_weights(bottom_up.backbone, arguments.backbone_weights, config.bottom_up_config.backbone))
    if arguments.freeze == "all" or arguments.regions == "none":
        bottom_up.requires_grad_(False)
    elif arguments.freeze != "none":
        freeze_stages(bottom_up.backbone, int(arguments.freeze))
    if arguments.freeze_depthwise:
        freeze_depthwise(bottom_up.backbone)
    return model


def build_task(arguments: QuestionArguments, loop: LoopArguments, accelerator: Accelerator) -> QuestionAnsweringTask:
    """Model and data."""
    train_table, eval_table = load_splits(arguments, loop.seed)
    processor = build_processor(arguments, list(train_table["question"]))
    answers = build_answers(train_table, min_count=arguments.min_answers, max_answers=arguments.max_answers)
    model = build_model(arguments, processor, answers)
    if arguments.loss == "ce":
        train_table = learnable_rows(train_table, model.config.label2id, arguments.strict)
    stores: dict[str, RegionStore | None] = {"train": None, "eval": None}
    look = arguments.regions == "all"
    if arguments.cache is not None and look:
        stores = build_stores(arguments, loop, model, processor, accelerator, train_table, eval_table)
        if arguments.standardize_regions:
            standardize_regions(model, stores["train"])
    settings: dict[str, Any] = {
        "form": arguments.soft_targets,
        "ask": arguments.questions == "all",
        "look": look,
        "seed": loop.seed,
    }
    augmentation = Augmentation(tuple(arguments.augment)) if arguments.augment else None
    teachers = AnswerTeachers.from_pretrained(arguments.teachers, model, processor) if arguments.teachers else None
    return QuestionAnsweringTask(
        model,
        processor,
        QuestionDataset(
            train_table,
            store=stores["train"],
            augmentation=augmentation,
            questions_per_image=arguments.questions_per_image,
            foreign_questions=arguments.foreign_questions,
            strict=arguments.strict,
            **settings,
        ),
        QuestionDataset(eval_table, store=stores["eval"], **settings),
        loss=arguments.loss,
        teachers=teachers,
        max_length=arguments.max_length,
        eval_batch_size=arguments.eval_batch_size,
        num_workers=loop.num_workers,
        stored_stages=arguments.cache is not None and arguments.freeze != "all",
        settings={**asdict(arguments), "num_answers": len(answers)},
    )


def build_stores(
    arguments: QuestionArguments,
    loop: LoopArguments,
    model: ButdForQuestionAnswering,
    processor: ButdProcessor,
    accelerator: Accelerator,
    train_table: Dataset,
    eval_table: Dataset,
) -> dict[str, RegionStore | None]:
    """What frozen stages compute once: regions, or the maps of the first stages, which the backbone then skips."""
    tables = {"train": (train_table, views_of(arguments.augment)), "eval": (eval_table, ("identity",))}
    backbone = model.base_model.bottom_up.backbone
    stages = FrozenStages(backbone, int(arguments.freeze)) if arguments.freeze.isdigit() else None
    stores: dict[str, RegionStore | None] = {}
    for name, (table, views) in tables.items():
        images = dict(zip(table["image_id"], table["image"], strict=True))  # each once, however many ask about it
        stores[name] = extract_regions(
            stages or model,
            processor,
            sorted(images.items()),
            Path(arguments.cache) / name,
            views=views,
            dtype=arguments.cache_dtype,
            batch_size=arguments.extract_batch_size,
            num_workers=loop.num_workers,
            accelerator=accelerator,
            strict=arguments.strict or name == "eval",
        )
    if stages is not None:
        example = load_image(eval_table[0]["image"])
        stages.skip(backbone, processor(images=example, return_tensors="pt")["pixel_values"])
    return stores


__all__ = ["QuestionArguments", "build_task"]
