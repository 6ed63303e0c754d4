# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Visual question answering: the question decides which of the proposed regions matter."""

from dataclasses import replace
from typing import ClassVar

import torch
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp
from .configuration_butd import ButdConfig
from .heads.answers import ButdHopAnswers, ButdProductAnswers
from .losses.answers import answer_loss
from .modeling_butd import ButdPreTrainedModel
from .outputs import ButdQuestionAnsweringOutput
from .top_down.question_encoder import ButdQuestionEncoder


class ButdForQuestionAnswering(ButdPreTrainedModel):  # trf-ignore: TRF057
    """Visual question answering: the question steers attention over the regions; answers are `config.id2label`."""

    _reader = "question_encoder"
    _no_split_modules: ClassVar[list[str]] = ["ButdRegionLayer", "ButdAttentionHop"]  # trf-ignore: TRF022

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        top_down_config = config.top_down_config
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.question_encoder = ButdQuestionEncoder(top_down_config)
        answers_class = ButdHopAnswers if top_down_config.question_variant == "hops" else ButdProductAnswers
        self.top_down = answers_class(top_down_config, self.bottom_up.region_size, config.num_labels)
        self.post_init()

    @property
    def needs_boxes(self) -> bool:
        return self.config.top_down_config.question_variant == "hops"

    @can_return_tuple
    def forward(  # trf-ignore: TRF057, trf-ignore: TRF045
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdQuestionAnsweringOutput | tuple:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(num_questions, length)`, *optional*): Questions, as many for each
                image, those about one image next to one another. Empty ones by default. Words beyond
                `max_position_embeddings` aren't read.
            attention_mask (`torch.LongTensor` of shape `(num_questions, length)`, *optional*): 1 on tokens, 0 on
                padding, which may be on either side; 1 everywhere by default.
            inputs_embeds (`torch.FloatTensor` of shape `(num_questions, length, embedding_size)`, *optional*): Instead
                of `input_ids`.
            labels (`torch.Tensor`, *optional*): Soft scores in [0, 1], floats of shape `(num_questions, num_labels)`,
                for binary cross-entropy, summed over the answers; or one answer each, integers of shape
                `(num_questions,)`, for cross-entropy with `config.label_smoothing`, -100 where none counts.

        See `encode_image` for the arguments about the image. Of an image without regions (`region_mask` all False),
        the question alone is answered.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        image = self.encode_image(pixel_values, pixel_mask, region_features, region_boxes, region_mask, image_scale)
        if input_ids is None and inputs_embeds is None:
            num_images = image.regions.features.shape[0]
            input_ids = torch.zeros((num_images, 1), dtype=torch.long, device=image.regions.features.device)
            attention_mask = torch.zeros_like(input_ids)
        question = self.question_encoder(input_ids, attention_mask, inputs_embeds)
        output = self.top_down(question.pooled, image.regions)
        loss = None
        if labels is not None:
            loss = answer_loss(output.logits, labels, self.config, kwargs.get("num_items_in_batch"))
        hidden_states = question.hidden_states if output_hidden_states else None
        return replace(output, loss=loss, hidden_states=hidden_states, regions=image.regions)


__all__ = ["ButdForQuestionAnswering"]
