# SPDX-License-Identifier: Apache-2.0
"""`butd-hf push`: a checkpoint to the Hub, in one commit, or to a folder."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ..atomic_write import atomic_write
from .console import print_rows, report


IGNORED = ("complete.json", ".*", "*.unfinished", "__pycache__", "*.pyc", "*.bin", "*.pkl")  # not of the model
NEEDED = {
    "config.json": "the model's configuration",
    "model*.safetensors": "weights",
    "*processor_config.json": "the processor, which prepares images",
    "*.py": "the code that runs it without this package",
    "README.md": "the card; a training run writes one, and butd_hf.cards.write_card does",
}
CHECKPOINT_HELP = (
    "A checkpoint's folder, such as RUN/best; or the task of one inside the package, such as image-to-text."
)
DRY_RUN_HELP = "Only list what would be uploaded; the default without a token."
TO_HELP = "Save model, processor, card and code there instead of uploading."
OUT_HELP = "With a dry run: write the very folder that would be uploaded."


def push(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=CHECKPOINT_HELP)],
    repo: Annotated[str | None, typer.Argument(metavar="REPO", help="On the Hub, as in someone/captioner.")] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help=TO_HELP)] = None,
    dry_run: Annotated[bool | None, typer.Option("--dry-run/--upload", help=DRY_RUN_HELP)] = None,
    out: Annotated[Path | None, typer.Option("--out", help=OUT_HELP)] = None,
    private: Annotated[bool, typer.Option("--private", help="Only you see a repository that is made anew.")] = False,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
) -> None:
    """Upload weights, processor, code and card of a checkpoint to the Hub in one commit, or save them to a folder.

    Without a token (`hf auth login`) nothing is uploaded, only listed. Exit code 1 if a part of it is missing.
    """
    if (to is None) == (repo is None):
        raise typer.BadParameter("give either REPO or --to FOLDER.", param_hint="REPO")
    if to is not None:
        save_checkpoint(checkpoint, to)
        return
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    folder = Path(checkpoint)
    if not folder.is_dir():
        raise typer.BadParameter(f"there is no folder {folder}.", param_hint="CHECKPOINT")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise typer.BadParameter(str(error), param_hint="REPO") from error
    for pattern, what in NEEDED.items():
        if not any(folder.glob(pattern)):
            report(f"{folder} has no {pattern}: {what}. Is it the folder of a checkpoint, such as RUN/best?")
            raise typer.Exit(1)
    has_token = get_token() is not None
    if dry_run is False and not has_token:
        report("There is no token of the Hub here: hf auth login first, or leave out --upload to list what would go.")
        raise typer.Exit(1)
    dry_run = not has_token if dry_run is None else dry_run
    if out is not None and (not dry_run or out.exists()):
        reason = f"{out} is there already." if dry_run else "goes with --dry-run only."
        raise typer.BadParameter(reason, param_hint="--out")
    if dry_run:
        list_upload(folder, repo, out)
        return
    hub = HfApi()
    hub.create_repo(repo, private=private, exist_ok=True)
    message = message or f"Upload {folder.resolve().name}"
    commit = hub.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=list(IGNORED), commit_message=message)
    print(commit.commit_url)


def list_upload(folder: Path, repo: str, out: Path | None) -> None:
    """Prints what `upload_folder` would upload, and copies it to `out`."""
    from huggingface_hub.utils import filter_repo_objects

    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    names = list(filter_repo_objects(names, ignore_patterns=list(IGNORED)))
    if out is not None:
        with atomic_write(out) as unfinished:
            for name in names:
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / name, unfinished / name)
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in names}
    sizes["together"] = sum(sizes.values())
    rows = [{"file": name, "MB": f"{size:.2f}"} for name, size in sizes.items()]
    print_rows(rows, title=f"would go to {repo}; nothing was uploaded")


def save_checkpoint(checkpoint: str, folder: Path) -> None:
    """Saves a checkpoint as `save_pretrained` does, with its code, and an embedded one with its card."""
    from importlib.resources import files

    from ..checkpoints import DEFAULT_TASKS
    from .loading import MODELS, load_checkpoint

    if checkpoint not in DEFAULT_TASKS:
        raise typer.BadParameter(f"expected one of {', '.join(DEFAULT_TASKS)} with --to, got {checkpoint!r}.")
    if folder.exists():
        raise typer.BadParameter(f"{folder} is there already.", param_hint="--to")
    _, model, processor = load_checkpoint(None, "cpu", checkpoint)
    with atomic_write(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        card = files("butd_hf.hub_cards") / f"{checkpoint}.md"
        if card.is_file():
            (unfinished / "README.md").write_text(card.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{folder}: {MODELS[checkpoint][0]} with its processor and code")
