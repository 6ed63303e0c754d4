# SPDX-License-Identifier: Apache-2.0
"""`butd-hf features`: feature files of other projects into a store, and back."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import report
from .options import Dtype


SOURCE_HELP = "TSV files, a store, a folder of .npz, or NAME of NAME_att and its kin."
FORMAT_HELP = (
    "store; tsv: six columns; lxmert: its ten; npz: MILVLG's; npy: ruotianluo's folders. tsv by default if DEST ends "
    "in .tsv, otherwise store."
)
COLUMNS_HELP = (
    "Columns of the TSV files, with commas, as in image_id,image_w,image_h,num_boxes,boxes,features; by default their "
    "number decides between the two usual orders."
)
SIZES_HELP = "For npy: JSON with the images' ids, widths and heights, such as COCO's."
Output = Enum("Output", {name: name for name in ("store", "tsv", "lxmert", "npz", "npy")}, type=str)


def features(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    to: Annotated[Path, typer.Option("--to", metavar="DEST", help="Where to write.")],
    output: Annotated[Output | None, typer.Option("--format", "-f", help=FORMAT_HELP)] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the features in a store.")] = Dtype.float32,
    columns: Annotated[str | None, typer.Option("--columns", help=COLUMNS_HELP)] = None,
    sizes: Annotated[Path | None, typer.Option("--sizes", help=SIZES_HELP)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at DEST.")] = False,
) -> None:
    """Turn feature files into a store of regions, or a store into feature files; one image in memory at a time.

    Exit code 1 if something is damaged, with file, line and column; nothing is then left at DEST.
    """
    from ..features.conversion import convert_features
    from ..features.records import FeatureFileError
    from ..features.tsv import COLUMNS
    from ..progress import images_progress

    names = None if columns is None else tuple(name.strip() for name in columns.split(","))
    if names is not None and not set(COLUMNS["tsv"]) <= set(names):
        reason = f"expected at least {', '.join(COLUMNS['tsv'])}; got {columns!r}."
        raise typer.BadParameter(reason, param_hint="--columns")
    kind = output.value if output is not None else "tsv" if to.suffix == ".tsv" else "store"
    options = {"output": kind, "dtype": dtype.value, "columns": names, "sizes": sizes, "overwrite": overwrite}
    try:
        with images_progress() as progress:
            bar = progress.add_task("converting", total=None)
            count = convert_features(sources, to, **options, on_image=lambda: progress.advance(bar))
    except (FeatureFileError, OSError) as error:
        report(str(error))
        raise typer.Exit(1) from error
    print(f"{to}: regions of {count} images as {kind}")
