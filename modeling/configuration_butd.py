# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Configuration of Bottom-Up Top-Down attention models: what proposes regions, and what attends to them."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

from .remote_code import auto_map, custom_pipelines


logger = logging.get_logger(__name__)

# what earlier versions wrote and this one has no settings for
# fmt: off
EARLIER_FIELDS = frozenset((
    "window_sizes", "keep_whole_image", "num_candidates", "num_noised_boxes", "box_noise", "num_proposals",
    "rpn_size", "freeze_batch_norm", "computation", "image_grid_size", "text_encoder", "text_encoder_config",
    "word_dropout", "answer_size", "class_cost", "bbox_cost", "giou_cost", "class_loss_coefficient",
    "bbox_loss_coefficient", "giou_loss_coefficient", "mask_loss_coefficient", "dice_loss_coefficient",
    "bottom_up_loss_coefficient", "object_loss_coefficient", "pair_loss_coefficient", "predicate_loss_coefficient",
    "auxiliary_loss", "mask_size", "no_object_weight", "frequency_prior", "num_frequent_pairs", "logit_adjustment",
    "predicate_names",
))
# fmt: on
RENAMED_FIELDS = {"pair_rivals": "pair_rank_features", "num_glimpses": "num_hops"}
RENAMED_VARIANTS = {"glimpses": "hops"}

PYRAMID_INDICES = (-3, -2, -1)  # strides 8, 16 and 32 of the usual backbones
PUBLISHED_LABELS, PUBLISHED_ATTRIBUTES = 1600, 400  # of Visual Genome, by Anderson et al. (2018)


RANGES: dict[str, Callable[[Any], bool]] = {
    "positive": lambda value: value is not None and value > 0,
    "zero or positive": lambda value: value >= 0,
    "in [0, 1)": lambda value: 0.0 <= value < 1.0,
}


def _require(owner: PreTrainedConfig, fields: str, expected: str, holds: bool | None = None) -> None:
    """Raises `ValueError` unless it holds, or all of the fields, separated by spaces, are in the range expected."""
    for field in fields.split():
        value = getattr(owner, field)
        if not (RANGES[expected](value) if holds is None else holds):
            raise ValueError(f"{type(owner).__name__}.{field} must be {expected}, got {value!r}.")


def _from_earlier_version(fields: dict[str, Any]) -> list[str]:
    """Renames what earlier versions wrote and takes out what this one has no settings for; returns those names."""
    for earlier, name in RENAMED_FIELDS.items():
        if earlier in fields:
            fields.setdefault(name, fields.pop(earlier))
    variant = fields.get("question_variant")
    if variant in RENAMED_VARIANTS:
        fields["question_variant"] = RENAMED_VARIANTS[variant]
    earlier = [name for name in fields if name in EARLIER_FIELDS]
    for name in earlier:
        del fields[name]
    return earlier


@strict
class ButdBottomUpConfig(PreTrainedConfig):  # trf-ignore: TRF057
    r"""The bottom-up half: a timm backbone and the selector that turns its feature maps into ranked regions.

    | selector | regions |
    |---|---|
    | `"grid"` | every cell of the feature map |
    | `"saliency"` | multi-scale windows with the highest centre-surround contrast; no training |
    | `"rpn"` | boxes proposed by learned objectness |
    | `"faster_rcnn_c4"` | the published detector |
    | `"given"` | none of its own: the model has no backbone, and gets ready regions of `region_size` |

    The published detector had the backbone `"resnet101"`, kept 10 to 100 regions above a score of 0.2, and had an NMS
    threshold of 0.3.
    """

    model_type = "butd_bottom_up"
    base_config_key = "bottom_up_config"

    backbone: str = "tf_efficientnet_lite2"  # any timm model that supports `features_only`
    backbone_kwargs: dict[str, Any] | None = None  # further arguments of `timm.create_model`
    # which feature maps: by default the three coarsest for "rpn", else the coarsest; "grid" and "saliency" average
    # several maps down to the coarsest and concatenate them
    out_indices: list[int] | tuple[int, ...] | None = None
    num_channels: int = 3
    selector: str = "rpn"  # one of the table above
    num_regions: int = 36  # at most so many per image, as in the original bottom-up features; "grid" keeps every cell
    min_regions: int = 10  # at least so many, however low they score; the original kept 10 to 100
    score_threshold: float = 0.0  # regions that score lower are dropped once `min_regions` are kept
    nms_threshold: float = 0.5  # IoU in (0, 1] above which the lower ranked of two regions is dropped
    fpn_size: int = 128  # channels of the pyramid of "rpn", a multiple of 8; its head costs the square
    region_head_size: int = 256  # what the region head of "rpn" adds to the backbone's own feature
    region_mask_size: int = 0  # side of the soft mask that the region head draws in each box, even; 0 for none
    variant: Literal["caffe", "detectron2"] = "caffe"  # "faster_rcnn_c4": the original, or its ports to detectron2
    num_region_labels: int = 0  # classes of regions; of "faster_rcnn_c4" as many as `id2label`, 1600 by default
    num_region_attributes: int = 0  # of "faster_rcnn_c4" as many as `id2attribute`; 400 with 1600 classes
    id2attribute: dict[int, str] | dict[str, str] | None = None  # names of the attributes
    region_size: int | None = None  # of the features of ready regions, for "given"; else the backbone's

    def __post_init__(self, **kwargs):
        if self.out_indices is None:
            self.out_indices = PYRAMID_INDICES if self.selector == "rpn" else (-1,)
        self.out_indices = list(self.out_indices)
        if self.selector == "faster_rcnn_c4":
            self._name_labels()
        super().__post_init__(**kwargs)

    def _name_labels(self):
        """Numbers of classes and attributes from their names, or names from their numbers."""
        if self.id2attribute is not None:
            self.id2attribute = {int(index): name for index, name in self.id2attribute.items()}  # text in JSON
            self.num_region_attributes = self.num_region_attributes or len(self.id2attribute)
        if self.id2label is None:
            if not self.num_region_labels and not self.num_region_attributes:
                self.num_region_attributes = PUBLISHED_ATTRIBUTES
            self.num_region_labels = self.num_region_labels or PUBLISHED_LABELS
            self.id2label = {index: f"LABEL_{index}" for index in range(self.num_region_labels)}
            self.label2id = {name: index for index, name in self.id2label.items()}
        self.num_region_labels = self.num_region_labels or len(self.id2label)
        if self.id2attribute is None and self.num_region_attributes:
            self.id2attribute = {index: f"ATTRIBUTE_{index}" for index in range(self.num_region_attributes)}

    def validate_bottom_up(self):
        """Checks ranges; called by `@strict` after the types."""
        _require(self, "out_indices", "a non-empty list of feature map indices", len(self.out_indices) > 0)
        _require(self, "num_channels num_regions min_regions region_head_size", "positive")
        _require(self, "num_region_labels num_region_attributes", "zero or positive")
        _require(self, "nms_threshold", "in (0, 1]", 0.0 < self.nms_threshold <= 1.0)
        _require(self, "fpn_size", "a positive multiple of 8", self.fpn_size > 0 and self.fpn_size % 8 == 0)
        is_even = self.region_mask_size >= 0 and self.region_mask_size % 2 == 0
        _require(self, "region_mask_size", "even, zero or positive", is_even)
        if self.selector == "faster_rcnn_c4":
            for field, number in (("id2label", self.num_region_labels), ("id2attribute", self.num_region_attributes)):
                fits = set(getattr(self, field) or {}) == set(range(number))
                _require(self, field, f"a name for each of {number}", fits)
        if self.selector == "given":
            fits = self.region_size is not None and self.region_size > 0
            _require(self, "region_size", "positive with the selector 'given'", fits)
        else:
            _require(self, "region_size", "left out: the backbone decides it", self.region_size is None)


@strict
class ButdTopDownConfig(PreTrainedConfig):  # trf-ignore: TRF057
    r"""The top-down half: a decoder that attends to the regions, given what the task knows so far.

    `recurrent_variant` says which published model the decoders `"lstm"` and `"gru"` follow:

    | | `"paper"` (Caffe) | `"port"` (PyTorch, ruotianluo) |
    |---|---|---|
    | embeddings | as they are | ReLU, dropout |
    | regions and their mean | as they are | each projected to `hidden_size`, ReLU, dropout |
    | attention | without biases | with biases |
    | inputs of the attention LSTM | word, mean, language state | language state, mean, word |
    | inputs of the language LSTM | attention state, attended | attended, attention state |
    | before the output layer | nothing | dropout |
    | forget gates begin with | a bias of 1 | no bias |

    `question_variant` says how questions are answered: by `num_hops` attention hops (`"hops"`), or by one, with the
    state of a `"gru"`, as Anderson et al. 2018 (`"paper"`, gated tanh) or as the two models of hengyuan-hu's PyTorch
    port (ReLU, weight norm), with attention by concatenation (`"baseline0"`) or by product (`"baseline0_newatt"`).
    """

    model_type = "butd_top_down"
    base_config_key = "top_down_config"

    # "lstm" is the Up-Down model of Anderson et al. 2018, an attention LSTM and a language LSTM; "gru" has one GRU;
    # in question answering, what encodes the question
    decoder: Literal["transformer", "lstm", "gru"] = "transformer"
    vocab_size: int = 10000
    hidden_size: int = 256
    num_hidden_layers: int = 3
    num_region_layers: int = 1  # of self-attention among regions: lets one know its neighbours before a word picks it
    num_attention_heads: int = 8  # divides `hidden_size`
    intermediate_size: int = 1024  # of the feed-forward layers
    hidden_act: str = "gelu"  # of the feed-forward layers
    max_position_embeddings: int = 64  # longest text in tokens
    dropout: float = 0.1  # of embeddings and residual branches
    attention_dropout: float = 0.0  # of attention weights
    region_dropout: float = 0.0  # share of whole regions hidden from the decoder in training
    recurrent_variant: Literal["paper", "port"] = "port"  # its projections suit features of any size and scale
    embedding_size: int | None = None  # of words, for "lstm" and "gru"; `hidden_size` by default, as tied weights need
    attention_size: int = 512  # hidden units of the attention of "lstm" and "gru", as published
    output_bias: bool = False  # of the output layer; published Up-Down models have one
    question_variant: Literal["hops", "paper", "baseline0", "baseline0_newatt"] = "hops"
    num_hops: int = 2  # "what is left of the lamp": attend to the lamp, then left of it
    question_ngrams: int = 0  # buckets of hashed n-grams of a question, added to its state; only with "hops"
    answer_dropout: float = 0.5  # before answers are scored, as published
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def is_recurrent(self) -> bool:
        """Whether the decoder keeps a state of one size instead of keys and values, and reads no boxes."""
        return self.decoder in ("lstm", "gru")

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """This config itself: `decoder` names a kind here, not a nested config as transformers would guess."""
        return self

    def validate_top_down(self):
        """Checks ranges; called by `@strict` after the types."""
        _require(self, "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size", "positive")
        _require(self, "attention_size num_hops max_position_embeddings", "positive")
        _require(self, "num_region_layers question_ngrams", "zero or positive")
        size = self.hidden_size
        _require(self, "num_attention_heads", f"a divisor of hidden_size={size}", size % self.num_attention_heads == 0)
        if self.embedding_size is not None:
            _require(self, "embedding_size", "positive")
            _require(self, "embedding_size", "left out with the decoder 'transformer'", self.is_recurrent)
        if self.question_variant != "hops":
            variant = f"with question_variant={self.question_variant!r}"
            _require(self, "question_ngrams", f"0 {variant}", self.question_ngrams == 0)
            _require(self, "decoder", f"'gru' {variant}", self.decoder == "gru")
        _require(self, "dropout attention_dropout region_dropout answer_dropout", "in [0, 1)")


# fields that only some models read
TASK_FIELDS = {
    "label_smoothing": ("ButdForConditionalGeneration", "ButdForQuestionAnswering"),
    "one_to_many": ("ButdForObjectDetection", "ButdForInstanceSegmentation"),
    "num_predicates id2predicate pair_budget pair_rank_features relation_appearance region_label_ids": (
        "ButdForSceneGraphGeneration",
    ),
}
CODE_FIELDS = {"auto_map": auto_map, "custom_pipelines": custom_pipelines}


@strict
class ButdConfig(PreTrainedConfig):  # trf-ignore: TRF057
    r"""Configuration of every `Butd*` model.

    Fields of a task are only in the files of its models.

    Example:

    ```python
    >>> from butd_hf.modeling.configuration_butd import ButdConfig
    >>> config = ButdConfig(bottom_up_config={"backbone": "resnet50", "selector": "grid"})
    >>> config.bottom_up_config.backbone
    'resnet50'
    ```"""

    model_type = "butd"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "bottom_up_config": ButdBottomUpConfig,
        "top_down_config": ButdTopDownConfig,
    }
    # what `Trainer` leaves out of predictions: everything but losses and what heads say
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *("auxiliary_outputs", "cache", "cross_attentions", "decoder_attentions", "decoder_hidden_states"),
        *("encoder_last_hidden_state", "hidden_states", "last_hidden_state", "region_attentions", "regions"),
        "selection_logits",
    ]

    bottom_up_config: dict | PreTrainedConfig | None = None  # what proposes, ranks and pools regions
    top_down_config: dict | PreTrainedConfig | None = None  # what attends to them
    is_encoder_decoder: bool = True  # the image is encoded once, the text is decoded step by step
    tie_word_embeddings: bool = True  # whether the output layer shares the word embeddings
    pad_token_id: int | None = None  # the decoder's
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    # captions and answers
    label_smoothing: float = 0.0  # of the loss of tokens and of single answers
    # detection and segmentation
    # queries per object in a second pass of training, over proposals and boxes near the labels: one query per object
    # is too little to learn from on little data; 0 leaves the pass out
    one_to_many: int = 4
    # scene graphs
    num_predicates: int = 0  # as many as `id2predicate` names
    id2predicate: dict[int, str] | dict[str, str] | None = None  # `PREDICATE_0`, ... by default
    pair_budget: int = 256  # pairs of subject and object per image, at most: all pairs of 16 objects
    pair_rank_features: bool = False  # whether pairs are compared with others of the same labels: how many are nearer
    # whether relations read region features, or labels and geometry alone, which data without images can teach
    relation_appearance: bool = True
    # label of each region label of the bottom-up half, -1 for none: its class logits are added to those of objects
    region_label_ids: list[int] | None = None

    def __post_init__(self, **kwargs):
        earlier = _from_earlier_version(kwargs)
        if "pair_rank_features" in kwargs:
            self.pair_rank_features = kwargs.pop("pair_rank_features")
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                fields = dict(value or {})
                earlier += _from_earlier_version(fields)
                setattr(self, name, config_class(**fields))
        if earlier:
            names = ", ".join(sorted(set(earlier)))
            logger.warning_once(f"Settings of an earlier version of butd_hf are left out: {names}.")
        # one place says what the special tokens are: the decoder's config
        self.pad_token_id = self.top_down_config.pad_token_id
        self.bos_token_id = self.top_down_config.bos_token_id
        self.eos_token_id = self.top_down_config.eos_token_id
        self.decoder_start_token_id = self.top_down_config.bos_token_id
        if self.id2predicate is not None:
            self.id2predicate = {int(index): name for index, name in self.id2predicate.items()}  # text in JSON
            self.num_predicates = self.num_predicates or len(self.id2predicate)
        elif self.num_predicates > 0:
            self.id2predicate = {index: f"PREDICATE_{index}" for index in range(self.num_predicates)}
        kwargs.pop("custom_pipelines", None)  # follows from the architecture, as `auto_map` does
        super().__post_init__(**kwargs)

    @property
    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """Pipelines that transformers should run from the checkpoint's own code.

        None if this class comes from an installed package, which registers its pipelines: `pipeline` would insist on
        `trust_remote_code=True`.
        """
        is_remote = type(self).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")
        return custom_pipelines(self.architectures) if is_remote else {}

    def to_dict(self) -> dict[str, Any]:
        """As any config's, with `auto_map` and `custom_pipelines`, and without the fields of other tasks."""
        output = super().to_dict()
        # loading a model sets the dtype of the halves, building one doesn't: their files are to be the same
        for name in self.sub_configs:
            output[name]["dtype"] = output["dtype"] or output[name]["dtype"]
        left_out = set(CODE_FIELDS)
        for fields, tasks in TASK_FIELDS.items():
            if self.architectures and not set(tasks) & set(self.architectures):
                left_out.update(fields.split())
        output = {name: value for name, value in output.items() if name not in left_out}
        code = {name: made(self.architectures) for name, made in CODE_FIELDS.items()}
        return {**output, **{name: value for name, value in code.items() if value}}

    def validate_fields(self):
        """Checks ranges; called by `@strict` after the types."""
        top_down = self.top_down_config
        fits = top_down.embedding_size in (None, top_down.hidden_size) or not self.tie_word_embeddings
        expected = f"False with embedding_size={top_down.embedding_size} and hidden_size={top_down.hidden_size}"
        _require(self, "tie_word_embeddings", expected, fits)
        _require(self, "label_smoothing", "in [0, 1)")
        _require(self, "one_to_many", "zero or positive")
        _require(self, "pair_budget", "positive")
        number = self.num_predicates
        fits = set(self.id2predicate or {}) == set(range(number))
        _require(self, "id2predicate", f"a name for each of num_predicates={number}", fits)
        if self.region_label_ids is not None:
            number, most = self.bottom_up_config.num_region_labels, self.num_labels - 1
            fits = len(self.region_label_ids) == number and all(-1 <= label <= most for label in self.region_label_ids)
            _require(self, "region_label_ids", f"-1 to {most} for each of num_region_labels={number}", fits)

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """The part of the config that describes text: always the top-down decoder's."""
        return self.top_down_config


__all__ = ["ButdBottomUpConfig", "ButdConfig", "ButdTopDownConfig"]
