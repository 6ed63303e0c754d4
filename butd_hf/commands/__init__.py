# SPDX-License-Identifier: Apache-2.0
"""The command line, `butd-hf`: a file per command, or per few that share their work."""

import os
import warnings

import typer

from . import evaluate
from .ask import ask
from .caption import caption
from .convert import convert
from .detect import detect, regions, segment
from .evaluate_graphs import scene_graph
from .extract import extract
from .features import features
from .graph import graph
from .push import push


app = typer.Typer(
    name="butd-hf",
    help="Bottom-Up Top-Down attention: pictures in; captions, answers, objects, masks, regions and graphs out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (ask, caption, detect, segment, regions, graph, convert, extract, features, push):
    app.command()(command)
evaluate.app.command("scene-graph")(scene_graph)
app.add_typer(evaluate.app, name="evaluate")


def main() -> None:
    """Runs the command line. Exit codes: 0 all went well, 1 something failed, 2 the command was wrong."""
    # what libraries say while they load a model is for those who write programs; the user's own choice wins
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module="transformers")
    app()


__all__ = ["app", "main"]
