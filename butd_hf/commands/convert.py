# SPDX-License-Identifier: Apache-2.0
"""`butd-hf convert`: published checkpoints in, checkpoints of this package out."""

from pathlib import Path
from typing import Annotated

import typer

from .console import report


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Weights file, or a folder with one.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Folder for the checkpoint.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="File with the words or labels that belong to the weights."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", help="File with the answers that a VQA model scores, in their order."),
    ] = None,
    bottom_up: Annotated[
        str | None,
        typer.Option(
            "--bottom-up",
            help="Checkpoint of this package that selects the regions, its features being those that the weights "
            "know; without one, the model takes ready regions.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The model's name in its card.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FOLDER if it is there.")] = False,
) -> None:
    """
    Convert a published checkpoint; its kind is recognised from the names of its tensors.

    Exit code 1 if it is of no known kind or does not fit its kind, with all that is missing, unknown or misshapen.
    Nothing in a checkpoint is run: PyTorch files are read with weights_only=True, pickles as plain data.
    """
    if to.exists() and not overwrite:
        raise typer.BadParameter(f"{to} is there already; see --overwrite.", param_hint="--to")
    for option, file in (("--vocabulary", vocabulary), ("--answers", answers)):
        if file is not None and not file.is_file():
            raise typer.BadParameter(f"there is no file {file}.", param_hint=option)

    from ..conversion.checkpoint_folder import ConversionError, convert_checkpoint
    from ..conversion.checkpoint_kind import ConversionOptions

    options = ConversionOptions(vocabulary=vocabulary, bottom_up=bottom_up, answers=answers)
    try:
        kind = convert_checkpoint(source, to, options, name=name, overwrite=overwrite)
    except ConversionError as error:
        report(str(error))
        raise typer.Exit(1) from error
    print(f"{to}: converted from {kind.name}")
