# SPDX-License-Identifier: Apache-2.0
"""`butd-hf convert`: published checkpoints in, checkpoints of this package out."""

from pathlib import Path
from typing import Annotated

import typer

from .console import report


VOCABULARY_HELP = "File with the words or labels that belong to the weights."
ANSWERS_HELP = "File with the answers that a VQA model scores, in their order."
BOTTOM_UP_HELP = (
    "Checkpoint of this package that selects the regions and whose features the weights were trained on; without one, "
    "the model takes ready regions."
)
VocabularyOption = Annotated[Path | None, typer.Option("--vocabulary", exists=True, help=VOCABULARY_HELP)]


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Weights file, or a folder with one.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder for the checkpoint.")],
    vocabulary: VocabularyOption = None,
    answers: Annotated[Path | None, typer.Option("--answers", exists=True, help=ANSWERS_HELP)] = None,
    bottom_up: Annotated[str | None, typer.Option("--bottom-up", help=BOTTOM_UP_HELP)] = None,
    name: Annotated[str | None, typer.Option("--name", help="The model's name in its card.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FOLDER if it is there.")] = False,
) -> None:
    """Convert a published checkpoint; its kind is recognised from the names of its tensors.

    Exit code 1 if it is of no known kind or does not fit its kind, with all that is missing, unknown or misshapen.
    Nothing in a checkpoint is run: PyTorch files are read with weights_only=True, pickles as plain data.
    """
    if to.exists() and not overwrite:
        raise typer.BadParameter(f"{to} is there already; see --overwrite.", param_hint="--to")

    from ..conversion.checkpoint_folder import convert_checkpoint
    from ..conversion.checkpoint_kind import ConversionOptions
    from ..conversion.sources import ConversionError

    options = ConversionOptions(vocabulary=vocabulary, bottom_up=bottom_up, answers=answers)
    try:
        kind = convert_checkpoint(source, to, options, name=name, overwrite=overwrite)
    except ConversionError as error:
        report(str(error))
        raise typer.Exit(1) from error
    print(f"{to}: converted from {kind.name}")
