# SPDX-License-Identifier: Apache-2.0
"""Detection and instance segmentation: the image proposes regions, the task refines them into objects."""

from typing import ClassVar

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp
from .bottom_up.feature_pyramid import with_rows
from .bottom_up.mask_head import ButdMaskHead
from .bottom_up.rpn import ButdBottomUpOutput
from .boxes import clip_boxes
from .configuration_butd import ButdConfig
from .losses.detection import ButdSetLoss, mask_losses
from .losses.targets import ButdTarget, prepare_targets
from .modeling_butd import ButdPreTrainedModel
from .outputs import ButdInstanceSegmentationOutput, ButdObjectDetectionOutput
from .regions import join_regions
from .top_down.detection import ButdDetectionDecoder, ButdDetectionDecoderOutput, centred


def with_no_object(logits: torch.Tensor) -> torch.Tensor:
    """
    Logits of one sigmoid per class with a last column for "no object", always 0.

    That is the column beside which the softmax of a class alone is its sigmoid, so that those who expect the softmax
    of DETR rank and threshold nearly as those who read the sigmoids.
    """
    return torch.cat([logits, logits.new_zeros((*logits.shape[:-1], 1))], dim=-1)


class ButdForObjectDetection(ButdPreTrainedModel):
    """Object detection: the selected regions become queries, and decoder layers refine class and box of each."""

    input_modalities = ("image",)
    _no_split_modules: ClassVar[list[str]] = ["ButdDetectionLayer"]

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        if config.bottom_up_config.selector != "rpn":
            raise ValueError(
                f"{type(self).__name__} looks at the pyramid of ButdBottomUpConfig.selector='rpn', got "
                f"{config.bottom_up_config.selector!r}."
            )
        top_down_config = config.top_down_config
        # the decoder reads the attention implementation from its own config: the model's, unless it was given one
        top_down_config._attn_implementation = top_down_config._attn_implementation or config._attn_implementation
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.top_down = ButdDetectionDecoder(
            top_down_config,
            region_size=self.bottom_up.region_size,
            cell_size=config.bottom_up_config.fpn_size,
            num_labels=config.num_labels,
        )
        self.build_heads()
        self.post_init()

    def build_heads(self):
        """Adds what a task has beyond classes and boxes, which the decoder's layers say."""

    def get_input_embeddings(self) -> None:
        """None: no words come in. Quantisation asks, to keep tied embeddings as they are."""

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.bottom_up

    def get_decoder(self) -> nn.Module:
        return self.top_down

    @can_return_tuple
    def forward(  # trf-ignore: TRF045, the decoder collects: hooks would see attention before it is unfolded
        self,
        pixel_values: torch.FloatTensor,
        pixel_mask: torch.LongTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdObjectDetectionOutput | tuple:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            pixel_mask (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*): 1 on the image, 0 on
                the padding to its right and below it.
            region_boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`, *optional*): Boxes to begin
                with instead of proposals: `x0, y0, x1, y1` in [0, 1] of the unpadded image.
            region_mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): True where
                `region_boxes` has a box; everywhere by default.
            labels (`list[dict]`, *optional*): For each image `class_labels` (n,) and `boxes` (n, 4) as `centre x,
                centre y, width, height` in [0, 1] of the unpadded image; optional `masks` (n, height, width) of the
                unpadded image, `has_mask` (n,), False where an object's mask isn't known, `attribute_labels` (n,)
                with -1 where unknown, and `iscrowd` (n,): nothing found there is wrong. Boxes are clipped to the
                image; those without any area in it aren't looked for.

        Raises:
            ValueError: Labels are as many as the images are not, or don't fit (`prepare_targets`).
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        targets = None
        if labels is not None:
            if len(labels) != pixel_values.shape[0]:
                raise ValueError(
                    f"`labels` has {len(labels)} entries, expected one for each of the {len(pixel_values)} images."
                )
            targets = prepare_targets(
                labels, self.config.num_labels, self.config.bottom_up_config.num_region_attributes or None
            )
        found = self.bottom_up.find(pixel_values, pixel_mask, region_boxes, region_mask, targets)
        decoded = self.top_down(found.regions, found.pyramid, output_attentions, output_hidden_states)
        loss, loss_dict = None, None
        if targets is not None:
            loss, loss_dict = self.loss(found, decoded, targets)
        return self.output(found, decoded, loss=loss, loss_dict=loss_dict)

    def output(self, found: ButdBottomUpOutput, decoded: ButdDetectionDecoderOutput, **fields):
        return ButdObjectDetectionOutput(**fields, **self.output_fields(found, decoded))

    def output_fields(self, found: ButdBottomUpOutput, decoded: ButdDetectionDecoderOutput) -> dict:
        said = [
            {"logits": with_no_object(logits), "pred_boxes": centred(boxes)}
            for logits, boxes in zip(decoded.logits, decoded.boxes, strict=True)
        ]
        return {
            **said[-1],
            # CODEPATH: none for checkpoints trained by their last layer alone
            "auxiliary_outputs": said[:-1] if self.config.auxiliary_loss else None,
            "last_hidden_state": decoded.last_hidden_state,
            "hidden_states": decoded.hidden_states,
            "region_attentions": decoded.region_attentions,
            "regions": found.regions,
        }

    def loss(
        self, found: ButdBottomUpOutput, decoded: ButdDetectionDecoderOutput, targets: list[ButdTarget]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and its parts by name: `loss_ce` of the last layer, `loss_ce_0` of the first, and so on."""
        set_loss = ButdSetLoss(self.config)
        losses, matches = self.layer_losses(set_loss, decoded, found.regions.mask, targets)
        losses.update(self.task_losses(found, decoded, targets, matches))
        # CODEPATH: in training only; 0 for checkpoints trained one to one alone
        if self.training and self.config.one_to_many > 0:
            # a pass of its own: beside noised labels, proposals would learn to leave all objects to those
            regions = found.regions if found.noised is None else join_regions(found.regions, found.noised)
            many = self.top_down(regions, found.pyramid)
            more, _ = self.layer_losses(set_loss, many, regions.mask, targets, self.config.one_to_many)
            losses.update({f"{name}_many": loss for name, loss in more.items()})
        total = set_loss.weighted(losses)
        for name, loss in (found.loss_dict or {}).items():
            total = total + self.config.bottom_up_loss_coefficient * loss
            losses[name] = loss
        return total, losses

    def layer_losses(
        self,
        set_loss: ButdSetLoss,
        decoded: ButdDetectionDecoderOutput,
        present: torch.Tensor,
        targets: list[ButdTarget],
        copies: int = 1,
    ) -> tuple[dict[str, torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
        """Losses of each layer by name, and the matches of the last."""
        losses, last = {}, len(decoded.logits) - 1
        for layer, (logits, boxes) in enumerate(zip(decoded.logits, decoded.boxes, strict=True)):
            # CODEPATH: the last layer always; those before unless a checkpoint is trained by its last alone
            if layer == last or self.config.auxiliary_loss:
                parts, matches = set_loss(logits, boxes, present, targets, copies)
                losses.update({name if layer == last else f"{name}_{layer}": part for name, part in parts.items()})
        return losses, matches

    def task_losses(
        self,
        found: ButdBottomUpOutput,
        decoded: ButdDetectionDecoderOutput,
        targets: list[ButdTarget],
        matches: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """Losses of what a task has beyond classes and boxes."""
        return {}


class ButdForInstanceSegmentation(ButdForObjectDetection):
    """Instance segmentation: detection, and a soft mask within the box of each query."""

    def build_heads(self):
        hidden_size = self.config.top_down_config.hidden_size
        self.mask_head = ButdMaskHead(self.config.bottom_up_config.fpn_size, hidden_size, self.config.mask_size)

    def output(self, found: ButdBottomUpOutput, decoded: ButdDetectionDecoderOutput, **fields):
        if not self.training:  # the loss draws the few masks that it compares
            boxes = clip_boxes(decoded.boxes[-1])
            masks = self.mask_head(found.pyramid, boxes, decoded.last_hidden_state.flatten(0, 1))
            fields["pred_masks"] = masks.unflatten(0, boxes.shape[:2])  # (batch_size, num_queries, m, m)
        return ButdInstanceSegmentationOutput(**fields, **self.output_fields(found, decoded))

    def task_losses(
        self,
        found: ButdBottomUpOutput,
        decoded: ButdDetectionDecoderOutput,
        targets: list[ButdTarget],
        matches: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        boxes, owners, masked = [], [], []
        placed = with_rows(clip_boxes(decoded.boxes[-1].detach())).view(*decoded.boxes[-1].shape[:2], 5)
        for row, (target, (queries, objects)) in enumerate(zip(targets, matches, strict=True)):
            known = target.has_mask[objects]
            boxes.append(placed[row, queries[known]])
            owners.append(decoded.last_hidden_state[row, queries[known]])
            masked.append((queries[known], objects[known]))
        boxes = torch.cat(boxes)  # (num_masks, 5)
        logits = self.mask_head(found.pyramid, boxes, torch.cat(owners))
        return mask_losses(logits, boxes[:, 1:], targets, masked)


__all__ = ["ButdForInstanceSegmentation", "ButdForObjectDetection"]
