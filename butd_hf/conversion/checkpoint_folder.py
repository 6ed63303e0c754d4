# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of another project to a complete folder of this one."""

import shlex
import shutil
from pathlib import Path

from ..cards import write_card
from .checkpoint_kind import CheckpointKind, ConversionOptions, ConvertedCheckpoint
from .kinds import KINDS, recognise
from .sources import ConversionError, read_source


def convert_checkpoint(
    source: str | Path,
    folder: str | Path,
    options: ConversionOptions | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
    kinds: tuple[CheckpointKind, ...] = KINDS,
) -> CheckpointKind:
    """Converts a checkpoint to a folder with config, safetensors, processor, tokenizer, card and code.

    The folder is written beside its place and then renamed: there is a complete one or none.

    Args:
        source: File or folder, see `read_source`.
        folder: Where the checkpoint goes.
        options: What the conversion needs beside the checkpoint.
        name: What the card calls the model; the folder's name by default.
        overwrite: Whether `folder` may be replaced if it is there.
        kinds: Kinds of checkpoints to tell apart.

    Returns:
        The kind that the source was recognised as.

    Raises:
        ConversionError: The source cannot be read, is of no known kind, or does not fit its kind.
        FileExistsError: The folder is there.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"{folder} is there already; choose another folder, or overwrite it.")
    read = read_source(source)
    kind = recognise(read, kinds)
    converted = kind.convert(read, options or ConversionOptions())

    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_checkpoint(converted, unfinished, name or folder.resolve().name, command(read.file, folder, options))
        if folder.is_dir():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return kind


def write_checkpoint(converted: ConvertedCheckpoint, folder: Path, name: str, made_by: str) -> None:
    """Writes model, processor, code and card; `made_by` is the command that the card tells."""
    converted.model.save_pretrained(folder)
    converted.processor.save_pretrained(folder)
    write_card(folder, name=name, commands=[made_by], **converted.card)


def command(file: Path, folder: Path, options: ConversionOptions | None) -> str:
    """The conversion as others can type it: of paths on this machine, the last name stays."""
    words = ["butd-hf", "convert", file.name, "--to", folder.name]
    if options is not None and options.vocabulary is not None:
        words += ["--vocabulary", Path(options.vocabulary).name]
    if options is not None and options.answers is not None:
        words += ["--answers", Path(options.answers).name]
    if options is not None and options.bottom_up is not None:
        is_folder = Path(options.bottom_up).is_dir()
        words += ["--bottom-up", Path(options.bottom_up).name if is_folder else options.bottom_up]
    return shlex.join(words)


__all__ = ["ConversionError", "convert_checkpoint", "write_checkpoint"]
