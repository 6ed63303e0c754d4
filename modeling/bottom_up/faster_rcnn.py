# SPDX-License-Identifier: Apache-2.0
"""The selector of the published bottom-up features: Faster R-CNN on Visual Genome, number for number."""

import torch
from torch import nn

from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, concatenate_regions
from .faster_rcnn_anchors import clip_to_image, move_boxes
from .faster_rcnn_head import ButdFasterRcnnHead
from .faster_rcnn_proposals import ButdFasterRcnnProposals
from .faster_rcnn_selection import select_by_best_class, select_by_class
from .resnet_c4 import ButdResnetC4


DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second regression, which only the detectron2 ports use


class ButdFasterRcnnSelector(nn.Module):
    """
    The detector of Anderson et al. (2018), from proposals to regions.

    `config.variant` says whose numbers it gives. `"caffe"`, the original: regions are raw proposals, selected per
    class. `"detectron2"`, the ports: regions have regressed boxes, selected by their best class, and features of the
    raw proposals. What differs from the ports: images of a batch never see one another's padding, given boxes work,
    and a picture of nothing has regions.
    """

    def __init__(self, config: ButdBottomUpConfig, num_channels: int, region_size: int):
        super().__init__()
        self.config = config
        self.proposals = ButdFasterRcnnProposals(config, num_channels)
        self.head = ButdFasterRcnnHead(config, region_size)

    def forward(
        self,
        backbone: ButdResnetC4,
        pixel_values: torch.Tensor,
        boxes: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        image_scale: torch.Tensor | None = None,
    ) -> ButdRegions:
        """
        Args:
            backbone (`ButdResnetC4`): What computes feature maps, and features of boxes on them.
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`): Images of one
                size, without padding.
            boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`, *optional*): Boxes to describe instead
                of selecting any, in [0, 1].
            mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): True where there is a box.
            image_scale (`torch.FloatTensor` of shape `(batch_size,)`, *optional*): Pixels of the image per pixel of
                the original picture; the Caffe code measures some things in the latter. 1 by default.
        """
        height, width = pixel_values.shape[2:]
        scales = [1.0] * len(pixel_values) if image_scale is None else image_scale.tolist()
        images = []
        for index, scale in enumerate(scales):  # one by one: images differ in how much there is to do
            feature_map = backbone(pixel_values[index, None]).feature_maps[0]
            extent = feature_map.new_tensor(self.extent(height, width, scale), dtype=torch.float32)
            if boxes is None:
                images.append(self.select(backbone, feature_map, height, width, scale, extent))
                continue
            given = torch.ones_like(boxes[index, :, 0], dtype=torch.bool) if mask is None else mask[index].bool()
            images.append(self.describe(backbone, feature_map, boxes[index].float(), given, extent))
        return concatenate_regions(images, torch.arange(len(images), device=pixel_values.device))

    def select(
        self,
        backbone: ButdResnetC4,
        feature_map: torch.Tensor,
        height: int,
        width: int,
        scale: float,
        extent: torch.Tensor,
    ) -> ButdRegions:
        """The regions of one image that the detector finds."""
        variant = self.config.variant
        with torch.no_grad():
            boxes, _ = self.proposals(feature_map, height, width, scale)
        features = backbone.describe(feature_map, boxes)  # (num_proposals, region_size)
        class_logits, attribute_logits = self.head(features)
        with torch.no_grad():
            scores = class_logits.float().softmax(dim=1)[:, :-1]  # (num_proposals, num_region_labels)
            if variant == "caffe":
                keep, saliency = select_by_class(boxes / scale, scores, self.config)
            else:
                best, labels = scores.max(dim=1)
                deltas = self.head.box_deltas(features, labels).float()
                boxes = clip_to_image(move_boxes(boxes, deltas, variant, DELTA_WEIGHTS), height, width, variant)
                keep, saliency = select_by_best_class(boxes, best, self.config)
        return ButdRegions(
            features=features[keep][None],
            boxes=(boxes[keep] / extent)[None].to(features.dtype),
            saliency=saliency[None].to(features.dtype),
            mask=torch.ones_like(keep, dtype=torch.bool)[None],
            class_logits=class_logits[keep, :-1][None],
            attribute_logits=attribute_logits[keep, :-1][None] if attribute_logits is not None else None,
        )

    def describe(
        self,
        backbone: ButdResnetC4,
        feature_map: torch.Tensor,
        boxes: torch.Tensor,
        mask: torch.Tensor,
        extent: torch.Tensor,
    ) -> ButdRegions:
        """Regions of one image at the given boxes, `(num_regions, 4)` in [0, 1], zero where `mask` is False."""
        features = backbone.describe(feature_map, boxes * extent)  # (num_regions, region_size)
        class_logits, attribute_logits = self.head(features)
        exists = mask[:, None].to(features.dtype)
        return ButdRegions(
            features=(features * exists)[None],
            boxes=(boxes * mask[:, None])[None].to(features.dtype),
            saliency=mask[None].to(features.dtype),  # whoever gave the boxes ranked them
            mask=mask[None],
            class_logits=(class_logits[:, :-1] * exists)[None],
            attribute_logits=(attribute_logits[:, :-1] * exists)[None] if attribute_logits is not None else None,
        )

    def extent(self, height: int, width: int, scale: float) -> tuple[float, float, float, float]:
        """
        Width and height, twice, of the image in pixels: what a box of the whole picture ends at.

        The Caffe code scales boxes by exactly `scale`, although the image's sides are rounded.
        """
        if self.config.variant == "caffe":
            height, width = round(height / scale) * scale, round(width / scale) * scale
        return width, height, width, height


__all__ = ["ButdFasterRcnnSelector"]
