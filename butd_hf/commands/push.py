# SPDX-License-Identifier: Apache-2.0
"""`butd-hf push`: a checkpoint to the Hub, in one commit."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from .console import print_table, report


IGNORED = ("complete.json", ".*", "*.unfinished", "__pycache__", "*.pyc", "*.bin", "*.pkl")  # not of the model
NEEDED = {
    "config.json": "the model's configuration",
    "model*.safetensors": "weights",
    "*processor_config.json": "the processor, without which no picture can be prepared",
    "*.py": "the code that runs it without this package",
    "README.md": "the card; a training run writes one, and butd_hf.cards.write_card does",
}


def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A checkpoint, such as RUN/best.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Where it goes on the Hub, as in someone/captioner.")],
    dry_run: Annotated[
        bool | None,
        typer.Option("--dry-run/--upload", help="Only tell what would be uploaded; the default without a token."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With a dry run: write the very folder that would be uploaded.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you see a repository that is made anew.")] = False,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
) -> None:
    """
    Upload weights, processor, code and card of a checkpoint to the Hub in one commit.

    Without a token (`hf auth login`) nothing is uploaded, but told. Exit code 1 if something belongs to it that is not
    there.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}.", param_hint="FOLDER")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise typer.BadParameter(str(error), param_hint="REPO") from error
    for pattern, what in NEEDED.items():
        if not any(folder.glob(pattern)):
            report(f"{folder} has no {pattern}: {what}. Is it the folder of a checkpoint, such as RUN/best?")
            raise typer.Exit(1)
    files = files_of(folder)
    has_token = get_token() is not None
    if dry_run is False and not has_token:
        report(
            "There is no token of the Hub here: hf auth login first, or leave out --upload to see what it would do."
        )
        raise typer.Exit(1)
    dry_run = not has_token if dry_run is None else dry_run
    if out is not None:
        if not dry_run:
            raise typer.BadParameter("goes with --dry-run only.", param_hint="--out")
        if out.exists():
            raise typer.BadParameter(f"{out} is there already.", param_hint="--out")
        for file in files:
            target = out / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)

    if dry_run:
        rows = [[str(file.relative_to(folder)), f"{file.stat().st_size / 1e6:.2f}"] for file in files]
        rows.append(["together", f"{sum(file.stat().st_size for file in files) / 1e6:.2f}"])
        print_table(["file", "MB"], rows, title=f"would go to {repo}; nothing was uploaded")
        return
    hub = HfApi()
    hub.create_repo(repo, private=private, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=repo,
        folder_path=folder,
        ignore_patterns=list(IGNORED),
        commit_message=message or f"Upload {folder.resolve().name}",
    )
    print(commit.commit_url)


def files_of(folder: Path) -> list[Path]:
    """What is uploaded of a folder, chosen as `upload_folder` does."""
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [folder / name for name in filter_repo_objects(names, ignore_patterns=list(IGNORED))]


__all__ = ["push"]
