# SPDX-License-Identifier: Apache-2.0
"""Configuration of Bottom-Up Top-Down attention models: what proposes regions, and what attends to them."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

from .remote_code import auto_map, custom_pipelines


logger = logging.get_logger(__name__)

# fields of earlier versions, which files may still state
EARLIER_FIELDS = frozenset()

PYRAMID_INDICES = (-3, -2, -1)  # strides 8, 16 and 32 of the usual backbones
PUBLISHED_LABELS, PUBLISHED_ATTRIBUTES = 1600, 400  # of Visual Genome, by Anderson et al. (2018)


def _require(owner: PreTrainedConfig, field: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{type(owner).__name__}.{field} must be {expected}, got {getattr(owner, field)!r}.")


def _take_earlier_fields(fields: dict[str, Any]) -> list[str]:
    """Takes what earlier versions wrote out of a config's keywords, and returns the names."""
    earlier = [name for name in fields if name in EARLIER_FIELDS]
    for name in earlier:
        del fields[name]
    return earlier


@strict
class ButdBottomUpConfig(PreTrainedConfig):
    r"""
    The bottom-up half: a timm backbone and the selector that turns its feature maps into ranked regions.

    Args:
        backbone (`str`): Name of any timm model that supports `features_only`.
        out_indices (`list[int]`, *optional*): Which of the backbone's feature maps are used: by default the three
            coarsest for `"rpn"`, which makes a pyramid of them, and the coarsest for the others, which average
            several maps down to the coarsest of them and concatenate them.
        selector (`"grid"`, `"saliency"`, `"rpn"`, `"faster_rcnn_c4"` or `"given"`): `"grid"` keeps every cell of the
            feature map; `"saliency"` scores multi-scale windows by centre-surround contrast and keeps the best,
            without training; `"rpn"` proposes boxes by learned objectness; `"faster_rcnn_c4"` is the published
            detector, whose backbone was `"resnet101"`, with 10 to 100 regions, a score threshold of 0.2 and an NMS
            threshold of 0.3; `"given"` has no backbone: whoever calls the model brings ready regions of
            `region_size`.
        num_regions (`int`): At most this many regions are kept per image (`"grid"` keeps every cell).
        min_regions (`int`): At least this many are kept (never more than `num_regions`), however low they
            score.
        score_threshold (`float`): Regions that score lower are dropped once `min_regions` are kept.
        nms_threshold (`float`): Intersection over union in (0, 1] above which the lower ranked of two is dropped.
        window_sizes (`list[float]`): Window sides tried by `"saliency"`, as fractions of the image side.
        keep_whole_image (`bool`): Whether `"saliency"` keeps the whole image as one of its regions.
        fpn_size (`int`): Channels of the feature pyramid of `"rpn"`, a multiple of 8.
        num_candidates (`int`): Boxes of `"rpn"` that enter non-maximum suppression, the best of all.
        region_head_size (`int`): Width of what the region head of `"rpn"` adds to the backbone's own feature.
        region_mask_size (`int`): Side of the soft mask that the region head draws in each box, even; 0 for none.
        image_grid_size (`int`): `"rpn"` adds the cells of a grid of this many rows and columns over the whole image
            to its regions, beyond `num_regions` and with saliency 0; 0 for none.
        num_noised_boxes (`int`): Noised copies of each labelled box that join the proposals of `"rpn"` in training.
        box_noise (`float`): How far noise moves and scales them, as a fraction of their size in [0, 1).
        variant (`"caffe"` or `"detectron2"`): Whose numbers `"faster_rcnn_c4"` gives: those of the original, or those
            of the ports to detectron2.
        num_proposals (`int`): Boxes that the region proposal network of `"faster_rcnn_c4"` proposes, at most.
        rpn_size (`int`): Width of that network.
        num_region_labels (`int`): Object classes that regions are told apart by; with `"faster_rcnn_c4"` as many as
            `id2label` names, 1600 by default.
        num_region_attributes (`int`): Attributes of regions; with `"faster_rcnn_c4"` as many as `id2attribute` names;
            400 by default if the number of classes isn't given either, 0 for none.
        id2attribute (`dict[int, str]`): Names of the attributes.
        computation (`"plain"`, `"fast"` or `"approximate"`): How `"faster_rcnn_c4"` computes features: layer by layer;
            the same to rounding, faster; or from a quarter of each region's cells, much faster and with other numbers.
        freeze_batch_norm (`bool`): Whether batch norm keeps its statistics and affine parameters in training.
        region_size (`int`): Size of the features of ready regions, for `"given"`; other selectors have their
            backbone's.
        backbone_kwargs (`dict`): Further arguments of `timm.create_model`.
    """

    model_type = "butd_bottom_up"
    base_config_key = "bottom_up_config"

    backbone: str = "tf_efficientnet_lite2"
    out_indices: list[int] | tuple[int, ...] | None = None
    num_channels: int = 3
    selector: Literal["grid", "saliency", "rpn", "faster_rcnn_c4", "given"] = "rpn"
    num_regions: int = 36  # as in the original bottom-up features
    min_regions: int = 10  # the original kept 10 to 100
    score_threshold: float = 0.0
    nms_threshold: float = 0.5
    window_sizes: list[float] | tuple[float, ...] = (0.2, 0.3, 0.45, 0.7, 1.0)  # near-geometric, a child to a scene
    keep_whole_image: bool = True  # a scene has no centre-surround contrast, yet captions name it
    fpn_size: int = (
        128  # the head costs its square; half of Lin et al.'s 256 keeps selection cheaper than the backbone
    )
    num_candidates: int = 512  # an object has about ten near-copies, and 36 regions must remain
    region_head_size: int = 256
    region_mask_size: int = 0
    image_grid_size: int = 0
    num_noised_boxes: int = 2  # early proposals miss most objects, which would then teach the heads nothing
    box_noise: float = 0.4  # most copies overlap their box by more than half, as good proposals do
    variant: Literal["caffe", "detectron2"] = "caffe"
    num_proposals: int = 300
    rpn_size: int = 512
    num_region_labels: int = 0  # saliency needs no classes
    num_region_attributes: int = 0
    id2attribute: dict[int, str] | dict[str, str] | None = None
    computation: Literal["plain", "fast", "approximate"] = "fast"
    freeze_batch_norm: bool = True  # batches of region data are small and unlike ImageNet's
    region_size: int | None = None  # published features come from detectors that are not part of the checkpoint
    backbone_kwargs: dict[str, Any] | None = None

    def __post_init__(self, **kwargs):
        if self.out_indices is None:
            self.out_indices = PYRAMID_INDICES if self.selector == "rpn" else (-1,)
        self.out_indices = list(self.out_indices)
        self.window_sizes = list(self.window_sizes)
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
        _require(self, "out_indices", len(self.out_indices) > 0, "a non-empty list of feature map indices")
        _require(self, "num_channels", self.num_channels > 0, "positive")
        _require(self, "num_regions", self.num_regions > 0, "positive")
        _require(self, "min_regions", self.min_regions > 0, "positive")
        _require(self, "nms_threshold", 0.0 < self.nms_threshold <= 1.0, "in (0, 1]")
        for field in ("num_proposals", "rpn_size"):
            _require(self, field, getattr(self, field) > 0, "positive")
        for field in ("num_region_labels", "num_region_attributes"):
            _require(self, field, getattr(self, field) >= 0, "zero or positive")
        if self.selector == "faster_rcnn_c4":
            agrees = set(self.id2label) == set(range(self.num_region_labels))
            _require(self, "id2label", agrees, f"a name for each of num_region_labels={self.num_region_labels}")
            agrees = set(self.id2attribute or {}) == set(range(self.num_region_attributes))
            _require(self, "id2attribute", agrees, f"a name for each of {self.num_region_attributes} attributes")
        in_range = len(self.window_sizes) > 0 and all(0.0 < size <= 1.0 for size in self.window_sizes)
        _require(self, "window_sizes", in_range, "a non-empty list of fractions in (0, 1]")
        _require(self, "fpn_size", self.fpn_size > 0 and self.fpn_size % 8 == 0, "a positive multiple of 8")
        _require(self, "num_candidates", self.num_candidates > 0, "positive")
        _require(self, "region_head_size", self.region_head_size > 0, "positive")
        for field in ("num_region_labels", "num_region_attributes", "image_grid_size", "num_noised_boxes"):
            _require(self, field, getattr(self, field) >= 0, "zero or positive")
        even = self.region_mask_size >= 0 and self.region_mask_size % 2 == 0
        _require(self, "region_mask_size", even, "even, zero or positive")
        _require(self, "box_noise", 0.0 <= self.box_noise < 1.0, "in [0, 1)")
        if self.selector == "given":
            _require(self, "region_size", (self.region_size or 0) > 0, "positive with the selector 'given'")
        else:
            _require(self, "region_size", self.region_size is None, "left out: the backbone decides it")


@strict
class ButdTopDownConfig(PreTrainedConfig):
    r"""
    The top-down half: a decoder that attends to the regions, given what the task knows so far.

    Args:
        decoder (`"transformer"`, `"lstm"` or `"gru"`): The decoder's kind. `"lstm"` is the Up-Down model of
            Anderson et al. 2018, an attention LSTM and a language LSTM; `"gru"` is the same with one GRU.
        vocab_size (`int`): Number of tokens.
        hidden_size (`int`): Width of the decoder.
        num_hidden_layers (`int`): Number of decoder layers.
        num_region_layers (`int`): Number of self-attention layers among the regions before they are attended to.
        num_attention_heads (`int`): Number of heads; divides `hidden_size`.
        intermediate_size (`int`): Width of the feed-forward layers.
        hidden_act (`str`): Activation of the feed-forward layers.
        max_position_embeddings (`int`): Longest text in tokens.
        dropout (`float`): Dropout of embeddings and residual branches, in [0, 1).
        attention_dropout (`float`): Dropout of attention weights, in [0, 1).
        recurrent_variant (`"paper"` or `"port"`): Which published model `"lstm"` and `"gru"` follow.

            | | `"paper"` (Caffe) | `"port"` (PyTorch, ruotianluo) |
            |---|---|---|
            | embeddings | as they are | ReLU, dropout |
            | regions and their mean | as they are | each projected to `hidden_size`, ReLU, dropout |
            | attention | without biases | with biases |
            | inputs of the attention LSTM | word, mean, language state | language state, mean, word |
            | inputs of the language LSTM | attention state, attended | attended, attention state |
            | before the output layer | nothing | dropout |
            | forget gates begin with | a bias of 1 | no bias |

        embedding_size (`int`): Width of the word embeddings of `"lstm"` and `"gru"`; `hidden_size` by default, which
            an output layer that shares them needs.
        attention_size (`int`): Hidden units of the attention over regions of `"lstm"` and `"gru"`.
        output_bias (`bool`): Whether the output layer has a bias.
        region_dropout (`float`): Share of whole regions hidden from the decoder in training, in [0, 1).
        text_encoder (`str`, *optional*): Hub name or folder of a pretrained text encoder that reads questions instead
            of one of the `decoder`'s kind; `AutoModel` loads it when the model is built for the first time.
        text_encoder_config (`dict`, *optional*): Its config, filled in by then: a saved model needs no other.
        question_variant (`"glimpses"`, `"paper"`, `"baseline0"` or `"baseline0_newatt"`): How questions are answered.
            `"glimpses"` looks `num_glimpses` times, the others once, with the state of a `"gru"`: as Anderson et al.
            2018 (`"paper"`, gated tanh), or as the two models of hengyuan-hu's PyTorch port (ReLU, weight norm),
            with attention by concatenation or by product (`"baseline0_newatt"`).
        num_glimpses (`int`): How often `"glimpses"` looks, each time in the light of what it saw before.
        word_dropout (`float`): Share of the words of a question that are blanked in training, in [0, 1).
        question_ngrams (`int`): Buckets for the hashed words, pairs and triples of words that a question is heard as
            besides; 0 to read it in order only. Not with `text_encoder`, nor with published answer heads.
        answer_dropout (`float`): Dropout before the answers are scored, in [0, 1).
        answer_size (`int`, *optional*): Width of the layer before; twice the `hidden_size` by default.
    """

    model_type = "butd_top_down"
    base_config_key = "top_down_config"

    decoder: Literal["transformer", "lstm", "gru"] = "transformer"
    vocab_size: int = 10000
    hidden_size: int = 256
    num_hidden_layers: int = 3
    num_region_layers: int = 1  # lets a region know its neighbours before a word picks one
    num_attention_heads: int = 8
    intermediate_size: int = 1024
    hidden_act: str = "gelu"
    max_position_embeddings: int = 64
    dropout: float = 0.1
    attention_dropout: float = 0.0
    region_dropout: float = 0.0
    recurrent_variant: Literal["paper", "port"] = "port"  # its projections suit features of any size and scale
    embedding_size: int | None = None
    attention_size: int = 512  # as published
    output_bias: bool = False  # published Up-Down models have one
    text_encoder: str | None = None
    text_encoder_config: dict[str, Any] | None = None
    question_variant: Literal["glimpses", "paper", "baseline0", "baseline0_newatt"] = "glimpses"
    num_glimpses: int = 2  # "what is left of the lamp": find the lamp, then look left of it
    word_dropout: float = 0.0
    question_ngrams: int = 0
    answer_dropout: float = 0.5  # as published
    answer_size: int | None = None
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def is_recurrent(self) -> bool:
        """Whether the decoder keeps a state of one size instead of keys and values, and looks at no boxes."""
        return self.decoder in ("lstm", "gru")

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """This config itself: `decoder` names a kind here, not a nested config as transformers would guess."""
        return self

    def validate_top_down(self):
        """Checks ranges; called by `@strict` after the types."""
        for field in ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "attention_size"):
            _require(self, field, getattr(self, field) > 0, "positive")
        _require(self, "num_hidden_layers", self.num_hidden_layers > 0, "positive")
        _require(self, "num_region_layers", self.num_region_layers >= 0, "zero or positive")
        _require(self, "max_position_embeddings", self.max_position_embeddings > 0, "positive")
        divides = self.hidden_size % self.num_attention_heads == 0
        _require(self, "num_attention_heads", divides, f"a divisor of hidden_size={self.hidden_size}")
        if self.embedding_size is not None:
            _require(self, "embedding_size", self.embedding_size > 0, "positive")
            _require(self, "embedding_size", self.is_recurrent, "left out with the decoder 'transformer'")
        _require(self, "num_glimpses", self.num_glimpses > 0, "positive")
        _require(self, "answer_size", self.answer_size is None or self.answer_size > 0, "positive")
        _require(self, "question_ngrams", self.question_ngrams >= 0, "zero or positive")
        if self.question_ngrams:
            reads = self.text_encoder is None and self.text_encoder_config is None
            own = reads and self.question_variant == "glimpses"
            _require(self, "question_ngrams", own, "0 with a text_encoder or a published question_variant")
        if self.question_variant != "glimpses":
            _require(self, "decoder", self.decoder == "gru", f"'gru' with question_variant={self.question_variant!r}")
            no_encoder = self.text_encoder is None and self.text_encoder_config is None
            _require(self, "text_encoder", no_encoder, f"None with question_variant={self.question_variant!r}")
        for field in ("dropout", "attention_dropout", "region_dropout", "word_dropout", "answer_dropout"):
            _require(self, field, 0.0 <= getattr(self, field) < 1.0, "in [0, 1)")


@strict
class ButdConfig(PreTrainedConfig):
    r"""
    Configuration of every `Butd*` model.

    Args:
        bottom_up_config (`dict` or `ButdBottomUpConfig`): What proposes, ranks and pools regions.
        top_down_config (`dict` or `ButdTopDownConfig`): What attends to them.
        label_smoothing (`float`): Label smoothing of the token loss, in [0, 1).
        class_cost, bbox_cost, giou_cost (`float`): Weights of class, L1 and generalised IoU when predictions are
            matched with labelled objects.
        class_loss_coefficient, bbox_loss_coefficient, giou_loss_coefficient, mask_loss_coefficient,
            dice_loss_coefficient (`float`): Weights of the losses of matched predictions.
        bottom_up_loss_coefficient (`float`): Weight of the losses of proposals and of the region head.
        auxiliary_loss (`bool`): Whether the decoder layers before the last are trained on the labels as well.
        one_to_many (`int`): Predictions matched with each object in a second pass of training, over noised labels
            and proposals; 0 to leave that pass out.
        mask_size (`int`): Side of the mask that instance segmentation draws in each box, even.
        num_predicates (`int`): Predicates of scene graphs, as many as `id2predicate` names.
        id2predicate (`dict[int, str]`, *optional*): Their names; `PREDICATE_0`, ... by default.
        predicate_names (`dict[int, str]`, *optional*): What is shown to people instead, where the names of the data
            mislead; metrics and training know nothing of it.
        pair_budget (`int`): At most this many pairs of subject and object are looked at per image.
        pair_rivals (`bool`): Whether a pair hears how it stands among the pairs of the same labels: who is nearer, and
            how many.
        relation_appearance (`bool`): Whether relations are judged by what regions look like, or by labels and
            geometry alone, which data without pictures can teach.
        frequency_prior (`bool`): Whether predicates and pairs begin with how often their labels were related so.
        num_frequent_pairs (`int`): Pairs of labels whose own frequencies the checkpoint keeps; `fit_frequency_prior`
            of the model sets it.
        logit_adjustment (`float`): How much of the log frequency of each predicate is taken off its logit once the
            model is trained: 0 for none, 1 for a balanced score (Menon et al. 2021).
        region_label_ids (`list[int]`, *optional*): Which label each region label of the bottom-up half means, -1 for
            none. What the bottom-up half believes then joins the object logits.
        no_object_weight (`float`): Weight of "no object" among the classes in the loss.
        object_loss_coefficient, pair_loss_coefficient, predicate_loss_coefficient (`float`): Weights of the losses of
            object labels, of which pairs are related, and of how.
        tie_word_embeddings (`bool`): Whether the output layer shares the word embeddings.

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
        "auxiliary_outputs",
        "cache",
        "cross_attentions",
        "decoder_attentions",
        "decoder_hidden_states",
        "encoder_last_hidden_state",
        "hidden_states",
        "last_hidden_state",
        "region_attentions",
        "regions",
    ]

    bottom_up_config: dict | PreTrainedConfig | None = None
    top_down_config: dict | PreTrainedConfig | None = None
    label_smoothing: float = 0.0
    class_cost: float = 2.0  # these and the coefficients: as in Deformable DETR and RT-DETR
    bbox_cost: float = 5.0
    giou_cost: float = 2.0
    class_loss_coefficient: float = 1.0
    bbox_loss_coefficient: float = 5.0
    giou_loss_coefficient: float = 2.0
    mask_loss_coefficient: float = 1.0
    dice_loss_coefficient: float = 1.0
    bottom_up_loss_coefficient: float = 1.0
    auxiliary_loss: bool = True
    one_to_many: int = 4  # one to one alone leaves too few positives to learn from on little data
    mask_size: int = 28  # as in Mask R-CNN
    num_predicates: int = 0
    id2predicate: dict[int, str] | dict[str, str] | None = None
    predicate_names: dict[int, str] | dict[str, str] | None = None
    pair_budget: int = 256  # all pairs of 16 objects
    pair_rivals: bool = False
    relation_appearance: bool = True
    frequency_prior: bool = True  # labels alone predict most predicates (Zellers et al. 2018)
    num_frequent_pairs: int = 0
    logit_adjustment: float = 0.0
    region_label_ids: list[int] | None = None
    no_object_weight: float = 0.1  # as in DETR: most regions are about nothing
    object_loss_coefficient: float = 1.0
    pair_loss_coefficient: float = 1.0
    predicate_loss_coefficient: float = 1.0
    is_encoder_decoder: bool = True  # the image is encoded once, the text is decoded step by step
    tie_word_embeddings: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None

    def __post_init__(self, **kwargs):
        earlier = _take_earlier_fields(kwargs)
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                fields = dict(value or {})
                earlier += _take_earlier_fields(fields)
                setattr(self, name, config_class(**fields))
        if earlier:
            logger.warning_once(f"This version has no such settings, they are left out: {', '.join(sorted(earlier))}.")
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
        if self.predicate_names is not None:
            self.predicate_names = {int(index): name for index, name in self.predicate_names.items()}
        kwargs.pop("custom_pipelines", None)  # follows from the architecture, as `auto_map` does
        super().__post_init__(**kwargs)

    @property
    def custom_pipelines(self) -> dict[str, dict[str, Any]]:
        """
        Pipelines that transformers should run from the checkpoint's own code.

        None if this class comes from an installed package, which registers its pipelines: `pipeline` would insist on
        `trust_remote_code=True`.
        """
        is_remote = type(self).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")
        return custom_pipelines(self.architectures) if is_remote else {}

    def to_dict(self) -> dict[str, Any]:
        """As any config's, with `auto_map` and `custom_pipelines`: where the checkpoint's code is."""
        output = super().to_dict()
        # loading a model tells its dtype to the halves, building one doesn't; their files look the same
        for name in self.sub_configs:
            output[name]["dtype"] = output["dtype"] or output[name]["dtype"]
        for name, value in (
            ("auto_map", auto_map(self.architectures)),
            ("custom_pipelines", custom_pipelines(self.architectures)),
        ):
            output.pop(name, None)
            if value:
                output[name] = value
        return output

    def validate_tie_word_embeddings(self):
        """Checks that shared word embeddings fit the output layer; called by `@strict` after the types."""
        top_down = self.top_down_config
        fits = top_down.embedding_size in (None, top_down.hidden_size)
        expected = f"False with embedding_size={top_down.embedding_size} and hidden_size={top_down.hidden_size}"
        _require(self, "tie_word_embeddings", fits or not self.tie_word_embeddings, expected)

    def validate_label_smoothing(self):
        """Checks the range; called by `@strict` after the types."""
        _require(self, "label_smoothing", 0.0 <= self.label_smoothing < 1.0, "in [0, 1)")

    def validate_detection(self):
        """Checks ranges; called by `@strict` after the types."""
        _require(
            self, "class_cost", self.class_cost + self.bbox_cost + self.giou_cost > 0, "positive, or another cost"
        )
        for field in ("class_cost", "bbox_cost", "giou_cost", "one_to_many"):
            _require(self, field, getattr(self, field) >= 0, "zero or positive")
        _require(self, "mask_size", self.mask_size > 0 and self.mask_size % 2 == 0, "even and positive")

    def validate_scene_graph(self):
        """Checks ranges; called by `@strict` after the types."""
        agrees = set(self.id2predicate or {}) == set(range(self.num_predicates))
        _require(self, "id2predicate", agrees, f"a name for each of num_predicates={self.num_predicates}")
        agrees = self.predicate_names is None or set(self.predicate_names) == set(range(self.num_predicates))
        _require(self, "predicate_names", agrees, f"None, or one for each of num_predicates={self.num_predicates}")
        _require(self, "pair_budget", self.pair_budget > 0, "positive")
        for field in ("num_frequent_pairs", "logit_adjustment", "no_object_weight"):
            _require(self, field, getattr(self, field) >= 0, "zero or positive")
        for field in ("object_loss_coefficient", "pair_loss_coefficient", "predicate_loss_coefficient"):
            _require(self, field, getattr(self, field) >= 0, "zero or positive")
        if self.region_label_ids is not None:
            number = self.bottom_up_config.num_region_labels
            fits = len(self.region_label_ids) == number and all(
                -1 <= label < self.num_labels for label in self.region_label_ids
            )
            expected = f"-1 to {self.num_labels - 1} for each of num_region_labels={number}"
            _require(self, "region_label_ids", fits, expected)

    def get_text_config(self, decoder=None, encoder=None) -> PreTrainedConfig:
        """The part of the config that describes text: always the top-down decoder's."""
        return self.top_down_config


__all__ = ["ButdBottomUpConfig", "ButdConfig", "ButdTopDownConfig"]
