# SPDX-License-Identifier: Apache-2.0
"""`butd-hf extract`: images in, a store of their regions out."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import report
from .images import REMOTE, list_images
from .options import BatchSizeOption, Dtype, ModelOption


SHOWN_IMAGES = 20  # that could not be read; the store names them all
BOXES_HELP = "JSON or JSON Lines of boxes by image id, whose regions are extracted instead of selecting any."
BOX_FORMAT_HELP = "Of --boxes: in pixels, or x0, y0, x1, y1 in [0, 1]."
IDS_HELP = "Image ids: file name, that without ending, or path."
OVERWRITE_HELP = "Replace a store of other images or another model."
THREADS_HELP = "CPU threads per process. Last digits may depend on it; processes are better."
DEVICE_HELP = "auto or cpu; accelerate launch knows more."

BoxFormat = Enum("BoxFormat", {name: name for name in ("xyxy", "xywh", "relative")}, type=str)
Ids = Enum("Ids", {name: name for name in ("name", "stem", "path")}, type=str)


def extract(
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Files, folders, patterns.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="STORE", help="Folder of the store.")],
    model: ModelOption = None,
    boxes: Annotated[Path | None, typer.Option("--boxes", help=BOXES_HELP)] = None,
    box_format: Annotated[BoxFormat, typer.Option("--box-format", help=BOX_FORMAT_HELP)] = BoxFormat.xyxy,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the features.")] = Dtype.float16,
    ids: Annotated[Ids, typer.Option("--ids", help=IDS_HELP)] = Ids.name,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_HELP)] = False,
    batch_size: BatchSizeOption = 8,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Images per file of the store.")] = 64,
    num_workers: Annotated[int, typer.Option("--num-workers", min=0, help="Processes that decode images.")] = 0,
    num_threads: Annotated[int, typer.Option("--num-threads", min=1, help=THREADS_HELP)] = 1,
    device: Annotated[str, typer.Option("--device", help=DEVICE_HELP)] = "auto",
) -> None:
    """Extract the regions of many images into a store that training and other programs read.

    Run it again after an interruption, and it goes on. With `accelerate launch examples/extract_regions.py` and the
    same options, several processes share the work; the store's bytes are the same however many there are.

    Images that cannot be read are named, counted and left out; with --strict they stop it with exit code 1.
    """
    if device not in ("auto", "cpu"):
        raise typer.BadParameter(f"expected auto or cpu, got {device!r}.", param_hint="--device")
    sources = list_images(images, hint="IMAGES")
    remote = [source for source in sources if source.startswith(REMOTE)]
    if remote:
        raise typer.BadParameter(f"only files can be extracted, got {remote[0][:100]!r}.", param_hint="IMAGES")

    from datetime import timedelta

    import torch
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    from ..data.extraction import extract_regions
    from ..data.given_boxes import GivenBoxes
    from .loading import load_checkpoint

    torch.set_num_threads(num_threads)
    # processes that are done first wait for the last ones, however long these take
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[patience])
    device = str(accelerator.device)
    name, selecting, processor = load_checkpoint(model, device, "image-to-text", any_model=True)
    if selecting.config.bottom_up_config.selector == "given":
        raise typer.BadParameter(f"{name} has no bottom-up half: it only takes ready regions.", param_hint="--model")
    image_ids = {Ids.name: lambda path: path.name, Ids.stem: lambda path: path.stem, Ids.path: str}
    try:
        store = extract_regions(
            selecting,
            processor,
            [(image_ids[ids](Path(source)), source) for source in sources],
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
    except (ValueError, OSError) as error:
        report(str(error))
        raise typer.Exit(1) from error
    if accelerator.is_main_process:
        for image in store.skipped[:SHOWN_IMAGES]:
            report(image["reason"])
        if store.skipped:
            report(f"{len(store.skipped)} of {len(sources)} images could not be read; store.json names them.")
        print(f"{out}: regions of {len(store)} images, {store.region_size} {store.dtype.name} numbers each")
    accelerator.end_training()
