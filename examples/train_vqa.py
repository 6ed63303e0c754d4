# SPDX-License-Identifier: Apache-2.0
"""
Train a model that answers questions about pictures, with a frozen bottom-up half whose regions are computed once:

    accelerate launch examples/train_vqa.py --data FOLDER --output_dir RUN --init_from CHECKPOINT \
        --freeze all --cache REGIONS

and what the question or the picture alone can tell: `--regions none`, `--questions none`. `--freeze 0` trains the
backbone too; several `--data` are mixed in the shares of `--data_weights`; `--data easy-vqa` are small drawings, of
which a package carries thousands. Where questions are few, `--question_ngrams 8192 --word_vectors glove.txt
--standardize_regions true --dropout 0.05` did best, and then `--teachers RUN/best ... --foreign_questions 9` with some
such runs of other seeds: each picture is asked questions about others too, which the teachers answer together.

FOLDER holds `qa.jsonl` and `images/` (DAQUAR); VQA v2, GQA, Visual Genome and easy-VQA in their own files work too.
CHECKPOINT is any of this package: its bottom-up half is taken over. RUN explains itself: settings, versions, metrics,
predictions, `best/` for `from_pretrained` and `last/` for `--resume`. The best model is the one with most exact
matches on the evaluation split. On a CPU, `--num_threads` says how many threads to use.
"""

from accelerate.utils import set_seed
from transformers import HfArgumentParser

from butd_hf.training.arguments import LoopArguments
from butd_hf.training.loop import TrainingLoop, build_accelerator
from butd_hf.training.question_answering_recipe import QuestionArguments, build_task


def main() -> None:
    parser = HfArgumentParser([QuestionArguments, LoopArguments], description=__doc__)
    parser.set_defaults(metric_for_best="exact_match", batch_size=64)
    arguments, loop = parser.parse_args_into_dataclasses()
    accelerator = build_accelerator(loop)
    set_seed(loop.seed)
    TrainingLoop(build_task(arguments, loop, accelerator), loop, accelerator).run()


if __name__ == "__main__":
    main()
