# SPDX-License-Identifier: Apache-2.0
"""What the training scripts of detection and segmentation share: their options, and what these build."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from accelerate.utils import set_seed
from datasets import Dataset
from torch import nn
from transformers import HfArgumentParser

from ..conversion.backbone_weights import load_backbone_weights
from ..data.data_errors import require_files
from ..data.detection import label_names, load_detections
from ..data.detection_transforms import DetectionAugmentation
from ..data.splits import mix, rows_of_split
from ..metrics.average_precision import COMMON_BOXES
from ..modeling.configuration_butd import ButdConfig
from ..modeling.image_processing_butd import ButdImageProcessor
from ..modeling.modeling_detection_butd import ButdForInstanceSegmentation, ButdForObjectDetection
from .arguments import LoopArguments
from .detection import DetectionDataset, DetectionTask
from .folded_norms import fold_frozen_norms
from .loop import TrainingLoop, build_accelerator
from .optimizers import freeze_depthwise, freeze_stages


EVALUATION_SPLITS = ("val", "dev", "validation", "test")
REGION_MASK_SIZE = 14  # of the masks that regions themselves get in segmentation, as in Mask R-CNN before upsampling


@dataclass
class DetectionArguments:
    """What to train on, and what to train. An option without a default keeps what `--init_from` has."""

    data: list[str] = field(
        metadata={"help": "COCO-format JSON file, or folder with annotations.json and images/; or several."}
    )
    data_weights: list[float] | None = field(default=None, metadata={"help": "In which shares --data are mixed."})
    eval_data: str | None = field(default=None, metadata={"help": "What to score; by default the first --data."})
    images: str | None = field(default=None, metadata={"help": "Images folder; found beside the JSON by default."})
    train_split: str = field(default="train", metadata={"help": "Split to learn from."})
    eval_split: str | None = field(default=None, metadata={"help": f"Split to score: first of {EVALUATION_SPLITS}."})
    limit: int = field(default=0, metadata={"help": "Use only this many images of each split, for trials."})
    strict: bool = field(
        default=False, metadata={"help": "Stop at a broken picture or annotation instead of leaving it out."}
    )

    init_from: str | None = field(default=None, metadata={"help": "Checkpoint to start from, e.g. RUN/best."})
    backbone: str = field(default="tf_efficientnet_lite0", metadata={"help": "Any timm name; not with --init_from."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "Weights file, installed package that carries one, or 'timm' to download."}
    )
    image_size: int | None = field(default=None, metadata={"help": "Height and width in pixels."})
    num_regions: int | None = field(default=None, metadata={"help": "Most regions per image."})
    fpn_size: int | None = field(default=None, metadata={"help": "Channels of the feature pyramid."})
    region_head_size: int | None = field(default=None, metadata={"help": "Width of the region head."})
    num_region_attributes: int | None = field(default=None, metadata={"help": "Attributes that regions tell apart."})
    region_mask_size: int | None = field(default=None, metadata={"help": "Side of the masks of regions; 0: none."})
    hidden_size: int | None = field(default=None, metadata={"help": "Width of the decoder."})
    num_layers: int | None = field(default=None, metadata={"help": "Decoder layers."})
    num_heads: int | None = field(default=None, metadata={"help": "Attention heads."})
    intermediate_size: int | None = field(default=None, metadata={"help": "Width of the feed-forward layers."})
    dropout: float | None = field(default=None, metadata={"help": "Dropout of the decoder."})
    one_to_many: int | None = field(default=None, metadata={"help": "Predictions per object in the second pass."})

    freeze: int = field(default=0, metadata={"help": "First stages of the backbone that stay as they are."})
    freeze_depthwise: bool = field(
        default=False, metadata={"help": "Keep depthwise kernels of the backbone, whose gradients are slow on CPUs."}
    )
    augment: list[str] = field(
        default_factory=lambda: ["flip", "crop", "zoom_out", "jitter"],
        metadata={"help": "Of flip, crop, zoom_out, jitter, mosaic; or none."},
    )
    mosaic: float = field(default=0.5, metadata={"help": "Share of mosaics, if --augment has them."})

    common: int = field(default=COMMON_BOXES, metadata={"help": "Boxes a class needs to count for ..._ap50_common."})
    eval_batch_size: int = field(default=16, metadata={"help": "Images per batch of the evaluation."})

    def __post_init__(self) -> None:
        self.augment = [name for name in self.augment if name != "none"]
        if len(self.data) > 1 and self.images is not None:
            raise ValueError(f"--images is the folder of one --data, got {len(self.data)}: leave it out.")


def load_splits(arguments: DetectionArguments, seed: int) -> tuple[Dataset, Dataset]:
    """The images to learn from and those to score."""
    options = {"images": arguments.images, "strict": arguments.strict, "require_images": arguments.strict}
    tables = [load_detections(source, **options) for source in arguments.data]
    source, table = arguments.data[0], tables[0]
    if arguments.eval_data is not None:
        source, table = arguments.eval_data, load_detections(arguments.eval_data, **options)
    known = set(table["split"])
    eval_split = arguments.eval_split or next((name for name in EVALUATION_SPLITS if name in known), None)
    eval_table = rows_of_split(table, eval_split, source, arguments.limit)
    require_files(eval_table["image"], source)
    train_tables = [
        rows_of_split(table, arguments.train_split, source, arguments.limit)
        for source, table in zip(arguments.data, tables, strict=True)
    ]
    for source, other in zip(arguments.data[1:], train_tables[1:], strict=True):
        if label_names(other) != label_names(train_tables[0]):
            raise ValueError(f"{source} has other categories than {arguments.data[0]}, or in another order.")
    return mix(train_tables, arguments.data_weights, seed), eval_table


def build_image_processor(arguments: DetectionArguments) -> ButdImageProcessor:
    """The image processor of the checkpoint to start from, or one for the backbone."""
    if arguments.init_from is not None:
        processor = ButdImageProcessor.from_pretrained(arguments.init_from)
    else:
        processor = ButdImageProcessor.from_backbone(arguments.backbone, size={"height": 320, "width": 320})
    if arguments.image_size is not None:
        size = {"height": arguments.image_size, "width": arguments.image_size}
        processor = type(processor)(**{**processor.to_dict(), "size": size})
    return processor


def build_config(arguments: DetectionArguments, names: list[str], masks: bool) -> ButdConfig:
    """The config of the checkpoint to start from, or the default one, with what the command line and the data say."""
    if arguments.init_from is not None:
        config = ButdConfig.from_pretrained(arguments.init_from)
    else:
        config = ButdConfig(bottom_up_config={"backbone": arguments.backbone, "selector": "rpn"})
    asked = {
        "bottom_up_config": {
            "num_regions": arguments.num_regions,
            "fpn_size": arguments.fpn_size,
            "region_head_size": arguments.region_head_size,
            "num_region_labels": len(names),
            "num_region_attributes": arguments.num_region_attributes,
            "region_mask_size": arguments.region_mask_size,
        },
        "top_down_config": {
            "hidden_size": arguments.hidden_size,
            "num_hidden_layers": arguments.num_layers,
            "num_attention_heads": arguments.num_heads,
            "intermediate_size": arguments.intermediate_size,
            "dropout": arguments.dropout,
        },
    }
    if masks and arguments.region_mask_size is None and arguments.init_from is None:
        asked["bottom_up_config"]["region_mask_size"] = REGION_MASK_SIZE
    settings = config.to_dict()
    for part, values in asked.items():
        settings[part].update({name: value for name, value in values.items() if value is not None})
    if arguments.one_to_many is not None:
        settings["one_to_many"] = arguments.one_to_many
    settings["id2label"] = dict(enumerate(names))
    settings["label2id"] = {name: label for label, name in enumerate(names)}
    return ButdConfig.from_dict(settings)


def build_model(arguments: DetectionArguments, names: list[str], masks: bool) -> nn.Module:
    """The model, with the weights it starts from, and frozen where asked."""
    config = build_config(arguments, names, masks)
    model_class = ButdForInstanceSegmentation if masks else ButdForObjectDetection
    if arguments.init_from is not None:
        # other classes, or masks that the checkpoint does not have: those heads begin anew
        model = model_class.from_pretrained(arguments.init_from, config=config, ignore_mismatched_sizes=True)
    else:
        model = model_class(config)
    backbone = model.base_model.bottom_up.backbone
    if arguments.backbone_weights is not None:
        print(load_backbone_weights(backbone, arguments.backbone_weights, config.bottom_up_config.backbone))
    freeze_stages(backbone, arguments.freeze)
    if arguments.freeze_depthwise:
        freeze_depthwise(backbone)
    if config.bottom_up_config.freeze_batch_norm:
        fold_frozen_norms(backbone, torch.rand(1, 3, 64, 64))
    return model


def build_task(arguments: DetectionArguments, loop: LoopArguments, masks: bool) -> DetectionTask:
    """Model and data."""
    train_table, eval_table = load_splits(arguments, loop.seed)
    processor = build_image_processor(arguments)
    names = label_names(train_table)
    model = build_model(arguments, names, masks)
    with_masks = masks or model.config.bottom_up_config.region_mask_size > 0
    image_size = max(dict(processor.size).values())
    augmentation = None
    if arguments.augment:
        augmentation = DetectionAugmentation(tuple(arguments.augment), arguments.mosaic)
    train_dataset = DetectionDataset(
        train_table,
        image_size=image_size,
        masks=with_masks,
        augmentation=augmentation,
        seed=loop.seed,
        strict=arguments.strict,
    )
    return DetectionTask(
        model,
        processor,
        train_dataset,
        DetectionDataset(eval_table, image_size=image_size, masks=with_masks),
        masks=masks,
        common=arguments.common,
        eval_batch_size=arguments.eval_batch_size,
        num_workers=loop.num_workers,
        settings=asdict(arguments),
    )


def train(masks: bool, description: str | None, defaults: dict[str, Any] | None = None) -> dict[str, float]:
    """
    Trains as the command line says.

    Args:
        masks: Instance segmentation instead of object detection.
        description: Of the command, for its help.
        defaults: Of options.

    Returns:
        The metrics of the last evaluation.
    """
    parser = HfArgumentParser([DetectionArguments, LoopArguments], description=description)
    parser.set_defaults(metric_for_best="mask_ap50" if masks else "box_ap50", **(defaults or {}))
    arguments, loop = parser.parse_args_into_dataclasses()
    accelerator = build_accelerator(loop)
    set_seed(loop.seed)
    return TrainingLoop(build_task(arguments, loop, masks), loop, accelerator).run()
