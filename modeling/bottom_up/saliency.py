# SPDX-License-Identifier: Apache-2.0
"""The saliency selector: multi-scale windows that stand out from their surround, without training."""

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration_butd import ButdBottomUpConfig
from ..regions import ButdRegions, describe_boxes, gather_regions, pool_regions, select_regions
from .backbone import FeatureMaps


WINDOW_SIZES = (0.2, 0.3, 0.45, 0.7, 1.0)  # sides as fractions of the image's: near-geometric, a child to a scene
STEPS_PER_UNIT = 2**20  # of a standard deviation: as fine as float32 where it counts, far from overflow in 64 bits


def window_cells(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Windows of all `WINDOW_SIZES`, in width and in height, as `left, top, right, bottom` in cells."""
    heights = sorted({max(1, round(size * height)) for size in WINDOW_SIZES})
    widths = sorted({max(1, round(size * width)) for size in WINDOW_SIZES})
    return [
        (left, top, left + window_width, top + window_height)
        for window_height in heights
        for window_width in widths
        for top in range(height - window_height + 1)
        for left in range(width - window_width + 1)
    ]


class ButdSaliencySelector(nn.Module):
    """Training-free bottom-up attention: centre-surround contrast of the backbone's activations.

    Low-level salience is what differs from its surround (Itti, Koch & Niebur 1998). As in the centre-surround
    distance of Liu et al. (2007, "Learning to detect a salient object"), a window is compared with the ring around it
    that has about the window's own area. What differs: features of a pretrained backbone take the place of
    colour histograms, each channel scaled to unit variance over the image, and the euclidean distance of their means
    takes the place of the chi-square distance; a window's score grows with the fourth root of its area, since means
    of few cells differ by chance.

    All windows of all images are scored at once from summed-area tables.
    """

    def __init__(self, config: ButdBottomUpConfig, channels: list[int]):
        super().__init__()
        self.config = config
        self.region_size = sum(channels)

    def forward(self, feature_maps: FeatureMaps, boxes: torch.Tensor | None = None) -> ButdRegions:
        feature_map = feature_maps.concatenated()
        if boxes is not None:
            return describe_boxes(feature_map, boxes)
        _, _, height, width = feature_map.shape
        windows = torch.tensor(window_cells(height, width), device=feature_map.device)
        scores = self.contrast(feature_map, windows)  # (batch_size, num_windows)
        boxes = windows / windows.new_tensor([width, height, width, height])
        boxes = boxes.to(scores.dtype).expand(scores.shape[0], -1, -1)  # (batch_size, num_windows, 4)
        # captions name the scene, which has no surround: the whole image gets the best window's score
        whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(scores.shape[0], 1, 4)
        boxes = torch.cat([whole, boxes], dim=1)  # (batch_size, 1 + num_windows, 4)
        scores = torch.cat([scores.amax(dim=1, keepdim=True), scores], dim=1)  # (batch_size, 1 + num_windows)

        indices, mask = select_regions(boxes, scores, self.config)
        boxes = gather_regions(boxes, indices, mask)  # (batch_size, num_regions, 4)
        return ButdRegions(
            features=pool_regions(feature_map, boxes) * mask[..., None].to(feature_map.dtype),
            boxes=boxes.to(feature_map.dtype),
            saliency=gather_regions(scores[..., None], indices, mask)[..., 0].to(feature_map.dtype),
            mask=mask,
        )

    def contrast(self, feature_map: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Centre-surround contrast `(batch_size, num_windows)`, zero or higher, of windows `(num_windows, 4)`, `left,
        top, right, bottom` in cells, on a map `(batch_size, num_channels, height, width)`.
        """
        _, num_channels, height, width = feature_map.shape
        scaled = feature_map.float()  # sums over many cells need more than half precision
        scaled = scaled - scaled.mean(dim=(2, 3), keepdim=True)
        scaled = scaled / (scaled.square().mean(dim=(2, 3), keepdim=True) + 1e-6).sqrt()
        # whole numbers add up exactly: windows that mirror one another tie, instead of as the batch's rounding falls
        steps = (scaled * STEPS_PER_UNIT).round().long()
        table = F.pad(steps, (1, 0, 1, 0)).cumsum(dim=2).cumsum(dim=3).flatten(2)  # (batch_size, num_channels, cells)

        def total(area: torch.Tensor) -> torch.Tensor:
            left, top, right, bottom = area.unbind(dim=-1)
            stride = width + 1
            return (
                table[..., bottom * stride + right]
                - table[..., top * stride + right]
                - table[..., bottom * stride + left]
                + table[..., top * stride + left]
            )  # (batch_size, num_channels, num_windows)

        # the surround reaches out until its outer box has twice the window's area, as far as the image goes
        side = windows[:, 2:] - windows[:, :2]  # (num_windows, 2)
        reach = (side * (2**0.5 - 1) / 2).ceil().long()
        outer_low = (windows[:, :2] - reach).clamp(min=0)
        outer_high = torch.minimum(windows[:, 2:] + reach, windows.new_tensor([width, height]))
        outer = torch.cat([outer_low, outer_high], dim=-1)  # (num_windows, 4)

        centre_cells = side.prod(dim=-1).float()  # (num_windows,)
        surround_cells = (outer_high - outer_low).prod(dim=-1).float() - centre_cells
        centre = total(windows)
        surround = (total(outer) - centre) / surround_cells.clamp(min=1)  # zero, the mean, where there is none
        distance = (centre / centre_cells - surround).norm(dim=1) / STEPS_PER_UNIT
        distance = distance / num_channels**0.5  # (batch_size, num_windows)
        share = centre_cells / (height * width)
        return distance * share**0.25 * (surround_cells > 0)
