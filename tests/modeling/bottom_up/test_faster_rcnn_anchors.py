# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from butd_hf.modeling.bottom_up.faster_rcnn_anchors import cell_anchors, clip_to_image, grid_anchors, move_boxes


def caffe_anchors() -> np.ndarray:
    """As the Caffe code makes them: ratios of a 16 x 16 window, rounded, then scales of each."""

    def around(width, height, x, y):
        return [x - 0.5 * (width - 1), y - 0.5 * (height - 1), x + 0.5 * (width - 1), y + 0.5 * (height - 1)]

    made = []
    for ratio in np.array([0.5, 1, 2]):
        width = np.round(np.sqrt(16 * 16 / ratio))
        height = np.round(width * ratio)
        for scale in np.array([4, 8, 16, 32]):
            made.append(around(width * scale, height * scale, 7.5, 7.5))
    return np.array(made)


def test_caffe_anchors():
    anchors = cell_anchors("caffe")
    assert anchors.shape == (12, 4)
    assert anchors[0].tolist() == [-38.0, -16.0, 53.0, 31.0]
    assert np.array_equal(anchors.numpy(), caffe_anchors())
    assert ((anchors[:, :2] + anchors[:, 2:]) / 2 == 7.5).all()


def test_detectron2_anchors_are_not_rounded_and_centred_at_zero():
    anchors = cell_anchors("detectron2")
    width, height = (anchors[:, 2:] - anchors[:, :2]).unbind(1)
    assert torch.equal(anchors[:, :2], -anchors[:, 2:])
    torch.testing.assert_close(width * height, torch.tensor([64.0, 128.0, 256.0, 512.0]).square().repeat_interleave(3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]).repeat(4))


def test_grid_is_row_by_row_and_cell_by_cell():
    anchors = torch.tensor([[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]])
    grid = grid_anchors(anchors, 3, 2, 16)
    expected = [
        [anchor[0] + 16 * x, anchor[1] + 16 * y, anchor[2] + 16 * x, anchor[3] + 16 * y]
        for y in range(3)
        for x in range(2)
        for anchor in anchors.tolist()
    ]
    assert grid.tolist() == expected


@pytest.mark.parametrize("variant", ["caffe", "detectron2"])
def test_deltas(variant):
    """The Caffe code counts pixels in the size of a box, but not in what it makes of it."""
    boxes, deltas = torch.rand(20, 4) * 50, torch.randn(20, 4)
    boxes[:, 2:] += boxes[:, :2]
    deltas[0, 2:] = 7.0  # beyond what the ports let a box grow
    weights = (1.0, 1.0, 1.0, 1.0) if variant == "caffe" else (10.0, 10.0, 5.0, 5.0)
    moved = move_boxes(boxes, deltas, variant, weights)
    for (x0, y0, x1, y1), (dx, dy, dw, dh), box in zip(
        boxes.tolist(), (deltas / torch.tensor(weights)).tolist(), moved.tolist(), strict=True
    ):
        one = 1 if variant == "caffe" else 0
        width, height = x1 - x0 + one, y1 - y0 + one
        x, y = x0 + 0.5 * width + dx * width, y0 + 0.5 * height + dy * height
        if variant == "detectron2":
            dw, dh = min(dw, math.log(1000 / 16)), min(dh, math.log(1000 / 16))
        width, height = math.exp(dw) * width, math.exp(dh) * height
        expected = [x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height]
        assert box == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("variant", "high"), [("caffe", [79.0, 59.0]), ("detectron2", [80.0, 60.0])])
def test_the_last_pixel(variant, high):
    clipped = clip_to_image(torch.tensor([[-5.0, 3.0, 200.0, 200.0]]), height=60, width=80, variant=variant)
    assert clipped.tolist() == [[0.0, 3.0, *high]]
