# SPDX-License-Identifier: Apache-2.0
"""`butd-hf extract`: photographs in, a store of their regions out."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import report
from .options import BatchSizeOption, ModelOption
from .photos import NoPhotosError, find_photos


SHOWN_PICTURES = 20  # that could not be read; the store names them all


class Dtype(str, Enum):
    """Types of stored features."""

    float16 = "float16"
    float32 = "float32"


class BoxFormat(str, Enum):
    """What the four numbers of a box are."""

    xyxy = "xyxy"
    xywh = "xywh"
    relative = "relative"


class Ids(str, Enum):
    """What an image is called in the store."""

    name = "name"
    stem = "stem"
    path = "path"


def extract(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Files, folders, patterns.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="STORE", help="Folder of the store.")],
    model: ModelOption = None,
    boxes: Annotated[
        Path | None,
        typer.Option("--boxes", help="JSON or JSON Lines of boxes by image id; describes exactly those."),
    ] = None,
    box_format: Annotated[
        BoxFormat, typer.Option("--box-format", help="Of --boxes: in pixels, or x0, y0, x1, y1 in [0, 1].")
    ] = BoxFormat.xyxy,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the features.")] = Dtype.float16,
    ids: Annotated[Ids, typer.Option("--ids", help="Image ids: file name, that without ending, or path.")] = Ids.name,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a picture that cannot be read.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store of other pictures or another model.")
    ] = False,
    batch_size: BatchSizeOption = 8,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Pictures per file of the store.")] = 64,
    num_workers: Annotated[int, typer.Option("--num-workers", min=0, help="Processes that decode pictures.")] = 0,
    num_threads: Annotated[
        int,
        typer.Option(
            "--num-threads", min=1, help="CPU threads per process. Last digits may depend on it; processes are better."
        ),
    ] = 1,
    device: Annotated[str, typer.Option("--device", help="auto or cpu; accelerate launch knows more.")] = "auto",
) -> None:
    """
    Extract the regions of many photographs into a store that training and other programs read.

    Run it again after an interruption, and it goes on. With `accelerate launch examples/extract_regions.py` and the
    same options, several processes share the work; the store's bytes are the same however many there are.

    Pictures that cannot be read are named, counted and left out; with --strict they stop it with exit code 1.
    """
    if device not in ("auto", "cpu"):
        raise typer.BadParameter(f"expected auto or cpu, got {device!r}.", param_hint="--device")
    try:
        sources = find_photos(images)
    except NoPhotosError as error:
        raise typer.BadParameter(str(error), param_hint="IMAGES") from error
    remote = [source for source in sources if source.startswith(("http://", "https://", "data:"))]
    if remote:
        raise typer.BadParameter(f"only files can be extracted, got {remote[0][:100]!r}.", param_hint="IMAGES")

    from datetime import timedelta

    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from ..data.data_errors import DataError
    from ..data.extraction import extract_regions
    from ..data.given_boxes import GivenBoxes
    from ..data.region_rows import RegionStoreError
    from .loading import load_checkpoint

    torch.set_num_threads(num_threads)
    # those that are done first wait for the last ones, however long these take
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[patience])
    name, loaded, processor = load_checkpoint(model, str(accelerator.device), "image-to-text")
    if loaded.config.bottom_up_config.selector == "given":
        raise typer.BadParameter(f"{name} has no bottom-up half: it only takes ready regions.", param_hint="--model")
    try:
        store = extract_regions(
            loaded,
            processor,
            [(image_id_of(source, ids), source) for source in sources],
            out,
            batch_size=batch_size,
            dtype=dtype.value,
            num_workers=num_workers,
            accelerator=accelerator,
            boxes=None if boxes is None else GivenBoxes(boxes, box_format.value),
            strict=strict,
            shard_size=shard_size,
            overwrite=overwrite,
        )
    except (DataError, RegionStoreError, OSError) as error:
        report(str(error))
        raise typer.Exit(1) from error
    if accelerator.is_main_process:
        for picture in store.skipped[:SHOWN_PICTURES]:
            report(picture["reason"])
        if store.skipped:
            report(f"{len(store.skipped)} of {len(sources)} pictures could not be read; store.json names them.")
        print(f"{out}: regions of {len(store)} pictures, {store.region_size} {store.dtype.name} numbers each")
    accelerator.end_training()  # several processes take leave of one another


def image_id_of(source: str, ids: Ids) -> str:
    """What the picture is called in the store."""
    return {Ids.name: Path(source).name, Ids.stem: Path(source).stem, Ids.path: source}[ids]
