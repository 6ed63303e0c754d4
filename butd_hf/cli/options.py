# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have, each described once."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


MODEL_HELP = "Checkpoint folder or Hub name; the one inside the package by default."
DEVICE_HELP = "auto, cpu, cuda, cuda:1, mps ...; auto takes the fastest there is."
DRAW_HELP = "Draw the result. With several images OUT.png becomes OUT-1.png, OUT-2.png ..."
BEAMS_HELP = "Beams of the search, 1 is greedy; as the checkpoint says by default."
TOKENS_HELP = "Longest text in tokens; as the checkpoint says by default."
MASK_HELP = "Pixels belong to an object above this probability."
DATA_HELP = "Folder or file with the annotated images, see the data formats."
PREDICTIONS_HELP = "Also write what was predicted: JSON Lines, one per image or question."

ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, folders, patterns, URLs.")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)]
DeviceOption = Annotated[str, typer.Option("--device", help=DEVICE_HELP)]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
DrawOption = Annotated[Path | None, typer.Option("--draw", help=DRAW_HELP)]

NumBeamsOption = Annotated[int | None, typer.Option("--num-beams", min=1, help=BEAMS_HELP)]
MaxNewTokensOption = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help=TOKENS_HELP)]
PromptOption = Annotated[str | None, typer.Option("--prompt", help="How every caption begins.")]

Share = {"min": 0.0, "max": 1.0}
ThresholdOption = Annotated[float, typer.Option("--threshold", "-t", **Share, help="Only objects that score higher.")]
MaskThresholdOption = Annotated[float, typer.Option("--mask-threshold", **Share, help=MASK_HELP)]
TopOption = Annotated[int, typer.Option("--top", min=1, help="At most this many per image, the best.")]

DataOption = Annotated[Path, typer.Option("--data", "-d", help=DATA_HELP)]
SplitOption = Annotated[str | None, typer.Option("--split", "-s", help="Only this split; all images by default.")]
PredictionsOption = Annotated[Path | None, typer.Option("--predictions", "-p", help=PREDICTIONS_HELP)]


class Dtype(str, Enum):
    """Types of stored features."""

    float16 = "float16"
    float32 = "float32"
