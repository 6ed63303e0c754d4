# SPDX-License-Identifier: Apache-2.0
"""The seam between bottom-up and top-down: what a region is, how regions are ranked and how they are pooled."""

from dataclasses import dataclass

import torch
from torch import nn
from torchvision.ops import nms, roi_align
from transformers.utils import ModelOutput

from .configuration_butd import ButdBottomUpConfig, ButdTopDownConfig


@dataclass
class ButdRegions(ModelOutput):
    """The regions of a batch of images: all that a top-down decoder knows of the image.

    Images differ in how many they have: every field is zero where `mask` is False. The last three fields are there if
    the selector has them: what it believes a region to show, given that it shows something, what it believes it to be
    like, and what of its box belongs to it.
    """

    features: torch.FloatTensor | None = None  # (batch_size, num_regions, region_size): pooled appearance
    boxes: torch.FloatTensor | None = None  # (batch_size, num_regions, 4): `x0, y0, x1, y1` in [0, 1], unpadded image
    saliency: torch.FloatTensor | None = None  # (batch_size, num_regions): what ranked the regions, highest first
    mask: torch.BoolTensor | None = None  # (batch_size, num_regions): True where a region exists
    class_logits: torch.FloatTensor | None = None  # (batch_size, num_regions, num_region_labels)
    attribute_logits: torch.FloatTensor | None = None  # (batch_size, num_regions, num_region_attributes)
    masks: torch.FloatTensor | None = None  # (batch_size, num_regions, m, m): soft, in [0, 1], in the box's frame


def concatenate_regions(groups: list[ModelOutput], order: torch.LongTensor) -> ModelOutput:
    """
    Joins regions of several groups of images, or other outputs whose fields are `(group_size, num_regions, ...)`, into
    one batch, padded to the largest number of regions; `order` `(batch_size,)` is the row that comes at each place.
    """
    if len(groups) == 1:  # all images are of one size, in their order
        return groups[0]
    joined = {}
    for name in groups[0]:
        most, padded = max(group[name].shape[1] for group in groups), []
        for group in groups:
            value = group[name]  # (group_size, num_regions, ...)
            missing = value.new_zeros((value.shape[0], most - value.shape[1], *value.shape[2:]))
            padded.append(torch.cat([value, missing], dim=1))  # (group_size, most, ...)
        joined[name] = torch.cat(padded)[order]  # (batch_size, most, ...)
    return type(groups[0])(**joined)


def join_regions(regions: ButdRegions, others: ButdRegions) -> ButdRegions:
    """Regions and others of the same images behind them, with the fields that both have."""
    return ButdRegions(**{name: torch.cat([regions[name], others[name]], dim=1) for name in regions if name in others})


def mask_regions(regions: ButdRegions, mask: torch.Tensor) -> ButdRegions:
    """Regions with every field set to zero where `mask` `(batch_size, num_regions)` is False. If no image has any,
    each gets one that doesn't exist, since attention over nothing has no shape.
    """
    fields = {}
    for name, value in regions.items():
        if mask.shape[1] == 0:
            fields[name] = value.new_zeros(len(mask), 1, *value.shape[2:])
        else:
            fields[name] = value.masked_fill(~mask.view(*mask.shape, *[1] * (value.dim() - 2)), 0)
    return ButdRegions(**fields)


def visible(mask: torch.Tensor, region_dropout: float) -> torch.Tensor:
    """The mask of regions without a random share of them, in training."""
    if region_dropout > 0:
        mask = mask & (torch.rand(mask.shape, device=mask.device) >= region_dropout)
    return mask


def texts_each(num_texts: int, num_images: int) -> int:
    """How many texts there are about each image. Raises `ValueError` if not as many about each."""
    if num_texts % num_images:
        raise ValueError(
            f"`input_ids` has {num_texts} rows, expected a multiple of the {num_images} images they are about."
        )
    return num_texts // num_images


def checked_mask(boxes: torch.Tensor, mask: torch.Tensor | None, num_images: int) -> torch.Tensor:
    """Which of given boxes exist, `(batch_size, num_regions)`. Raises `ValueError` if a shape doesn't fit."""
    if boxes.dim() != 3 or boxes.shape[0] != num_images or boxes.shape[-1] != 4:
        raise ValueError(f"`region_boxes` has shape {tuple(boxes.shape)}, expected ({num_images}, num_regions, 4).")
    if mask is None:
        return torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    if mask.shape != boxes.shape[:2]:
        raise ValueError(f"`region_mask` has shape {tuple(mask.shape)}, expected {tuple(boxes.shape[:2])}.")
    return mask.bool()


def ready_regions(
    features: torch.Tensor | None,  # (batch_size, num_regions, region_size); None where only boxes matter
    boxes: torch.Tensor | None,  # (batch_size, num_regions, 4)
    mask: torch.Tensor | None,  # (batch_size, num_regions): true where there is a region; everywhere by default
    region_size: int,  # what the model expects
    needs_boxes: bool = True,  # whether the model reads boxes; otherwise they may be left out
) -> ButdRegions:
    """Regions that others selected, as in extracting once for many trainings; `ValueError` if shapes don't fit."""
    if features is not None and (features.dim() != 3 or features.shape[-1] != region_size):
        raise ValueError(
            f"`region_features` has shape {tuple(features.shape)}, expected (batch_size, num_regions, {region_size})."
        )
    if boxes is None and not needs_boxes:
        boxes = features.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(*features.shape[:2], 4)
    if features is not None and (boxes is None or boxes.shape != (*features.shape[:2], 4)):
        raise ValueError(
            f"`region_boxes` has shape {None if boxes is None else tuple(boxes.shape)}, expected "
            f"{(*features.shape[:2], 4)} to go with `region_features`."
        )
    mask = checked_mask(boxes, mask, len(boxes))
    regions = ButdRegions(boxes=boxes, saliency=mask.to(boxes.dtype), mask=mask)
    if features is not None:
        regions["features"] = features
    return mask_regions(regions, mask)


def select_regions(
    boxes: torch.Tensor,  # (batch_size, num_boxes, 4): `x0, y0, x1, y1`
    scores: torch.Tensor,  # (batch_size, num_boxes): higher is better. Ties keep their order
    config: ButdBottomUpConfig,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks boxes and keeps the best: NMS above an IoU of `config.nms_threshold`, then those that score at least
    `config.score_threshold`, at most `config.num_regions`. Where fewer than `config.min_regions` are left, the best of
    the others fill up: an image without anything in it still has regions. Returns indices of shape `(batch_size,
    min(num_regions, num_boxes))`, best first, and a mask of the same shape that is True where the index counts.
    """
    num_regions = min(config.num_regions, scores.shape[1])
    indices = torch.zeros((len(scores), num_regions), dtype=torch.long, device=scores.device)
    mask = torch.zeros_like(indices, dtype=torch.bool)
    order = scores.argsort(dim=1, descending=True, stable=True)  # (batch_size, num_boxes)
    for row, ranking in enumerate(order):
        ranked_boxes, ranked_scores = boxes[row, ranking].float(), scores[row, ranking].float()
        is_kept = torch.zeros_like(ranking, dtype=torch.bool)  # by rank
        is_kept[nms(ranked_boxes, ranked_scores, config.nms_threshold)] = True
        is_kept &= ranked_scores >= config.score_threshold
        missing = min(config.min_regions, num_regions) - int(is_kept.sum())
        if missing > 0:
            is_kept[(~is_kept).nonzero()[:missing, 0]] = True
        keep = ranking[is_kept][:num_regions]
        indices[row, : len(keep)], mask[row, : len(keep)] = keep, True
    return indices, mask


def pool_regions(feature_map: torch.Tensor, boxes: torch.Tensor, pooled_size: int = 2) -> torch.Tensor:
    """Mean appearance `(batch_size, num_regions, num_channels)` of boxes `(batch_size, num_regions, 4)` in [0, 1] of
    the image that a map `(batch_size, num_channels, height, width)` shows: RoIAlign (He et al. 2017), averaged.
    """
    batch_size, num_channels, height, width = feature_map.shape
    num_regions = boxes.shape[1]
    cells = boxes * boxes.new_tensor([width, height, width, height])  # in cells of the map
    cells = cells.nan_to_num(0.0, 0.0, 0.0)  # RoIAlign reads anywhere in memory at a coordinate that is no number
    image_index = torch.arange(batch_size, device=boxes.device, dtype=boxes.dtype).repeat_interleave(num_regions)
    rois = torch.cat([image_index[:, None], cells.flatten(0, 1)], dim=1)  # (batch_size * num_regions, 5)
    # RoIAlign has no half precision kernel on every device; pooling in float32 costs nothing beside the backbone
    pooled = roi_align(feature_map.float(), rois.float(), output_size=pooled_size, aligned=True)
    pooled = pooled.mean(dim=(2, 3)).to(feature_map.dtype)  # (batch_size * num_regions, num_channels)
    return pooled.view(batch_size, num_regions, num_channels)


def describe_boxes(feature_map: torch.Tensor, boxes: torch.Tensor) -> ButdRegions:
    """Regions at given boxes `(batch_size, num_regions, 4)` of a map `(batch_size, num_channels, height, width)`."""
    boxes = boxes.to(feature_map.dtype)
    mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    features = pool_regions(feature_map, boxes)
    return ButdRegions(features=features, boxes=boxes, saliency=mask.to(boxes.dtype), mask=mask)  # unranked


def gather_regions(values: torch.Tensor, indices: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rows of `values` `(batch_size, num_candidates, size)` at `indices`, zero where `mask` is False."""
    rows = values.gather(1, indices[..., None].expand(-1, -1, values.shape[-1]))  # (batch_size, num_regions, size)
    return rows * mask[..., None].to(rows.dtype)


class ButdBoxEmbedding(nn.Module):
    """Geometry of a box as a vector: its corners, size and area, through a two-layer network."""

    num_measures = 7  # x0, y0, x1, y1, width, height, area

    def __init__(self, config: ButdTopDownConfig):
        super().__init__()
        self.measures_proj = nn.Linear(self.num_measures, config.hidden_size)
        self.act_fn = nn.GELU()
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, boxes: torch.Tensor) -> torch.Tensor:
        size = boxes[..., 2:] - boxes[..., :2]
        area = size.prod(dim=-1, keepdim=True)
        measures = torch.cat([boxes, size, area], dim=-1)  # (batch_size, num_regions, num_measures)
        return self.out_proj(self.act_fn(self.measures_proj(measures)))  # (batch_size, num_regions, hidden_size)
