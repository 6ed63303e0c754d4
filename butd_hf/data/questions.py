# SPDX-License-Identifier: Apache-2.0
"""Question answering data sets: five file layouts, one table of questions, their images and their answers."""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from .answers import answer_kind
from .flaws import require_files


QUESTION_FEATURES = Features(
    {
        "image": Value("string"),
        "image_id": Value("string"),
        "question_id": Value("string"),
        "question": Value("string"),
        "answers": List(Value("string")),
        "together": Value("bool"),
        "question_type": Value("string"),
        "answer_type": Value("string"),
        "split": Value("string"),
    }
)

EXPECTED = (
    'DAQUAR lines of {"image", "question", "answers", "split"}, VQA v2 questions {"questions"} with their annotations '
    "beside them, GQA's {id: {question, imageId, answer}}, Visual Genome's [{qas}] or easy-VQA's [[question, answer, "
    "image]]"
)
EASY_VQA = "easy-vqa"  # the package that carries its data
SPLITS = ("train", "val", "test")


class QuestionDataError(ValueError):
    """A questions file that cannot be used: the message names the place, what came and what was expected."""


def load_questions(
    path: str | Path,
    split: str | None = None,
    images: str | Path | None = None,
    format: str = "auto",
    require_images: bool = True,
) -> Dataset:
    """
    Reads questions about images, and their answers.

    Args:
        path: The questions file, or its folder; `easy-vqa` is the installed package of that name. In a folder,
            `daquar` is `qa.jsonl`, `vqa2` all `*questions.json` (with `*annotations.json`), `gqa` all
            `*questions.json`, `visual_genome` is `question_answers.json`, and `easy_vqa` is `train/questions.json` and
            `test/questions.json`.
        split: Keep only this split; all of them by default. VQA v2 and GQA name it in the file name, Visual Genome
            has none and is all `train`.
        images: Folder of the image files. By default `images/` beside the questions file, or else its own folder.
        format: One of `FORMATS`, or `auto` to recognise it from the content.
        require_images: Whether every image file must be there. Otherwise a warning names those that are missing.

    Returns:
        A table with the columns `image` (absolute path), `image_id`, `question_id`, `question`, `answers` (as they
        were given; none where a test part keeps them back), `together` (they are a set, right together, not what
        several people said), `question_type`, `answer_type` (`yes/no`, `number`, `other`) and `split`.

    Raises:
        QuestionDataError: The file is malformed, an image file is missing, or the split or format does not exist.
        FileNotFoundError: There is no questions file at `path`.
    """
    if format not in ("auto", *FORMATS):
        raise QuestionDataError(f"format must be 'auto' or one of {sorted(FORMATS)}, got {format!r}.")
    rows: list[dict[str, Any]] = []
    for file in question_files(path, format):
        name, content = read_file(file, format)
        folder = Path(images) if images is not None else file.parent / "images"
        if not folder.is_dir() and images is None:
            folder = file.parent
        try:
            found = list(FORMATS[name](file, content))
        except QuestionDataError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise QuestionDataError(
                f"{file}: not what {name} looks like ({type(error).__name__}: {error}), expected {EXPECTED}."
            ) from error
        resolve_images(found, folder)
        require_files((row["image"] for row in found), file, QuestionDataError, require_images)
        rows.extend(found)
    if not rows:
        raise QuestionDataError(f"{path}: no question in it, expected {EXPECTED}.")
    if split is not None:
        splits = sorted({row["split"] for row in rows})
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise QuestionDataError(f"{path}: no question in split {split!r}, there are {splits}.")
    columns = {name: [row[name] for row in rows] for name in QUESTION_FEATURES}
    return Dataset.from_dict(columns, features=QUESTION_FEATURES)


def question_files(path: str | Path, format: str) -> list[Path]:
    """The questions files at `path`, which is one of them, their folder or the name of the easy-VQA package."""
    if str(path) in (EASY_VQA, "easy_vqa") and not Path(path).exists():
        return question_files(easy_vqa_folder(), "easy_vqa")
    path = Path(path)
    if path.is_file():
        return [path]
    patterns = {
        "daquar": ("qa.jsonl",),
        "easy_vqa": ("train/questions.json", "test/questions.json"),
        "visual_genome": ("question_answers.json",),
        "vqa2": ("*questions.json",),
        "gqa": ("*questions.json",),
    }
    for names in patterns.values() if format == "auto" else [patterns[format]]:
        files = [file for name in names for file in sorted(path.glob(name))]
        if files:
            return files
    raise FileNotFoundError(f"No questions at {path}: expected a questions file or its folder, with {EXPECTED}.")


def easy_vqa_folder() -> Path:
    """The data of the installed easy-VQA package."""
    found = importlib.util.find_spec("easy_vqa")
    if found is None or found.origin is None:
        raise FileNotFoundError("easy-VQA is not installed: pip install easy-vqa, or pass the folder of its data.")
    return Path(found.origin).parent / "data"


def read_file(file: Path, format: str) -> tuple[str, Any]:
    """The format of a questions file and its content: a list of numbered lines for DAQUAR, or a JSON document."""
    text = file.read_text(encoding="utf-8")
    if format == "daquar" or (format == "auto" and file.suffix == ".jsonl"):
        return "daquar", [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise QuestionDataError(
            f"{file}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}), expected {EXPECTED}."
        ) from error
    if format != "auto":
        return format, content
    if isinstance(content, dict):
        return ("vqa2" if isinstance(content.get("questions"), list) else "gqa"), content
    if isinstance(content, list) and content:
        return ("visual_genome" if isinstance(content[0], dict) else "easy_vqa"), content
    raise QuestionDataError(f"{file}: found {type(content).__name__} {content!r:.60}, expected {EXPECTED}.")


def rows_of_daquar(file: Path, lines: list[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    """Rows of JSON Lines whose answers are right together; a line without `split` belongs to `train`."""
    for number, line in lines:
        place = f"{file}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise QuestionDataError(
                f"{place}: not JSON ({error.msg}, column {error.colno}): {line[:80]!r}."
            ) from error
        image = text_of(entry, "image", place)
        answers = entry.get("answers")
        if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
            raise QuestionDataError(f"{place}: 'answers' must be a list of texts, got {answers!r:.80}.")
        yield row_of(
            image=image,
            question_id=str(number),
            question=text_of(entry, "question", place),
            answers=answers,
            together=True,
            split=str(entry.get("split", "train")),
        )


def rows_of_vqa2(file: Path, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a VQA v2 (or v1) questions file; its annotations lie beside it, except for the test parts."""
    annotations = annotations_file(file)
    answered: dict[Any, dict[str, Any]] = {}
    if annotations is not None:
        try:
            answered = {
                each["question_id"]: each for each in json.loads(annotations.read_text("utf-8"))["annotations"]
            }
        except json.JSONDecodeError as error:
            raise QuestionDataError(f"{annotations}, line {error.lineno}: not JSON ({error.msg}).") from error
    subtype = str(document.get("data_subtype", ""))
    for number, entry in enumerate(document["questions"]):
        place = f"{file}, questions[{number}]"
        image_id, question_id = entry["image_id"], entry["question_id"]
        annotation = answered.get(question_id)
        if annotation is None and annotations is not None:
            raise QuestionDataError(f"{place}: question {question_id} has no annotation in {annotations}.")
        annotation = annotation or {"answers": []}
        padded = f"{int(image_id):012d}.jpg"
        yield row_of(
            image=[f"COCO_{subtype}_{padded}", f"{subtype}/COCO_{subtype}_{padded}", padded, f"{subtype}/{padded}"],
            image_id=str(image_id),
            question_id=str(question_id),
            question=text_of(entry, "question", place),
            answers=[text_of(answer, "answer", place) for answer in annotation["answers"]],
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
            image=f"{text_of(entry, 'imageId', place)}.jpg",
            image_id=entry["imageId"],
            question_id=str(question_id),
            question=text_of(entry, "question", place),
            answers=[text_of(entry, "answer", place)] if "answer" in entry else [],
            question_type=entry.get("types", {}).get("structural"),
            split=split_of(file.stem),
        )


def rows_of_visual_genome(file: Path, document: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of Visual Genome's `question_answers.json`, one answer each."""
    for number, image in enumerate(document):
        for entry in image["qas"]:
            place = f"{file}, [{number}].qas {entry.get('qa_id')}"
            name = f"{entry.get('image_id', image.get('id'))}.jpg"
            yield row_of(
                image=[name, f"VG_100K/{name}", f"VG_100K_2/{name}"],
                image_id=name.removesuffix(".jpg"),
                question_id=str(entry["qa_id"]),
                question=text_of(entry, "question", place),
                answers=[text_of(entry, "answer", place)],
                split="train",
            )


def rows_of_easy_vqa(file: Path, document: list[list[Any]]) -> Iterator[dict[str, Any]]:
    """Rows of an easy-VQA `questions.json`, whose folder names the split."""
    split = split_of(file.parent.name)
    for number, (question, answer, image) in enumerate(document):
        yield row_of(
            image=f"{image}.png",
            image_id=f"{split}-{image}",  # numbers begin anew in each split
            question_id=f"{split}-{number}",
            question=str(question),
            answers=[str(answer)],
            split=split,
        )


FORMATS: dict[str, Callable[[Path, Any], Iterable[dict[str, Any]]]] = {
    "daquar": rows_of_daquar,
    "vqa2": rows_of_vqa2,
    "gqa": rows_of_gqa,
    "visual_genome": rows_of_visual_genome,
    "easy_vqa": rows_of_easy_vqa,
}


def row_of(
    *,
    image: str | list[str],
    question_id: str,
    question: str,
    answers: list[str],
    split: str,
    image_id: str | None = None,
    together: bool = False,
    question_type: str | None = None,
    answer_type: str | None = None,
) -> dict[str, Any]:
    """A row of the table, with what can be told from the rest; `image` may be a list of places to look at."""
    return {
        "image": image,
        "image_id": image_id if image_id is not None else image,
        "question_id": question_id,
        "question": " ".join(question.split()),
        "answers": answers,
        "together": together,
        "question_type": question_type or " ".join(question.lower().split()[:2]),
        "answer_type": answer_type or answer_kind(answers),
        "split": split,
    }


def text_of(entry: Any, name: str, place: str) -> str:
    """The text `entry[name]`, checked to be one."""
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, str):
        found = f"{name!r} is {value!r:.60}" if isinstance(entry, dict) else f"got {entry!r:.80}"
        raise QuestionDataError(f"{place}: expected an object with a text {name!r}, {found}.")
    return value


def split_of(name: str) -> str:
    """The split that a file is named for, `train` if it is for none."""
    return next((split for split in SPLITS if split in name.lower()), "train")


def resolve_images(rows: list[dict[str, Any]], folder: Path) -> None:
    """Makes image paths absolute. Of several places, it is the first where the file is, or the first of all."""
    folder = folder.resolve()
    found: dict[str, str] = {}
    for row in rows:
        candidates = row["image"] if isinstance(row["image"], list) else [row["image"]]
        if candidates[0] not in found:
            paths = [folder / candidate for candidate in candidates]
            found[candidates[0]] = str(next((path for path in paths if path.is_file()), paths[0]))
        row["image"] = found[candidates[0]]


__all__ = ["FORMATS", "QuestionDataError", "load_questions"]
