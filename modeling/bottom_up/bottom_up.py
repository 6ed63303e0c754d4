# SPDX-License-Identifier: Apache-2.0
"""The bottom-up half: a timm backbone, and a selector that ranks regions of its feature maps."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import nn
from transformers import TimmBackbone, TimmBackboneConfig

from ..configuration_butd import ButdBottomUpConfig
from ..losses.proposals import proposal_losses, region_losses
from ..losses.targets import ButdTarget, noised_targets
from ..regions import ButdRegions, concatenate_regions, join_regions, pool_regions
from .faster_rcnn import ButdFasterRcnnSelector
from .feature_pyramid import ButdPyramid, join_pyramids
from .grid import ButdGridSelector
from .resnet_c4 import ButdResnetC4
from .rpn import ButdBottomUpOutput, ButdCandidates, ButdRpnSelector
from .saliency import ButdSaliencySelector


SELECTORS = {"grid": ButdGridSelector, "saliency": ButdSaliencySelector, "rpn": ButdRpnSelector}

# transformer backbones are built for one image size unless told otherwise, each family in its own words
ANY_IMAGE_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


def build_backbone(config: ButdBottomUpConfig) -> TimmBackbone | ButdResnetC4:
    """The timm backbone named in the config, with random weights, that takes images of any size if it can."""
    if config.selector == "faster_rcnn_c4":
        return ButdResnetC4(config)
    backbone_config = TimmBackboneConfig(
        backbone=config.backbone,
        num_channels=config.num_channels,
        out_indices=list(config.out_indices),
        freeze_batch_norm_2d=config.freeze_batch_norm,
    )
    refusals = []
    for any_image_size in ANY_IMAGE_SIZE:
        try:
            return TimmBackbone(backbone_config, **{**any_image_size, **(config.backbone_kwargs or {})})
        except TypeError as refusal:  # the family doesn't know this argument: the next one's words
            refusals.append(refusal)
    raise refusals[-1]


class ButdBottomUp(nn.Module):
    """
    Proposes, ranks and pools regions of images.

    Images of different sizes come padded, with a `pixel_mask`. Each size then goes through the backbone by itself,
    without its padding: convolutions and attention would carry the padding into the picture, and results would
    depend on the batch.

    With the selector `"given"` there is nothing to see with: it only knows the size of the regions that others select.
    """

    main_input_name = "pixel_values"

    def __init__(self, config: ButdBottomUpConfig):
        super().__init__()
        self.config = config
        if config.selector == "given":
            self.region_size = config.region_size
            return
        self.backbone = build_backbone(config)
        self.channels_last = getattr(getattr(self.backbone, "_backbone", None), "output_fmt", "NCHW") == Format.NHWC
        if config.selector == "rpn":
            self.selector = ButdRpnSelector(config, self.backbone.channels)
            self.region_size = self.selector.region_head.region_size
        elif config.selector == "faster_rcnn_c4":
            self.region_size = self.backbone.region_size
            self.selector = ButdFasterRcnnSelector(config, self.backbone.channels[-1], self.region_size)
        else:
            self.selector = SELECTORS[config.selector](config)
            self.region_size = sum(self.backbone.channels)

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        image_scale: torch.Tensor | None = None,
        **kwargs,
    ) -> ButdRegions:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Normalised images.
            pixel_mask (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*): 1 on the image, 0 on
                the padding to its right and below it.
            region_boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`, *optional*): Boxes to pool
                instead of selecting any: `x0, y0, x1, y1` in [0, 1] of the unpadded image.
            region_mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): True where
                `region_boxes` has a box; everywhere by default.
            image_scale (`torch.FloatTensor` of shape `(batch_size,)`, *optional*): Pixels of the image per pixel of
                the original picture, which `"faster_rcnn_c4"` wants to know; 1 by default.

        Raises:
            ValueError: The selector is `"given"`: regions have to be given ready.
        """
        if self.config.selector == "given":
            raise ValueError(
                "`pixel_values` can't be looked at: this model has no backbone (selector 'given'). Give "
                f"`region_features` (batch_size, num_regions, {self.region_size}) instead."
            )
        if isinstance(self.selector, ButdRpnSelector):
            pyramid, candidates = self.look(pixel_values, pixel_mask)
            if region_boxes is None:
                return self.selector.describe(pyramid, candidates)
            return self.given_regions(pyramid, region_boxes, region_mask)
        groups, order = [], []
        for rows, image in self.images_by_size(pixel_values, pixel_mask):
            order.append(rows)
            boxes = region_boxes[rows] if region_boxes is not None else None
            mask = region_mask[rows] if region_mask is not None else None
            scale = image_scale[rows] if image_scale is not None else None
            groups.append(self.regions(image, boxes, mask, scale))
        return concatenate_regions(groups, torch.cat(order).argsort())

    def images_by_size(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images of one size at a time, without padding, and which rows of the batch they are."""
        if pixel_mask is None:
            yield torch.arange(pixel_values.shape[0], device=pixel_values.device), pixel_values
            return
        sizes = torch.stack([pixel_mask[:, :, 0].sum(dim=1), pixel_mask[:, 0].sum(dim=1)], dim=1)  # (batch_size, 2)
        distinct_sizes, group_of_image = sizes.unique(dim=0, return_inverse=True)
        for group, (height, width) in enumerate(distinct_sizes.tolist()):
            rows = (group_of_image == group).nonzero()[:, 0]
            yield rows, pixel_values[rows, :, :height, :width]

    def look(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor | None) -> tuple[ButdPyramid, ButdCandidates]:
        """The pyramid of a batch, and what its cells propose, with the learned selector."""
        pyramids, candidates, order = [], [], []
        for rows, image in self.images_by_size(pixel_values, pixel_mask):
            pyramid, proposed = self.selector.look(self.feature_maps(image))
            order.append(rows)
            pyramids.append(pyramid)
            candidates.append(proposed)
        order = torch.cat(order).argsort()
        return join_pyramids(pyramids, order), concatenate_regions(candidates, order)

    def find(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor | None = None,
        region_boxes: torch.Tensor | None = None,
        region_mask: torch.Tensor | None = None,
        targets: list[ButdTarget] | None = None,
    ) -> ButdBottomUpOutput:
        """
        Regions with all that detection needs besides, with the learned selector only.

        Args:
            targets (`list[ButdTarget]`, *optional*): What is to be found in each image, see `prepare_targets`. The
                output then has the losses, and in training also regions at noised boxes of the targets.

        See `forward` for the other arguments.
        """
        pyramid, candidates = self.look(pixel_values, pixel_mask)
        head = self.selector.region_head
        if region_boxes is not None:
            regions = self.given_regions(pyramid, region_boxes, region_mask)
            return ButdBottomUpOutput(regions=regions, pyramid=pyramid)
        proposals, saliency, mask = self.selector.select(candidates)
        regions, deltas = head(pyramid, proposals, saliency, mask)
        if targets is None:
            return ButdBottomUpOutput(regions=regions, pyramid=pyramid)

        noised, learning = None, (proposals, deltas, regions)
        if self.training and self.config.num_noised_boxes > 0 and any(len(target.boxes) for target in targets):
            boxes, mask = noised_targets(targets, self.config.num_noised_boxes, self.config.box_noise)
            noised, noised_deltas = head(pyramid, boxes, mask.float(), mask)
            learning = (
                torch.cat([proposals, boxes], dim=1),  # (batch_size, num_regions + num_noised, 4)
                torch.cat([deltas, noised_deltas], dim=1),
                join_regions(regions, noised),
            )
        with torch.autocast(pixel_values.device.type, enabled=False):
            losses = proposal_losses(candidates, targets)
        losses.update(region_losses(head, pyramid, *learning, targets))
        return ButdBottomUpOutput(regions=regions, pyramid=pyramid, noised=noised, loss_dict=losses)

    def given_regions(self, pyramid: ButdPyramid, boxes: torch.Tensor, mask: torch.Tensor | None) -> ButdRegions:
        """Regions of the learned selector at given boxes, which stay as they are."""
        if mask is None:
            mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        boxes = boxes.float() * mask[..., None]
        # whoever gave the boxes ranked them
        return self.selector.region_head(pyramid, boxes, mask.float(), mask, refine=torch.zeros_like(mask))[0]

    def regions(
        self,
        pixel_values: torch.Tensor,
        boxes: torch.Tensor | None,
        mask: torch.Tensor | None,
        image_scale: torch.Tensor | None = None,
    ) -> ButdRegions:
        """Regions of images of one size, without padding: selected, or pooled at the given boxes."""
        if self.config.selector == "faster_rcnn_c4":  # its last stage sees regions, not the image
            return self.selector(self.backbone, pixel_values, boxes, mask, image_scale)
        feature_map = self.feature_map(pixel_values)
        if boxes is None:
            return self.selector(feature_map)
        if mask is None:
            mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        boxes = boxes.to(feature_map.dtype) * mask[..., None].to(feature_map.dtype)
        return ButdRegions(
            features=pool_regions(feature_map, boxes) * mask[..., None].to(feature_map.dtype),
            boxes=boxes,
            saliency=mask.to(feature_map.dtype),  # whoever gave the boxes ranked them
            mask=mask,
        )

    def feature_maps(self, pixel_values: torch.Tensor) -> list[torch.Tensor]:
        """The backbone's maps of images of one size, each `(batch_size, num_channels, height, width)`."""
        maps = self.backbone(pixel_values).feature_maps
        if self.channels_last:  # Swin and its kin
            maps = [feature_map.permute(0, 3, 1, 2) for feature_map in maps]  # (batch_size, channels, height, width)
        return list(maps)

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """One map from the backbone's: the finer ones averaged down to the coarsest, all concatenated."""
        maps = self.feature_maps(pixel_values)
        coarsest = min(maps, key=lambda feature_map: feature_map.shape[-1] * feature_map.shape[-2]).shape[-2:]
        resized = [F.adaptive_avg_pool2d(feature_map, coarsest) for feature_map in maps]
        return torch.cat(resized, dim=1)  # (batch_size, region_size, height, width)


__all__ = ["ButdBottomUp"]
