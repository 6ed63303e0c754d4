# SPDX-License-Identifier: Apache-2.0
"""
Train an object detector, whose proposals are the learned regions of all other tasks:

    accelerate launch examples/train_detection.py --data FOLDER --output_dir RUN --image_size 320 \
        --backbone_weights timm --augment flip crop zoom_out jitter mosaic --ema_decay 0.999

FOLDER holds `annotations.json` in COCO's format, whose images may name a `split`, and `images/`; COCO's own layout
works too. Several of them with the same categories are mixed, in the shares of `--data_weights`. RUN explains itself:
settings, versions, metrics, predictions, `best/` for `from_pretrained` and `last/` for `--resume`. The best model is
the one with the highest box AP50 on the evaluation split. On a CPU, `--num_threads` says how many threads to use, and
`--freeze_depthwise` spares EfficientNets their slowest gradients.
"""

from butd_hf.training.detection_recipe import train


if __name__ == "__main__":
    train(masks=False, description=__doc__)
