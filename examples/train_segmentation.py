# SPDX-License-Identifier: Apache-2.0
"""Train an instance segmenter, from a detector that `examples/train_detection.py` trained:

    accelerate launch examples/train_segmentation.py --data FOLDER --output_dir RUN2 --init_from RUN \
        --config region_mask_size=14 --learning_rate 1e-4

FOLDER and RUN2 are as of `examples/train_detection.py`. Annotations whose `segmentation` is null train their boxes,
and are neither right nor wrong when masks are scored. The best model is the one with the highest mask AP50.
"""

from butd_hf import ButdForInstanceSegmentation
from butd_hf.training.detection import train


if __name__ == "__main__":
    print(train(ButdForInstanceSegmentation, description=__doc__, metric_for_best_model="mask_ap50"))
