# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Bottom-Up Top-Down attention models: the image proposes regions, the task attends to them."""

from dataclasses import replace
from typing import ClassVar

import torch
from timm.layers import FrozenBatchNormAct2d
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

from .bottom_up.bottom_up import ButdBottomUp, ButdBottomUpOutput
from .configuration_butd import ButdConfig
from .losses.proposals import noised_regions
from .losses.targets import ButdTarget
from .outputs import ButdEncoderOutput, ButdModelOutput
from .regions import ButdRegions, ready_regions
from .remote_code import CarriesCode
from .top_down.recurrent import ButdGruDecoder, ButdLstmDecoder
from .top_down.transformer import ButdTransformerDecoder


TOP_DOWN_DECODERS = {"transformer": ButdTransformerDecoder, "lstm": ButdLstmDecoder, "gru": ButdGruDecoder}


class ButdPreTrainedModel(CarriesCode, PreTrainedModel):  # trf-ignore: TRF057
    config_class = ButdConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _reader: str | None = None  # the module that embeds words, in tasks that have some
    _supports_sdpa = True
    _supports_flash_attn = True
    # trf-ignore: TRF022
    _no_split_modules: ClassVar = ["ButdDecoderLayer", "ButdRegionLayer", "ButdLstmCell", "ButdGruCell"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["cache", "encoder_outputs"]

    def initialize_weights(self):
        super().initialize_weights()
        # of code outside transformers, `_init_weights` sees only modules that hold parameters themselves; these
        # initialise some of their parts in their own way, and leave loaded ones alone
        for module in self.modules():
            if hasattr(module, "init_own_weights"):
                module.init_own_weights()

    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, FrozenBatchNormAct2d):  # all of it are buffers, which are made anew on loading
            for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                init.constant_(getattr(module, name), value)
        if isinstance(module, (nn.LSTMCell, nn.GRUCell)):
            bound = module.hidden_size**-0.5  # torch's own
            init.uniform_(module.weight_ih, -bound, bound)
            init.uniform_(module.weight_hh, -bound, bound)
            init.zeros_(module.bias_hh)
            bias = torch.zeros_like(module.bias_ih)  # (num_gates * hidden_size,)
            if isinstance(module, nn.LSTMCell):
                bias.view(4, -1)[1] = module.forget_bias  # gates come as input, forget, cell, output
            init.copy_(module.bias_ih, bias)

    def post_init(self):
        # layers read the attention implementation from their own config: the model's, unless it was given one
        top_down = self.config.top_down_config
        top_down._attn_implementation = top_down._attn_implementation or self.config._attn_implementation
        super().post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        """None for tasks without words; quantisation asks, to keep tied embeddings as they are."""
        return getattr(self.base_model, self._reader).embed_tokens if self._reader else None

    def set_input_embeddings(self, value: nn.Module):
        getattr(self.base_model, self._reader).embed_tokens = value

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.base_model.bottom_up

    def get_decoder(self) -> nn.Module:
        return self.base_model.top_down

    @property
    def needs_boxes(self) -> bool:
        """Whether the top-down half reads where regions are; published captioners and answer heads don't."""
        return not self.config.top_down_config.is_recurrent

    def encode_image(
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        targets: list[ButdTarget] | None = None,
    ) -> ButdBottomUpOutput:
        """The regions of images, selected or ready: how every task gets them.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                Normalised images. Not needed with `region_features`.
            pixel_mask (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*): 1 on the image, 0 on
                the padding to its right and below it.
            region_features (`torch.FloatTensor` of shape `(batch_size, num_regions, region_size)`, *optional*): Ready.
            region_boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`, *optional*): `x0, y0, x1, y1`
                in [0, 1] of the unpadded image. With `region_features`, where they are, which may be left out where
                the model doesn't read it; with `pixel_values`, which regions to pool instead of selecting any.
            region_mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): True where there is a
                region; everywhere by default.
            image_scale (`torch.FloatTensor` of shape `(batch_size,)`, *optional*): Pixels of each image per pixel of
                the original one, which the selector `"faster_rcnn_c4"` needs; 1 by default.
            targets (`list[ButdTarget]`, *optional*): Labels of a learned selector. In training the output then also
                has regions near the labelled boxes.
        """
        if region_features is not None:
            region_size = self.bottom_up.region_size
            return ButdBottomUpOutput(
                ready_regions(region_features, region_boxes, region_mask, region_size, self.needs_boxes)
            )
        if pixel_values is None:
            raise ValueError("Give `pixel_values`, or `region_features` with `region_boxes`; got neither.")
        image = self.bottom_up(pixel_values, pixel_mask, region_boxes, region_mask, image_scale)
        if self.training and region_boxes is None and any(len(target.boxes) for target in targets or []):
            image.noised_boxes, image.noised = noised_regions(self.bottom_up.selector, image.pyramid, targets)
        return image


class ButdModel(ButdPreTrainedModel):  # trf-ignore: TRF057
    """Bottom-up selection of regions and a top-down decoder that attends to them, without a head."""

    _reader = "top_down"

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        decoder_class = TOP_DOWN_DECODERS[config.top_down_config.decoder]
        self.top_down = decoder_class(config.top_down_config, region_size=self.bottom_up.region_size)
        self.post_init()

    def encode(self, *args, **kwargs) -> ButdEncoderOutput:
        """Encodes images, or ready regions, once for any number of texts; see `encode_image` for the arguments."""
        regions = self.encode_image(*args, **kwargs).regions
        memory = self.top_down.encode(regions)
        return ButdEncoderOutput(last_hidden_state=memory.hidden_states, regions=regions, memory=memory)

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as every model of transformers
    @can_return_tuple
    def forward(  # trf-ignore: TRF057, trf-ignore: TRF045
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        encoder_outputs: ButdEncoderOutput | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdModelOutput | tuple:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(num_texts, length)`, *optional*): Texts about the images, as
                many for each image, those of one image next to one another. The begin token by default.
            attention_mask (`torch.LongTensor` of shape `(num_texts, past_length + length)`, *optional*): 1 on tokens.
            encoder_outputs (`ButdEncoderOutput`, *optional*): Images that `encode` encoded before.

        See `encode_image` for the arguments about the image.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if encoder_outputs is None:
            encoder_outputs = self.encode(
                pixel_values, pixel_mask, region_features, region_boxes, region_mask, image_scale
            )
        if input_ids is None and inputs_embeds is None:
            num_images = encoder_outputs.memory.hidden_states.shape[0]
            input_ids = torch.full((num_images, 1), self.config.bos_token_id, device=self.device)

        output = self.top_down(
            input_ids,
            encoder_outputs.memory,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            cache=cache,
            use_cache=bool(use_cache),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        region_attentions = None
        if output_attentions:
            layers = torch.stack(output.cross_attentions)  # (num_layers, num_texts, num_heads, length, num_regions)
            region_attentions = layers.mean(dim=(0, 2))  # (num_texts, length, num_regions)
        return replace(
            output,
            region_attentions=region_attentions,
            encoder_last_hidden_state=encoder_outputs.memory.hidden_states,
            regions=encoder_outputs.regions,
        )


class ButdRegionModel(ButdPreTrainedModel):  # trf-ignore: TRF057
    """Bottom-up selection of regions, without a top-down half."""

    input_modalities = ("image",)

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.post_init()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        pixel_values: torch.FloatTensor,
        pixel_mask: torch.LongTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdRegions | tuple:
        """See `encode_image` for the arguments; with `region_boxes` those are described instead of selecting any."""
        return self.bottom_up(pixel_values, pixel_mask, region_boxes, region_mask, image_scale).regions


__all__ = ["ButdModel", "ButdPreTrainedModel", "ButdRegionModel"]
