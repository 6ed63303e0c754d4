# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, each described once."""

from pathlib import Path
from typing import Annotated

import typer


ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Checkpoint folder or Hub name; the one inside the package by default."),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps ...; auto takes the fastest there is.")
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Pictures at a time.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

# of everything that generates text; what is not given is the checkpoint's own choice
NumBeamsOption = Annotated[
    int | None,
    typer.Option("--num-beams", min=1, help="Beams of the search, 1 is greedy; as the checkpoint says by default."),
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest text in tokens; as the checkpoint says by default."),
]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="How every caption begins.")]

# of everything that finds objects
ThresholdOption = Annotated[
    float, typer.Option("--threshold", "-t", min=0.0, max=1.0, help="Only objects that score higher.")
]
TopOption = Annotated[int, typer.Option("--top", min=1, help="At most this many per picture, the best.")]
DrawOption = Annotated[
    Path | None,
    typer.Option("--draw", help="Draw them. With several photos OUT.png becomes OUT-1.png, OUT-2.png ..."),
]
MaskThresholdOption = Annotated[
    float,
    typer.Option("--mask-threshold", min=0.0, max=1.0, help="Pixels belong to an object above this probability."),
]

# of every evaluation
DataOption = Annotated[
    Path, typer.Option("--data", "-d", help="Folder or file with the annotated pictures, see the data formats.")
]
SplitOption = Annotated[str | None, typer.Option("--split", "-s", help="Only this split; all pictures by default.")]
PredictionsOption = Annotated[
    Path | None,
    typer.Option("--predictions", "-p", help="Also write what was predicted: JSON Lines, one per picture."),
]
