# SPDX-License-Identifier: Apache-2.0
"""Caption data sets: four common file layouts, one table of images and their captions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from .data_errors import DataError, ErrorCounter, require_files
from .json_files import field, read_json, read_json_lines
from .splits import select_split, split_of


TEXT = Value("string")
CAPTION_FEATURES = Features({"image": TEXT, "image_id": TEXT, "captions": List(TEXT), "split": TEXT})

EXPECTED = (
    'JSON Lines of {"image", "split", "captions"}, an imagefolder\'s metadata.jsonl of {"file_name", "text"}, '
    'COCO captions {"images", "annotations"} or Karpathy splits {"images": [{"filename", "split", "sentences"}]}'
)

CAPTIONS_FILE = "captions.jsonl"
METADATA_FILE = "metadata.jsonl"  # of an `imagefolder` of the library `datasets`
CAPTION_COLUMNS = ("captions", "text", "caption")  # the first that is there counts; a string or several


def load_captions(
    path: str | Path, split: str | None = None, images: str | Path | None = None, require_images: bool = True
) -> Dataset:
    """Reads images and their captions.

    The layout is recognised from the content: JSON Lines (`{"image", "split", "captions"}` per line), COCO captions
    JSON, or Karpathy-split JSON (whose `restval` counts as `train`). A folder with `metadata.jsonl` is an
    `imagefolder` as the library `datasets` knows it: images beside the file, or in a folder per split with a file
    each; `{"file_name", "text"}` per line, where `caption` or `captions` do as well and `split` is optional. Images
    without a caption are left out; the log counts and names them.

    Args:
        path: The captions file, or a folder that holds `captions.jsonl` or is an `imagefolder`.
        split: Keep only this split; all of them by default.
        images: Folder of the image files. By default `images/` beside the captions file.
        require_images: Whether every image file must exist. Otherwise a warning names those that are missing.

    Returns:
        A table with the columns `image` (absolute path), `image_id`, `captions` (at least one per image) and `split`.

    Raises:
        DataError: The file is malformed, an image file is missing, or the split does not exist.
        FileNotFoundError: There is no captions file at `path`, or no images folder.
    """
    file = captions_file(Path(path))
    folder = images_folder(file) if images is None else Path(images)
    if not folder.is_dir():
        raise FileNotFoundError(f"No images folder at {folder}: pass the folder that holds the image files.")

    if file.name == METADATA_FILE:
        found = (
            row
            for metadata, name in metadata_files(file.parent).items()
            for row in rows_of_lines(metadata, "file_name", name or "train", metadata.parent.relative_to(file.parent))
        )
    else:
        found = rows_of_file(file)
    errors, rows = ErrorCounter(), []
    for place, row in found:
        row["captions"] = [" ".join(caption.split()) for caption in row["captions"] if caption.strip()]
        if row["captions"]:
            rows.append(row)
        else:
            errors.count("images without a caption", place)
    rows = select_split(rows, split, file, EXPECTED)
    errors.log()

    folder = folder.resolve()
    for row in rows:
        row["image"] = str(folder / row["image"])
    require_files((row["image"] for row in rows), file, require_images)
    return Dataset.from_list(rows, features=CAPTION_FEATURES)


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
    """The default folder of the images of a captions file."""
    return file.parent if file.name == METADATA_FILE else file.parent / "images"


def metadata_files(folder: Path) -> dict[Path, str | None]:
    """The metadata files of an `imagefolder`, and the split that the folder of each is named after, if it is one."""
    if (folder / METADATA_FILE).is_file():
        return {folder / METADATA_FILE: None}
    return {file: file.parent.name for file in sorted(folder.glob(f"*/{METADATA_FILE}"))}


def rows_of_file(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and row of each image of a captions file; `image` is relative to the images folder."""
    with open(file, encoding="utf-8-sig") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        opening = json.loads(first)
    except json.JSONDecodeError:
        opening = None  # one document over several lines, or damaged: the suffix decides how that is reported
    by_line = isinstance(opening, dict) and "images" not in opening
    if by_line or (opening is None and file.suffix == ".jsonl"):
        yield from rows_of_lines(file, "image", "train", Path())
        return

    document = read_json(file, EXPECTED)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        found = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise DataError(f"{file}: found {found}, expected {EXPECTED}.")
    yield from (rows_of_coco if "annotations" in document else rows_of_karpathy)(file, document)


def rows_of_lines(file: Path, image_column: str, split: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a JSON Lines file; a line without `split` belongs to the one given, images are relative to `folder`."""
    for place, entry in read_json_lines(file):
        image = (folder / field(entry, image_column, str, place)).as_posix()
        default = "captions" if image_column == "image" else "text"  # what a message expects where there is none
        column = next((name for name in CAPTION_COLUMNS if name in entry), default)
        captions = field(entry, column, (list, str), place)
        yield place, row_of(image, entry.get("image_id", image), captions, entry.get("split", split), place)


def rows_of_coco(file: Path, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a COCO captions file. Its split is named by the file, as in `captions_val2017.json`."""
    captions: dict[str, list[str]] = {}
    for number, annotation in enumerate(field(document, "annotations", list, str(file))):
        place = f"{file}, annotations[{number}]"
        image_id = str(field(annotation, "image_id", (int, str), place))
        captions.setdefault(image_id, []).append(field(annotation, "caption", str, place))
    for number, image in enumerate(document["images"]):
        place = f"{file}, images[{number}]"
        image_id = str(field(image, "id", (int, str), place))
        described = captions.pop(image_id, None)
        if described is not None:  # COCO lists images without captions, too
            name = field(image, "file_name", str, place)
            yield place, row_of(name, image_id, described, image.get("split", split_of(file.stem)), place)
    if captions:
        raise DataError(
            f"{file}: {len(captions)} annotated image ids are not in `images`, the first is {next(iter(captions))!r}."
        )


def rows_of_karpathy(file: Path, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Karpathy-split file (`dataset_coco.json`, `dataset_flickr8k.json`, ...)."""
    for number, image in enumerate(document["images"]):
        place = f"{file}, images[{number}]"
        filename, split = field(image, "filename", str, place), field(image, "split", str, place)
        sentences = field(image, "sentences", list, place)
        captions = [field(sentence, "raw", str, f"{place}.sentences") for sentence in sentences]
        name = Path(image.get("filepath", ""), filename).as_posix()
        image_id = image.get("cocoid", image.get("imgid", filename))
        yield place, row_of(name, image_id, captions, "train" if split == "restval" else split, place)


def row_of(image: str, image_id: Any, captions: str | list[Any], split: Any, place: str) -> dict[str, Any]:
    """A row of the table. Raises `DataError` if a caption is not a string."""
    captions = [captions] if isinstance(captions, str) else captions
    for caption in captions:
        if not isinstance(caption, str):
            raise DataError(f"{place}: a caption must be a string, got {caption!r:.80}.")
    return {"image": image, "image_id": str(image_id), "captions": captions, "split": str(split)}


__all__ = ["captions_file", "images_folder", "load_captions", "metadata_files"]
