# SPDX-License-Identifier: Apache-2.0

import numpy as np
import torch

from butd_hf.modeling.bottom_up.faster_rcnn_proposals import cell_anchors


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
