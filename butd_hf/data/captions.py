# SPDX-License-Identifier: Apache-2.0
"""Caption data sets: three common file layouts, one table of images and their captions."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from .flaws import require_files


CAPTION_FEATURES = Features(
    {
        "image": Value("string"),
        "image_id": Value("string"),
        "captions": List(Value("string")),
        "split": Value("string"),
    }
)

EXPECTED = (
    'JSON Lines of {"image", "split", "captions"}, an imagefolder\'s metadata.jsonl of {"file_name", "text"}, '
    'COCO captions {"images", "annotations"} or Karpathy splits {"images": [{"filename", "split", "sentences"}]}'
)

CAPTIONS_FILE = "captions.jsonl"
METADATA_FILE = "metadata.jsonl"  # of an `imagefolder` of the library `datasets`
CAPTION_COLUMNS = ("captions", "text", "caption")  # of it, the first that is there; a string or several


class CaptionDataError(ValueError):
    """A captions file that cannot be used: the message names the place, what came and what was expected."""


def load_captions(
    path: str | Path, split: str | None = None, images: str | Path | None = None, require_images: bool = True
) -> Dataset:
    """
    Reads images and their captions.

    The layout is recognised from the content: JSON Lines (`{"image", "split", "captions"}` per line), COCO captions
    JSON, or Karpathy-split JSON (whose `restval` counts as `train`). A folder with `metadata.jsonl` is an
    `imagefolder` as the library `datasets` knows it: pictures beside the file, or in a folder per split with a file
    each; `{"file_name", "text"}` per line, where `caption` or `captions` do as well and `split` is optional.

    Args:
        path: The captions file, or a folder that holds `captions.jsonl` or is an `imagefolder`.
        split: Keep only this split; all of them by default.
        images: Folder of the image files. By default `images/` beside the captions file.
        require_images: Whether every image file must be there. Otherwise a warning names those that are missing.

    Returns:
        A table with the columns `image` (absolute path), `image_id`, `captions` (at least one per image) and `split`.

    Raises:
        CaptionDataError: The file is malformed, an image file is missing, or the split does not exist.
        FileNotFoundError: There is no captions file at `path`, or no images folder.
    """
    file = captions_file(Path(path))
    folder = images_folder(file) if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"No images folder at {folder}: pass the folder that holds the image files.")

    rows = rows_of_imagefolder(Path(path)) if file.name == METADATA_FILE else read_rows(file)
    if not rows:
        raise CaptionDataError(f"{file}: no image with captions in it, expected {EXPECTED}.")
    if split is not None:
        splits = sorted({row["split"] for row in rows})
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise CaptionDataError(f"{file}: no image in split {split!r}, the file has {splits}.")

    folder = folder.resolve()
    for row in rows:
        row["image"] = str(folder / row["image"])
    require_files((row["image"] for row in rows), file, CaptionDataError, require_images)
    columns = {name: [row[name] for row in rows] for name in CAPTION_FEATURES}
    return Dataset.from_dict(columns, features=CAPTION_FEATURES)


def captions_file(path: Path) -> Path:
    """The captions file at `path`: that file, or what a folder holds; of an `imagefolder` a `metadata.jsonl`."""
    file = path
    if path.is_dir():
        file = path / CAPTIONS_FILE
        if not file.is_file() and metadata_files(path):
            return path / METADATA_FILE
    if not file.is_file():
        in_folder = f"a folder that holds captions.jsonl or {METADATA_FILE}"
        wanted = in_folder if path.is_dir() else "a captions file or a folder"
        raise FileNotFoundError(f"No captions at {file}: expected {wanted}, with {EXPECTED}.")
    return file


def images_folder(file: Path) -> Path:
    """Where the images of a captions file are, unless told otherwise."""
    return file.parent if file.name == METADATA_FILE else file.parent / "images"


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """The metadata files of an `imagefolder`, and the split that the folder of each is named after, if it is one."""
    if (folder / METADATA_FILE).is_file():
        return {folder / METADATA_FILE: None}
    return {file: file.parent.name for file in sorted(folder.glob(f"*/{METADATA_FILE}"))}


def rows_of_imagefolder(path: Path) -> list[dict[str, Any]]:
    """Rows of an `imagefolder`, or of its metadata file. A line without `split` is of its folder's, or of `train`."""
    folder = path if path.is_dir() else path.parent
    rows = []
    for file, split in metadata_files(folder).items():
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            place = f"{file}, line {number}"
            entry = parse_line(line, place)
            image = (file.parent / field(entry, "file_name", str, place)).relative_to(folder).as_posix()
            column = next((name for name in CAPTION_COLUMNS if name in entry), CAPTION_COLUMNS[1])
            captions = field(entry, column, (str, list), place)
            rows.append(
                {
                    "image": image,
                    "image_id": str(entry.get("image_id", image)),
                    "captions": clean_captions([captions] if isinstance(captions, str) else captions, place),
                    "split": str(entry.get("split", split or "train")),
                }
            )
    return rows


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of `image` (relative to the images folder), `image_id`, `captions` and `split` of a captions file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next((line for line in lines if line.strip()), "")
    try:
        opening = json.loads(first)
    except json.JSONDecodeError:
        opening = None  # one document over several lines, or broken: the suffix says how to report it
    by_line = isinstance(opening, dict) and "images" not in opening
    if by_line or (opening is None and file.suffix == ".jsonl"):
        return rows_of_lines(file, lines)

    try:
        document = json.loads("\n".join(lines))
    except json.JSONDecodeError as error:
        raise CaptionDataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}), expected {EXPECTED}."
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        found = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise CaptionDataError(f"{file}: found {found}, expected {EXPECTED}.")
    if "annotations" in document:
        return rows_of_coco(file, document)
    return rows_of_karpathy(file, document)


def parse_line(line: str, place: str) -> Any:
    """What a line of JSON Lines says."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise CaptionDataError(f"{place}: not JSON ({error.msg}, column {error.colno}): {line[:80]!r}.") from error


def rows_of_lines(file: Path, lines: list[str]) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file; a line without `split` belongs to `train`."""
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        entry = parse_line(line, place)
        image = field(entry, "image", str, place)
        rows.append(
            {
                "image": image,
                "image_id": str(entry.get("image_id", image)),
                "captions": clean_captions(field(entry, "captions", list, place), place),
                "split": str(entry.get("split", "train")),
            }
        )
    return rows


def rows_of_coco(file: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a COCO captions file. Its split is named by the file, as in `captions_val2017.json`."""
    captions: dict[Any, list[str]] = {}
    for number, annotation in enumerate(field(document, "annotations", list, str(file))):
        place = f"{file}, annotations[{number}]"
        image_id = field(annotation, "image_id", (int, str), place)
        captions.setdefault(image_id, []).append(field(annotation, "caption", str, place))
    of_file = next((name for name in ("train", "val", "test") if name in file.stem), "train")
    rows = []
    for number, image in enumerate(document["images"]):
        place = f"{file}, images[{number}]"
        image_id = field(image, "id", (int, str), place)
        if image_id not in captions:  # COCO lists images that nobody described
            continue
        rows.append(
            {
                "image": field(image, "file_name", str, place),
                "image_id": str(image_id),
                "captions": clean_captions(captions.pop(image_id), place),
                "split": str(image.get("split", of_file)),
            }
        )
    if captions:
        raise CaptionDataError(
            f"{file}: {len(captions)} annotated image ids are not in `images`, the first is {next(iter(captions))!r}."
        )
    return rows


def rows_of_karpathy(file: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a Karpathy-split file (`dataset_coco.json`, `dataset_flickr8k.json`, ...)."""
    rows = []
    for number, image in enumerate(document["images"]):
        place = f"{file}, images[{number}]"
        filename = field(image, "filename", str, place)
        split = field(image, "split", str, place)
        sentences = field(image, "sentences", list, place)
        raw = [field(sentence, "raw", str, f"{place}.sentences") for sentence in sentences]
        rows.append(
            {
                "image": str(Path(image.get("filepath", ""), filename)),
                "image_id": str(image.get("cocoid", image.get("imgid", filename))),
                "captions": clean_captions(raw, place),
                "split": "train" if split == "restval" else split,
            }
        )
    return rows


def field(entry: Any, name: str, kind: type | tuple[type, ...], place: str) -> Any:
    """The value `entry[name]`, checked to be there and of the kind."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(each.__name__ for each in kinds)
    if not isinstance(entry, dict):
        raise CaptionDataError(f"{place}: expected an object with {name!r}, got {entry!r:.80}.")
    if name not in entry:
        raise CaptionDataError(f"{place}: no {name!r} ({expected}) among {sorted(entry)}.")
    if not isinstance(entry[name], kinds):
        raise CaptionDataError(f"{place}: {name!r} must be {expected}, got {entry[name]!r:.80}.")
    return entry[name]


def clean_captions(captions: list[Any], place: str) -> list[str]:
    """The captions without surrounding white space; at least one non-empty string is required."""
    for caption in captions:
        if not isinstance(caption, str):
            raise CaptionDataError(f"{place}: a caption must be a string, got {caption!r:.80}.")
    cleaned = [" ".join(caption.split()) for caption in captions]
    cleaned = [caption for caption in cleaned if caption]
    if not cleaned:
        raise CaptionDataError(f"{place}: expected at least one caption, got {captions!r:.80}.")
    return cleaned
