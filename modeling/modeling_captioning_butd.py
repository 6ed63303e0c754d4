# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Captions: the image proposes regions, the decoder writes a text word by word."""

from typing import ClassVar

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.deprecation import deprecate_kwarg

from .configuration_butd import ButdConfig
from .losses.answers import class_loss
from .modeling_butd import ButdModel, ButdPreTrainedModel
from .outputs import ButdConditionalGenerationOutput, ButdEncoderOutput


IMAGE_ARGUMENTS = ("pixel_values", "pixel_mask", "region_features", "region_boxes", "region_mask", "image_scale")


class ButdForConditionalGeneration(ButdPreTrainedModel, GenerationMixin):  # trf-ignore: TRF057
    """Image captioning: text about an image, word by word, each word attending to the regions it needs."""

    _reader = "top_down"
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.top_down.embed_tokens.weight"}

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        self.model = ButdModel(config)
        text_config = config.top_down_config
        self.lm_head = nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=text_config.output_bias)
        self.post_init()

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")  # as every model of transformers
    @can_return_tuple
    def forward(  # trf-ignore: TRF057, trf-ignore: TRF045
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        encoder_outputs: ButdEncoderOutput | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdConditionalGenerationOutput | tuple:
        """
        Args:
            labels (`torch.LongTensor` of shape `(num_texts, length)`, *optional*): The token that should follow each
                of `input_ids`, -100 where none counts, as `ButdProcessor.encode_captions` makes both. `input_ids` may
                be left out: they are then the labels, shifted right. `ValueError` if they repeat `input_ids` or begin
                with the begin token: they aren't shifted.
            logits_to_keep (`int`): Scores of only this many last positions; all of them by default.

        See `encode_image` for the arguments about the image, `ButdModel.forward` for the others.
        """
        if encoder_outputs is None:
            encoder_outputs = self.model.encode(
                pixel_values, pixel_mask, region_features, region_boxes, region_mask, image_scale
            )
        if labels is not None:
            input_ids = self.input_ids_of_labels(labels, input_ids, kwargs.get("inputs_embeds"))
        num_items = kwargs.pop("num_items_in_batch", None)
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask, "encoder_outputs": encoder_outputs}
        outputs = self.model(**kwargs)
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])  # (num_texts, length, vocab_size)
        loss = class_loss(logits, labels, self.config, num_items) if labels is not None else None
        fields = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return ButdConditionalGenerationOutput(loss=loss, logits=logits, **fields)

    def input_ids_of_labels(
        self, labels: torch.Tensor, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
    ) -> torch.Tensor | None:
        """`input_ids`, or those that go with the labels; see `forward` for errors."""
        text_config = self.config.top_down_config
        is_label = labels != -100
        if input_ids is not None and input_ids.shape == labels.shape and (input_ids == labels)[is_label].all():
            raise ValueError(
                "`labels` repeat `input_ids`, so the model would learn to copy. They are the tokens that follow: make "
                "both with `ButdProcessor.encode_captions`, or give `labels` alone, from after the begin token to the "
                "end token."
            )
        ends = text_config.eos_token_id if isinstance(text_config.eos_token_id, list) else [text_config.eos_token_id]
        if text_config.bos_token_id not in ends and (labels[:, 0] == text_config.bos_token_id).any():
            raise ValueError(
                f"`labels` begin with the begin token {text_config.bos_token_id} and may lack an end token, so that "
                "captions would never end. Make them with `ButdProcessor.encode_captions`."
            )
        if input_ids is None and inputs_embeds is None:
            return self.prepare_decoder_input_ids_from_labels(labels)
        return input_ids

    def prepare_decoder_input_ids_from_labels(self, labels: torch.LongTensor) -> torch.LongTensor:
        """The labels shifted right behind the begin token, padding where they don't count."""
        begin = labels.new_full((labels.shape[0], 1), self.config.bos_token_id)
        shifted = torch.cat([begin, labels[:, :-1]], dim=1)  # (num_texts, length)
        return shifted.masked_fill(shifted == -100, self.config.pad_token_id)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        *args,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        encoder_outputs: ButdEncoderOutput | None = None,
        **kwargs,
    ):
        """Captions images. All arguments of `GenerationMixin.generate` apply.

        Args:
            inputs (`torch.FloatTensor`, *optional*): Another name of `pixel_values`.
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`, *optional*): How the text begins, padded on
                the left; the begin token by default.

        See `encode_image` for the arguments about the image. The images are encoded once, whatever the number of beams
        or returned sequences.
        """
        image = {name: kwargs.pop(name) for name in IMAGE_ARGUMENTS if name in kwargs}
        if encoder_outputs is None:
            encoder_outputs = self.model.encode(**{"pixel_values": inputs, **image})
        num_images = encoder_outputs.last_hidden_state.shape[0]
        if input_ids is not None:
            if input_ids.shape[0] != num_images:
                raise ValueError(
                    f"`input_ids` has {input_ids.shape[0]} rows, expected one for each of {num_images} images."
                )
            kwargs["decoder_input_ids"] = input_ids
            if attention_mask is not None:
                kwargs["decoder_attention_mask"] = attention_mask
        # not read, but `generate` would ask for a mask where one token begins, ends and pads
        kwargs["attention_mask"] = encoder_outputs.regions.mask.long()
        return super().generate(*args, encoder_outputs=encoder_outputs, **kwargs)

    def _prepare_cache_for_generation(self, generation_config: GenerationConfig, model_kwargs: dict, *args, **kwargs):
        """Recurrent decoders make their own at the first step, of one size for texts of any length."""
        # CODEPATH: transformer decoders keep keys and values, Up-Down and its kin ("lstm", "gru") one state
        if not self.config.top_down_config.is_recurrent or model_kwargs.get("cache") is not None:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    def _prepare_generated_length(self, generation_config: GenerationConfig, **kwargs) -> GenerationConfig:
        """Never longer than there are positions for: pipelines ask for 256 tokens by default."""
        generation_config = super()._prepare_generated_length(generation_config, **kwargs)
        longest = self.config.top_down_config.max_position_embeddings
        generation_config.max_length = min(generation_config.max_length, longest)
        return generation_config

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        attention_mask: torch.LongTensor | None = None,
        decoder_attention_mask: torch.LongTensor | None = None,
        encoder_outputs: ButdEncoderOutput | None = None,
        use_cache: bool | None = None,
        **kwargs,
    ) -> dict:
        """The next step's inputs. `attention_mask` is the image's and not used; the text's is the decoder's."""
        if next_sequence_length is not None:
            input_ids = input_ids[:, -next_sequence_length:]
        return {
            "input_ids": input_ids,
            "attention_mask": decoder_attention_mask,
            "encoder_outputs": encoder_outputs,
            "cache": cache,
            "use_cache": use_cache,
            **{key: kwargs[key] for key in ("output_attentions", "output_hidden_states") if key in kwargs},
        }


__all__ = ["ButdForConditionalGeneration"]
