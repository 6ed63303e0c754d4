# SPDX-License-Identifier: Apache-2.0
"""Images as the published bottom-up detector takes them: blue first, minus the mean, 600 or 800 pixels short."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F


PUBLISHED_MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green and red, in grey levels
PUBLISHED_SIZES = {
    "caffe": {"shortest_edge": 600, "longest_edge": 1000},
    "detectron2": {"shortest_edge": 800, "longest_edge": 1333},
}


def published_pixels(
    image: torch.Tensor,  # (3, height, width): RGB, uint8 or float32 in grey levels of 0 to 255
    variant: str,
    shortest_edge: int,  # what the short side becomes, unless the long one exceeds `longest_edge`
    longest_edge: int,
    mean: Sequence[float],  # of blue, green and red, in grey levels
) -> tuple[torch.Tensor, float]:
    """
    The image for the detector `(3, new_height, new_width)`, blue first, float32, and its scale: new pixels per old.

    `"caffe"` subtracts the mean, then resizes floats bilinearly without smoothing, as OpenCV does when it is given a
    factor: sides are rounded, but pixels lie where the exact factor puts them. `"detectron2"` resizes 8-bit values
    with Pillow, which smooths and rounds, then subtracts the mean.
    """
    height, width = image.shape[1:]
    scale = shortest_edge / min(height, width)
    mean = torch.tensor(mean, dtype=torch.float32, device=image.device)[:, None, None]
    image = image.flip(0)
    if variant == "caffe":
        if round(scale * max(height, width)) > longest_edge:
            scale = longest_edge / max(height, width)
        size = [max(1, round(side * scale)) for side in (height, width)]  # halves to even, as OpenCV rounds
        image = (image.float() - mean)[None]  # (1, 3, height, width)
        # the one function that takes a size and a factor; `interpolate` takes either
        return torch.ops.aten.upsample_bilinear2d.default(image, size, False, scale, scale)[0], scale
    sides = [side * scale for side in (height, width)]
    if max(sides) > longest_edge:
        sides = [side * (longest_edge / max(sides)) for side in sides]
    size = [max(1, int(side + 0.5)) for side in sides]
    if image.dtype == torch.uint8:
        pixels = PIL.Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())
        resized = pixels.resize(size[::-1], PIL.Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(image.device)  # (3, new_height, new_width)
    else:
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    return image.float() - mean, sides[0] / height
