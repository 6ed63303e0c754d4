# SPDX-License-Identifier: Apache-2.0
"""
Train a scene graph model, which says how the objects of a picture are related:

    accelerate launch examples/train_scene_graph.py --data FOLDER --output_dir RUN --init_from DETECTOR \
        --dropout 0.5 --ema_decay 0.995 --epochs 7 --batch_size 16 --learning_rate 1e-3 --weight_decay 0.1 \
        --pair_rivals true --frequency_prior false --augment flip --word_vectors glove.txt --group_sizes true

FOLDER is Visual Relationship Detection, Visual Genome, VG150, Open Images or PSG in their own files; in that of VRD,
`annotations*.json` lists images with `objects` and `relations`. Without pictures, labels and geometry of the annotated
objects teach alone (`--mode predcls`, the default); with pictures, relations are judged by what regions look like,
too, and `--mode sgcls` or `--mode sgdet` also teaches the labels of objects. How often labels are related is counted
before; the model begins with that, unless there is `--frequency_prior false`, which did better on VRD. DETECTOR is any
checkpoint of this package, whose bottom-up half is taken over and finds the objects in photographs later;
`--label_map` says where its classes are called otherwise in the data. Labels begin as what their words mean with
`--word_vectors`, a text file such as those of GloVe (Pennington et al. 2014): few examples teach less of a rare label
than that it means much the same as another. RUN explains itself: settings, versions,
metrics, predictions, `best/` for `from_pretrained` and `last/` for `--resume`. The best model is the one with the
highest R@50 on the evaluation split.
"""

from butd_hf.training.scene_graph_recipe import train


if __name__ == "__main__":
    train(__doc__)
