# SPDX-License-Identifier: Apache-2.0
"""Visual question answering: the question decides which of the proposed regions matter."""

from typing import ClassVar

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp
from .configuration_butd import ButdConfig
from .heads.product import ButdProductAnswers
from .modeling_butd import ButdPreTrainedModel
from .outputs import ButdQuestionAnsweringOutput
from .regions import ButdRegions, ready_regions
from .top_down.glimpses import ButdGlimpses
from .top_down.question_encoder import ButdQuestionEncoder


SINGLE, SOFT = "single_label_classification", "multi_label_classification"  # transformers' names of problem types


class ButdForQuestionAnswering(ButdPreTrainedModel):
    """Visual question answering: the question steers attention over the regions; answers are `config.id2label`."""

    _no_split_modules: ClassVar[list[str]] = ["ButdRegionLayer", "ButdGlimpse"]

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        top_down_config = config.top_down_config
        # the layers read the attention implementation from their own config: the model's, unless it was given one
        top_down_config._attn_implementation = top_down_config._attn_implementation or config._attn_implementation
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.question_encoder = ButdQuestionEncoder(top_down_config)
        answers_class = ButdGlimpses if top_down_config.question_variant == "glimpses" else ButdProductAnswers
        self.top_down = answers_class(
            top_down_config, region_size=self.bottom_up.region_size, num_labels=config.num_labels
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.question_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        if self.question_encoder.kind == "pretrained":
            self.question_encoder.text_encoder.set_input_embeddings(value)
        else:
            self.question_encoder.embed_tokens = value

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.bottom_up

    def get_decoder(self) -> nn.Module:
        return self.top_down

    def look(
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
    ) -> ButdRegions:
        """The regions of images, selected or ready; see `forward`."""
        if region_features is not None:
            return ready_regions(
                region_features,
                region_boxes,
                region_mask,
                region_size=self.bottom_up.region_size,
                # CODEPATH: published answer heads look at no boxes
                needs_boxes=self.config.top_down_config.question_variant == "glimpses",
            )
        if pixel_values is None:
            raise ValueError("Give `pixel_values`, or `region_features` with `region_boxes`; got neither.")
        return self.bottom_up(pixel_values, pixel_mask, region_boxes, region_mask, image_scale)

    @can_return_tuple
    def forward(  # trf-ignore: TRF045, the encoder collects: hooks would see padding before it is moved
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
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                Normalised images. Not needed with `region_features`.
            pixel_mask (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*): 1 on the image, 0 on
                the padding.
            input_ids (`torch.LongTensor` of shape `(num_questions, length)`, *optional*): Questions, as many for each
                image, those about one image next to one another. Empty ones by default. Words beyond
                `max_position_embeddings` aren't read.
            attention_mask (`torch.LongTensor` of shape `(num_questions, length)`, *optional*): 1 on tokens, 0 on
                padding, which may be on either side; 1 everywhere by default.
            inputs_embeds (`torch.FloatTensor` of shape `(num_questions, length, embedding_size)`, *optional*): Instead
                of `input_ids`.
            region_features (`torch.FloatTensor` of shape `(batch_size, num_regions, region_size)`, *optional*):
                Ready features, as `ButdRegions.features`.
            region_boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`, *optional*): `x0, y0, x1, y1`
                in [0, 1]. With `region_features`, where they are, which published answer heads need not be told; with
                `pixel_values`, which regions to pool.
            region_mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): True where there is a
                region; everywhere by default. Where it is False nothing is seen, whatever the features: all False
                leaves the question alone.
            image_scale (`torch.FloatTensor` of shape `(batch_size,)`, *optional*): Pixels of each image per pixel of
                the original picture, which the selector `"faster_rcnn_c4"` wants to know; 1 by default.
            labels (`torch.Tensor`, *optional*): Soft scores in [0, 1], floats of shape `(num_questions, num_labels)`,
                for binary cross-entropy, summed over the answers; or one answer each, integers of shape
                `(num_questions,)`, for cross-entropy with `config.label_smoothing`, -100 where none counts.

        Raises:
            ValueError: Neither pixels nor features were given, or the size of something doesn't fit.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        regions = self.look(pixel_values, pixel_mask, region_features, region_boxes, region_mask, image_scale)
        if input_ids is None and inputs_embeds is None:
            num_images = regions.features.shape[0]
            input_ids = torch.zeros((num_images, 1), dtype=torch.long, device=regions.features.device)
            attention_mask = torch.zeros_like(input_ids)
        question = self.question_encoder(input_ids, attention_mask, inputs_embeds)
        answers = self.top_down(question.pooled, regions)
        loss = None
        if labels is not None:
            loss = self.loss(answers.logits, labels, kwargs.get("num_items_in_batch"))
        return ButdQuestionAnsweringOutput(
            loss=loss,
            logits=answers.logits,
            last_hidden_state=answers.last_hidden_state,
            hidden_states=question.hidden_states if output_hidden_states else None,
            region_attentions=answers.region_attentions,
            regions=regions,
        )

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """
        Of soft scores or of one answer each: by `config.problem_type`, or if that isn't set by the kind of labels.

        `num_items` is how many labels count in all the batches of a step, as a trainer that accumulates gradients
        tells: entries of `labels` that aren't -100.
        """
        logits, num_labels = logits.float(), self.config.num_labels
        problem = self.config.problem_type or (SOFT if labels.is_floating_point() else SINGLE)
        # CODEPATH: checkpoints learn from soft scores or from one answer to each question
        if problem == SOFT and labels.shape == logits.shape:
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
            return loss / (labels.shape[0] if num_items is None else num_items / num_labels)
        if problem == SINGLE and labels.shape == logits.shape[:1]:
            loss = nn.functional.cross_entropy(
                logits,
                labels.long(),
                reduction="mean" if num_items is None else "sum",
                label_smoothing=self.config.label_smoothing,
            )
            return loss if num_items is None else loss / num_items
        raise ValueError(
            f"`labels` has shape {tuple(labels.shape)} and dtype {labels.dtype} with problem_type={problem!r}, "
            f"expected float scores {tuple(logits.shape)} for {SOFT!r} or integers {tuple(logits.shape[:1])} for "
            f"{SINGLE!r}."
        )


__all__ = ["ButdForQuestionAnswering"]
