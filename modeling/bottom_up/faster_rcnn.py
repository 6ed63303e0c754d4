# SPDX-License-Identifier: Apache-2.0
"""The selector of the published bottom-up features: Faster R-CNN on Visual Genome, number for number."""

import torch
from torch import nn
from torchvision.ops import batched_nms, nms

from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, concatenate_regions
from .backbone import FeatureMaps
from .faster_rcnn_proposals import ButdFasterRcnnProposals, clip_to_image, inclusive, move_boxes


DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the second regression, which only the detectron2 ports use
NMS_STEP = 0.1  # by which the detectron2 ports raise the threshold until enough regions are left


def select_by_class(
    boxes: torch.Tensor,  # (num_boxes, 4): in pixels of the original image, last included
    scores: torch.Tensor,  # (num_boxes, num_labels): without background
    config: ButdBottomUpConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The selection of Anderson et al. (2018): suppression within each class, then each box's best score that is left.

    Boxes that reach `score_threshold` are kept, but at least the best `min_regions` and at most the best
    `num_regions`. A score is suppressed only by higher ones, so scores below the threshold matter only if too few
    boxes reach it: without them there is little to do. Returns the indices of the kept boxes, best first and equals in
    their order, and their best scores.
    """
    boxes, enough = inclusive(boxes), min(config.min_regions, len(boxes))
    for least in (config.score_threshold, 0.0):
        rows, labels = (scores >= least).nonzero(as_tuple=True)
        likely = scores[rows, labels]
        keep = batched_nms(boxes[rows], likely, labels, config.nms_threshold)
        confidence = torch.zeros_like(scores[:, 0]).scatter_reduce(0, rows[keep], likely[keep], "amax")  # (num_boxes,)
        if (confidence >= config.score_threshold).sum() >= enough:
            break
    ranked, order = confidence.sort(descending=True, stable=True)
    count = int((ranked >= config.score_threshold).sum())
    count = min(max(count, config.min_regions), config.num_regions)
    return order[:count], ranked[:count]


def select_by_best_class(
    boxes: torch.Tensor,  # (num_boxes, 4): regressed for the best class of each
    scores: torch.Tensor,  # (num_boxes,): of that class
    config: ButdBottomUpConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The selection of the detectron2 ports: one suppression for all, by each box's best class.

    Where fewer than `min_regions` are left, the threshold is raised by 0.1 and again; the ports give up at 0.9, or at
    once. Scores have no threshold there, though the ports' settings name one. Returns the indices of the kept boxes,
    best first, and their scores.
    """
    threshold = config.nms_threshold
    keep = nms(boxes, scores, threshold)
    while len(keep) < min(config.min_regions, len(boxes)) and threshold < 1:
        threshold = min(round(threshold + NMS_STEP, 6), 1.0)  # nothing overlaps by more than 1: then all are left
        keep = nms(boxes, scores, threshold)
    keep = keep[: config.num_regions]
    return keep, scores[keep]


class ButdFasterRcnnHead(nn.Module):
    """Class and attribute of each region, from its feature.

    Attributes are predicted from the feature and an embedding of the likeliest class. Background is the last class and
    "none" the last attribute, whatever the order in the files of a variant.
    """

    def __init__(self, config: ButdBottomUpConfig, region_size: int):
        super().__init__()
        num_labels, num_attributes = config.num_region_labels, config.num_region_attributes
        embedding_size, hidden_size = region_size // 8, region_size // 4  # 256 and 512 of 2048
        self.classifier = nn.Linear(region_size, num_labels + 1)
        self.deltas = nn.Linear(region_size, 4 * num_labels)
        self.has_attributes = num_attributes > 0
        if self.has_attributes:
            self.class_embedding = nn.Embedding(num_labels + 1, embedding_size)
            self.attribute_proj = nn.Linear(region_size + embedding_size, hidden_size)
            self.act_fn = nn.ReLU()
            self.attribute_classifier = nn.Linear(hidden_size, num_attributes + 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Class logits `(num_regions, num_region_labels + 1)`, background last, and attribute logits `(num_regions,
        num_region_attributes + 1)`, none last, or None without attributes, of features `(num_regions, region_size)`.
        """
        class_logits = self.classifier(features)  # (num_regions, num_region_labels + 1)
        if not self.has_attributes:
            return class_logits, None
        embedding = self.class_embedding(class_logits.argmax(dim=1))  # (num_regions, embedding_size)
        joined = torch.cat([features, embedding], dim=1)  # (num_regions, region_size + embedding_size)
        return class_logits, self.attribute_classifier(self.act_fn(self.attribute_proj(joined)))

    def box_deltas(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Deltas `(num_regions, 4)` of each region's box, for the class of each in `labels` `(num_regions,)`."""
        deltas = self.deltas(features).unflatten(1, (-1, 4))  # (num_regions, num_region_labels, 4)
        return deltas[torch.arange(len(labels), device=labels.device), labels]


class ButdFasterRcnnSelector(nn.Module):
    """The detector of Anderson et al. (2018), from proposals to regions.

    `config.variant` says whose numbers it gives. `"caffe"`, the original: regions are raw proposals, selected per
    class. `"detectron2"`, the ports: regions have regressed boxes, selected by their best class, and features of the
    raw proposals. What differs from the ports: images of a batch never see one another's padding, given boxes work,
    and an image of nothing has regions.
    """

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.config = config
        num_channels, self.region_size = channels
        self.proposals = ButdFasterRcnnProposals(config, num_channels)
        self.head = ButdFasterRcnnHead(config, self.region_size)

    def forward(self, feature_maps: FeatureMaps, boxes: torch.Tensor | None = None) -> ButdRegions:
        """See `SELECTORS`; `feature_maps.backbone` is a `ButdResnetC4`."""
        (maps,) = feature_maps.maps  # (batch_size, num_channels, height, width)
        scales = [1.0] * len(maps) if feature_maps.image_scale is None else feature_maps.image_scale.tolist()
        images = []
        for index, scale in enumerate(scales):  # one by one: images differ in how many proposals they have
            image = FeatureMaps((maps[index, None],), feature_maps.image_size, None, feature_maps.backbone)
            one = self.select(image, scale) if boxes is None else self.describe(image, boxes[index].float(), scale)
            images.append(one)
        return concatenate_regions(images, torch.arange(len(images), device=maps.device))

    def select(self, image: FeatureMaps, scale: float) -> ButdRegions:
        """The regions that the detector finds in one image."""
        variant, (height, width) = self.config.variant, image.image_size
        with torch.no_grad():
            boxes = self.proposals(image.maps[0], height, width, scale)
        features = image.backbone.describe(image.maps[0], boxes)  # (num_proposals, region_size)
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
        boxes = boxes[keep] / boxes.new_tensor(self.extent(height, width, scale))
        attribute_logits = attribute_logits[keep] if attribute_logits is not None else None
        return self.regions(features[keep], boxes, saliency, class_logits[keep], attribute_logits)

    def describe(self, image: FeatureMaps, boxes: torch.Tensor, scale: float) -> ButdRegions:
        """Regions of one image at given boxes, `(num_regions, 4)` in [0, 1]."""
        extent = boxes.new_tensor(self.extent(*image.image_size, scale))
        features = image.backbone.describe(image.maps[0], boxes * extent)  # (num_regions, region_size)
        return self.regions(features, boxes, torch.ones_like(boxes[:, 0]), *self.head(features))

    def regions(
        self,
        features: torch.Tensor,
        boxes: torch.Tensor,
        saliency: torch.Tensor,
        class_logits: torch.Tensor,
        attribute_logits: torch.Tensor | None,
    ) -> ButdRegions:
        """Regions of one image, as a batch of one; without the logits of background and of no attribute."""
        return ButdRegions(
            features=features[None],
            boxes=boxes[None].to(features.dtype),
            saliency=saliency[None].to(features.dtype),
            mask=torch.ones_like(saliency, dtype=torch.bool)[None],
            class_logits=class_logits[None, :, :-1],
            attribute_logits=attribute_logits[None, :, :-1] if attribute_logits is not None else None,
        )

    def extent(self, height: int, width: int, scale: float) -> tuple[float, float, float, float]:
        """Width and height, twice, of the image in pixels: what a box of the whole image ends at.

        The Caffe code scales boxes by exactly `scale`, although the image's sides are rounded.
        """
        if self.config.variant == "caffe":
            height, width = round(height / scale) * scale, round(width / scale) * scale
        return width, height, width, height
