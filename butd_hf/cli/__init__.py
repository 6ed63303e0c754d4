# SPDX-License-Identifier: Apache-2.0
"""The command line, `butd-hf`: a file per verb."""

import os
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from . import evaluate
from .ask import ask
from .caption import caption
from .convert import convert
from .detect import detect, regions, segment
from .extract import extract
from .features import features
from .graph import graph
from .push import push


app = typer.Typer(
    name="butd-hf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (ask, caption, detect, segment, regions, graph, convert, extract, features, push):
    app.command()(command)
app.add_typer(evaluate.app, name="evaluate")


def print_version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        print(f"butd_hf {version('butd_hf')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Bottom-Up Top-Down attention: images in; captions, answers, objects, masks, regions and graphs out."""


def main() -> None:
    """Runs the command line. Exit codes: 0 all went well, 1 something failed, 2 the command was wrong."""
    # loading logs for programmers, not for users; what the environment says already stays
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module="transformers")
    app(prog_name="butd-hf")


__all__ = ["app", "main"]
