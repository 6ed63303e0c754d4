# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Detection and instance segmentation: the image proposes regions, the decoder refines them into objects."""

from typing import ClassVar

import torch
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp, ButdBottomUpOutput
from .bottom_up.feature_pyramid import with_rows
from .bottom_up.mask_head import ButdMaskHead
from .boxes import centred, clip_boxes, with_no_object
from .configuration_butd import ButdConfig
from .losses.detection import ButdSetLoss, Matches, mask_losses, weighted_sum
from .losses.proposals import bottom_up_losses
from .losses.targets import ButdTarget, prepare_targets
from .modeling_butd import ButdPreTrainedModel
from .outputs import ButdInstanceSegmentationOutput, ButdObjectDetectionOutput
from .regions import join_regions
from .top_down.detection import ButdDetectionDecoder, ButdDetectionDecoderOutput


MASK_SIZE = 28  # side of the mask in each box, as in Mask R-CNN


class ButdForObjectDetection(ButdPreTrainedModel):  # trf-ignore: TRF057
    """Object detection: the selected regions become queries, and decoder layers refine class and box of each."""

    input_modalities = ("image",)
    output_class = ButdObjectDetectionOutput
    has_masks = False  # whether it segments, too
    _no_split_modules: ClassVar[list[str]] = ["ButdDetectionLayer"]  # trf-ignore: TRF022

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        if config.bottom_up_config.selector != "rpn":
            raise ValueError(
                f"{type(self).__name__} attends to the feature pyramid of ButdBottomUpConfig.selector='rpn', got "
                f"{config.bottom_up_config.selector!r}."
            )
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        region_size, cell_size = self.bottom_up.region_size, config.bottom_up_config.fpn_size
        self.top_down = ButdDetectionDecoder(config.top_down_config, region_size, cell_size, config.num_labels)
        self.mask_head = None
        if self.has_masks:
            self.mask_head = ButdMaskHead(cell_size, config.top_down_config.hidden_size, MASK_SIZE)
        self.post_init()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057, trf-ignore: TRF045
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
            labels (`list[dict]`, *optional*): For each image `class_labels` (n,) and `boxes` (n, 4) as `centre x,
                centre y, width, height` in [0, 1] of the unpadded image; optional `masks` (n, height, width) of the
                unpadded image, `has_mask` (n,), False where an object's mask isn't known, `attribute_labels` (n,)
                with -1 where unknown, and `iscrowd` (n,): nothing found there is wrong. Boxes are clipped to the
                image; those without any area in it are left out.

        See `encode_image` for the arguments about the image; `region_boxes` take the place of proposals. `ValueError`
        if labels don't fit (`prepare_targets`).
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        targets = prepare_targets(labels, self.config, len(pixel_values)) if labels is not None else None
        image = self.encode_image(
            pixel_values, pixel_mask, region_boxes=region_boxes, region_mask=region_mask, targets=targets
        )
        decoded = self.top_down(image.regions, image.pyramid, output_attentions, output_hidden_states)
        loss, loss_dict = self.loss(image, decoded, targets) if targets is not None else (None, None)
        return self.output(image, decoded, loss=loss, loss_dict=loss_dict)

    def loss(
        self, image: ButdBottomUpOutput, decoded: ButdDetectionDecoderOutput, targets: list[ButdTarget]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss and its parts, see `ButdObjectDetectionOutput.loss_dict`."""
        set_loss = ButdSetLoss(self.config.num_labels)
        losses, matches = set_loss(decoded, image.regions.mask, targets)
        if self.mask_head is not None:
            losses.update(self.mask_losses(image, decoded, targets, matches))
        # CODEPATH: in training only; 0 for checkpoints trained one to one alone
        if self.training and self.config.one_to_many > 0:
            # a pass of its own: beside noised labels, proposals would learn to leave all objects to those
            regions = image.regions if image.noised is None else join_regions(image.regions, image.noised)
            decoded = self.top_down(regions, image.pyramid)
            more, _ = set_loss(decoded, regions.mask, targets, copies=self.config.one_to_many)
            losses.update({f"{name}_many": loss for name, loss in more.items()})
        if image.proposals is not None and image.proposals.selected is not None:
            losses.update(bottom_up_losses(self.bottom_up.selector, image, targets))
        return weighted_sum(losses), losses

    def mask_losses(
        self,
        image: ButdBottomUpOutput,
        decoded: ButdDetectionDecoderOutput,
        targets: list[ButdTarget],
        matches: Matches,
    ) -> dict[str, torch.Tensor]:
        """Losses of the masks of matched queries whose objects have one."""
        all_boxes = clip_boxes(decoded.boxes[-1].detach())
        all_boxes = with_rows(all_boxes).unflatten(0, all_boxes.shape[:2])  # (batch_size, num_queries, 5)
        boxes, states, masked_objects = [], [], []
        for row, (target, (queries, objects)) in enumerate(zip(targets, matches, strict=True)):
            has_mask = target.has_mask[objects]
            boxes.append(all_boxes[row, queries[has_mask]])
            states.append(decoded.last_hidden_state[row, queries[has_mask]])
            masked_objects.append(objects[has_mask])
        boxes = torch.cat(boxes)  # (num_masks, 5)
        logits = self.mask_head(image.pyramid, boxes, torch.cat(states))
        return mask_losses(logits, boxes, torch.cat(masked_objects), targets)

    def output(self, image: ButdBottomUpOutput, decoded: ButdDetectionDecoderOutput, **fields):
        layers = list(zip(decoded.logits, decoded.boxes, strict=True))
        if not self.training:
            layers = layers[-1:]
        found = [{"logits": with_no_object(logits), "pred_boxes": centred(boxes)} for logits, boxes in layers]
        *auxiliary, last = found
        if self.mask_head is not None and not self.training:  # the loss draws the few masks that it compares
            boxes = clip_boxes(decoded.boxes[-1])
            masks = self.mask_head(image.pyramid, boxes, decoded.last_hidden_state.flatten(0, 1))
            last["pred_masks"] = masks.unflatten(0, boxes.shape[:2])  # (batch_size, num_queries, m, m)
        return self.output_class(
            **fields,
            **last,
            auxiliary_outputs=auxiliary or None,
            last_hidden_state=decoded.last_hidden_state,
            hidden_states=decoded.hidden_states,
            region_attentions=decoded.region_attentions,
            regions=image.regions,
        )


class ButdForInstanceSegmentation(ButdForObjectDetection):  # trf-ignore: TRF057
    """Instance segmentation: detection, and a soft mask within the box of each query."""

    output_class = ButdInstanceSegmentationOutput
    has_masks = True


__all__ = ["ButdForInstanceSegmentation", "ButdForObjectDetection"]
