# SPDX-License-Identifier: Apache-2.0
"""Train an object detector, whose proposals are the learned regions of all other tasks:

    accelerate launch examples/train_detection.py --data FOLDER --output_dir RUN --image_size 320 \
        --backbone_weights timm --augment flip crop zoom_out jitter mosaic --ema_decay 0.999

FOLDER holds `annotations.json` in COCO's format, whose images may name a `split`, and `images/`; COCO's own layout
works too. Several of them with the same categories are mixed, in the shares of `--data_weights`. `--init_from` goes on
from a detector, whose classes the data's replace.

Every option of `TrainingArguments` works. The best model is the one with the highest box AP50 on the evaluation split.
RUN is for `from_pretrained`, and holds its card, predictions and checkpoints; `--resume_from_checkpoint last` goes on
from the last of these.
"""

from butd_hf import ButdForObjectDetection
from butd_hf.training.detection import train


if __name__ == "__main__":
    print(train(ButdForObjectDetection, description=__doc__, metric_for_best_model="box_ap50"))
