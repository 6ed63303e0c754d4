# SPDX-License-Identifier: Apache-2.0
"""Question answering data sets: four file layouts, one table of questions, their images and their answers."""

import importlib.util
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from .answers import answer_kind, answer_scores
from .data_errors import DataError, ErrorCounter, require_files
from .json_files import field, read_json, read_json_lines
from .splits import rows_of_split, select_split, split_of


TEXTS = ("image", "image_id", "question_id", "question", "question_type", "answer_type", "split")
QUESTION_FEATURES = Features(
    {**dict.fromkeys(TEXTS, Value("string")), "answers": List(Value("string")), "together": Value("bool")}
)

EXPECTED = (
    'DAQUAR lines of {"image", "question", "answers", "split"}, VQA v2 questions {"questions"} with their annotations '
    "beside them, GQA's {id: {question, imageId, answer}} or easy-VQA's [[question, answer, image]]"
)
EASY_VQA = "easy-vqa"  # the package that carries its data
PATTERNS = {  # what a folder is recognised by, in this order
    "daquar": ("qa.jsonl",),
    "easy_vqa": ("train/questions.json", "test/questions.json"),
    "vqa2": ("*questions.json",),
    "gqa": ("*questions.json",),
}


def load_questions(
    path: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    format: str = "auto",
    require_images: bool = True,
) -> Dataset:
    """Reads questions about images, and their answers.

    Args:
        path: The questions file, or its folder; `easy-vqa` is the installed package of that name. In a folder,
            `daquar` is `qa.jsonl`, `vqa2` all `*questions.json` (with `*annotations.json`), `gqa` all
            `*questions.json`, and `easy_vqa` is `train/questions.json` and `test/questions.json`.
        split: Keep only this split; all of them by default. VQA v2 and GQA name it in the file name.
        images: Folder of the image files. By default `images/` beside the questions file, or else its own folder.
        format: One of `FORMATS`, or `auto` to recognise it from the content.
        require_images: Whether every image file must exist. Otherwise a warning names those that are missing.

    Returns:
        A table with the columns `image` (absolute path), `image_id`, `question_id`, `question`, `answers` (as they
        were given; none where a test part has none), `together` (they are a set, right together, not what
        several people said), `question_type`, `answer_type` (`yes/no`, `number`, `other`) and `split`.

    Raises:
        DataError: The file is malformed, an image file is missing, or the split or format does not exist.
        FileNotFoundError: There is no questions file at `path`.
    """
    if format not in ("auto", *FORMATS):
        raise DataError(f"format must be 'auto' or one of {sorted(FORMATS)}, got {format!r}.")
    rows: list[dict[str, Any]] = []
    for file in question_files(path, format):
        lines = format == "daquar" or (format == "auto" and file.suffix == ".jsonl")
        content = None if lines else read_json(file, EXPECTED)
        name = "daquar" if lines else format_of(file, content) if format == "auto" else format
        folder = Path(images) if images is not None else file.parent / "images"
        if not folder.is_dir() and images is None:
            folder = file.parent
        try:
            found = list(FORMATS[name](file, content))
        except DataError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{file}: not what {name} looks like ({type(error).__name__}: {error}), expected {EXPECTED}."
            ) from error
        find_images(found, folder)
        require_files((row["image"] for row in found), file, require_images)
        rows.extend(found)
    return Dataset.from_list(select_split(rows, split, path, EXPECTED), features=QUESTION_FEATURES)


def answered_rows(table: Dataset, split: str | None, source: str, limit: int) -> Dataset:
    """The first questions of a split that have answers. Raises `ValueError` if there are none."""
    answered = table.select([row for row, answers in enumerate(table["answers"]) if len(answers) > 0])
    return rows_of_split(answered, split, f"{source} (questions with answers)", limit)


def learnable_rows(table: Dataset, known: Collection[str], strict: bool) -> Dataset:
    """The questions with an answer that the model has: a cross-entropy learns nothing from the others.

    Raises:
        DataError: With `strict`, for the first of the others.
    """
    errors, known, rows = ErrorCounter(strict), set(known), []
    columns = (table[name] for name in ("question_id", "answers", "together"))
    for row, (question_id, answers, together) in enumerate(zip(*columns, strict=True)):
        if known.isdisjoint(answer_scores(answers, together=together)):
            errors.count("questions with no answer that the model knows", f"question {question_id}: {answers[:3]}")
        else:
            rows.append(row)
    errors.log()
    return table.select(rows)


def question_files(path: str | Path, format: str) -> list[Path]:
    """The questions files at `path`, which is one of them, their folder or the name of the easy-VQA package."""
    if str(path) in (EASY_VQA, "easy_vqa") and not Path(path).exists():
        found = importlib.util.find_spec("easy_vqa")
        if found is None or found.origin is None:
            raise FileNotFoundError("easy-VQA is not installed: pip install easy-vqa, or pass the folder of its data.")
        return question_files(Path(found.origin).parent / "data", "easy_vqa")
    path = Path(path)
    if path.is_file():
        return [path]
    for names in PATTERNS.values() if format == "auto" else [PATTERNS[format]]:
        files = [file for name in names for file in sorted(path.glob(name))]
        if files:
            return files
    raise FileNotFoundError(f"No questions at {path}: expected a questions file or its folder, with {EXPECTED}.")


def format_of(file: Path, content: Any) -> str:
    """The format of a JSON document."""
    if isinstance(content, dict):
        return "vqa2" if isinstance(content.get("questions"), list) else "gqa"
    if isinstance(content, list) and content:
        return "easy_vqa"
    raise DataError(f"{file}: found {type(content).__name__} {content!r:.60}, expected {EXPECTED}.")


def rows_of_daquar(file: Path, _: None) -> Iterator[dict[str, Any]]:
    """Rows of JSON Lines whose answers are right together; a line without `split` belongs to `train`."""
    for place, entry in read_json_lines(file):
        image = field(entry, "image", str, place)
        answers = entry.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise DataError(f"{place}: 'answers' must be a list of texts, got {answers!r:.80}.")
        yield row_of(
            image=image,
            question_id=place.rpartition(" ")[2],  # the number of the line
            question=field(entry, "question", str, place),
            answers=answers,
            together=True,
            split=str(entry.get("split", "train")),
        )


def rows_of_vqa2(file: Path, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a VQA v2 (or v1) questions file; its annotations lie beside it, except for the test parts."""
    annotations = annotations_file(file)
    answered: dict[Any, dict[str, Any]] = {}
    if annotations is not None:
        answered = {each["question_id"]: each for each in read_json(annotations, "VQA annotations")["annotations"]}
    subtype = str(document.get("data_subtype", ""))
    images = subtype.replace("-dev", "")  # the questions of test-dev2015 are about images of test2015
    for number, entry in enumerate(document["questions"]):
        place = f"{file}, questions[{number}]"
        image_id, question_id = entry["image_id"], entry["question_id"]
        annotation = answered.get(question_id)
        if annotation is None and annotations is not None:
            raise DataError(f"{place}: question {question_id} has no annotation in {annotations}.")
        annotation = annotation or {"answers": []}
        padded = f"{int(image_id):012d}.jpg"
        yield row_of(
            image=[f"COCO_{images}_{padded}", f"{images}/COCO_{images}_{padded}", padded, f"{images}/{padded}"],
            image_id=str(image_id),
            question_id=str(question_id),
            question=field(entry, "question", str, place),
            answers=[field(answer, "answer", str, place) for answer in annotation["answers"]],
            question_type=annotation.get("question_type"),
            answer_type=annotation.get("answer_type"),
            split=split_of(subtype or file.stem),
        )


def annotations_file(file: Path) -> Path | None:
    """The annotations that belong to a VQA questions file: `v2_mscoco_train2014_annotations.json`, if it is there."""
    name = file.name.replace("questions", "annotations")
    for candidate in (name.replace("OpenEnded_", ""), name):
        annotations = file.with_name(candidate)
        if annotations.is_file() and annotations != file:
            return annotations
    return None


def rows_of_gqa(file: Path, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a GQA questions file, one answer each; the structural type (`query`, `verify`, ...) is the type."""
    for question_id, entry in document.items():
        place = f"{file}, question {question_id}"
        yield row_of(
            image=f"{field(entry, 'imageId', str, place)}.jpg",
            image_id=entry["imageId"],
            question_id=str(question_id),
            question=field(entry, "question", str, place),
            answers=[field(entry, "answer", str, place)] if "answer" in entry else [],
            question_type=entry.get("types", {}).get("structural"),
            split=split_of(file.stem),
        )


def rows_of_easy_vqa(file: Path, document: list[list[Any]]) -> Iterator[dict[str, Any]]:
    """Rows of an easy-VQA `questions.json`, whose folder names the split."""
    split = split_of(file.parent.name)
    for number, (question, answer, image) in enumerate(document):
        yield row_of(
            image=f"{image}.png",
            image_id=f"{split}-{image}",  # numbers start from 0 in each split
            question_id=f"{split}-{number}",
            question=str(question),
            answers=[str(answer)],
            split=split,
        )


FORMATS: dict[str, Callable[[Path, Any], Iterable[dict[str, Any]]]] = {
    "daquar": rows_of_daquar,
    "vqa2": rows_of_vqa2,
    "gqa": rows_of_gqa,
    "easy_vqa": rows_of_easy_vqa,
}


def row_of(*, question: str, answers: list[str], **columns: Any) -> dict[str, Any]:
    """A row of the table, with defaults of its other columns; `image` may be a list of candidate paths."""
    row = {"image_id": columns["image"], "together": False, **columns}
    row["question"], row["answers"] = " ".join(question.split()), answers
    row["question_type"] = row.get("question_type") or " ".join(question.lower().split()[:2])
    row["answer_type"] = row.get("answer_type") or answer_kind(answers)
    return {name: row[name] for name in QUESTION_FEATURES}


def find_images(rows: list[dict[str, Any]], folder: Path) -> None:
    """Makes image paths absolute. Of several candidates, it is the first that exists, or the first of all."""
    folder = folder.resolve()
    found: dict[str, str] = {}
    for row in rows:
        candidates = row["image"] if isinstance(row["image"], list) else [row["image"]]
        if candidates[0] not in found:
            paths = [folder / candidate for candidate in candidates]
            found[candidates[0]] = str(next((path for path in paths if path.is_file()), paths[0]))
        row["image"] = found[candidates[0]]


__all__ = ["FORMATS", "answered_rows", "learnable_rows", "load_questions"]
