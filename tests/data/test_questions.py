# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image

from butd_hf.data.data_errors import DataError
from butd_hf.data.questions import answered_rows, learnable_rows, load_questions


def write_image(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file)


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def daquar(tmp_path):
    for name in ("1.png", "2.png"):
        write_image(tmp_path / "images" / name)
    lines = [
        {"image": "1.png", "question": "what is on\u2028the  table", "answers": ["books", "lamp"], "split": "train"},
        {"image": "1.png", "question": "how many lamps are there", "answers": ["2"], "split": "train"},
        {"image": "2.png", "question": "what is left of the door", "answers": ["garbage_bin"], "split": "val"},
    ]
    write(tmp_path / "qa.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def vqa2(tmp_path):
    write_image(tmp_path / "images" / "val2014" / "COCO_val2014_000000000042.jpg")
    asked = [{"image_id": 42, "question": "What color is it?", "question_id": 42000}]
    write(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked, "data_subtype": "val2014"})
    answered = {
        "question_id": 42000,
        "image_id": 42,
        "question_type": "what color is",
        "answer_type": "other",
        "multiple_choice_answer": "red",
        "answers": [{"answer": "red" if index < 7 else "dark red", "answer_id": index} for index in range(10)],
    }
    write(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [answered]})
    return tmp_path


def test_daquar_answers_are_right_together(daquar):
    table = load_questions(daquar)
    assert len(table) == 3 and all(table["together"])
    assert table[0]["question"] == "what is on the table"
    assert table[0]["answers"] == ["books", "lamp"] and table[0]["image_id"] == "1.png"
    assert table[0]["image"] == str(daquar / "images" / "1.png")
    assert list(table["answer_type"]) == ["other", "number", "other"]
    assert table[1]["question_type"] == "how many"
    assert list(load_questions(daquar, split="val")["question_id"]) == ["3"]


def test_vqa2_joins_questions_with_annotations(vqa2):
    row = load_questions(vqa2)[0]
    assert row["image"].endswith("COCO_val2014_000000000042.jpg")
    assert (row["image_id"], row["question_id"], row["split"]) == ("42", "42000", "val")
    assert row["answers"].count("red") == 7 and len(row["answers"]) == 10 and not row["together"]
    assert (row["question_type"], row["answer_type"]) == ("what color is", "other")


def test_vqa2_without_annotations(vqa2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("test-dev")
    write_image(folder / "images" / "test2015" / "COCO_test2015_000000000042.jpg")
    asked = [{"image_id": 42, "question": "What is it?", "question_id": 42000}]
    name = "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    write(folder / name, {"questions": asked, "data_subtype": "test-dev2015"})
    row = load_questions(folder)[0]
    assert row["answers"] == [] and row["image"].endswith("COCO_test2015_000000000042.jpg")
    write(vqa2 / "v2_mscoco_val2014_annotations.json", {"annotations": []})
    with pytest.raises(DataError, match=r"questions\[0\]: question 42000 has no annotation"):
        load_questions(vqa2)


def test_gqa(tmp_path):
    write_image(tmp_path / "images" / "2370799.jpg")
    entry = {"question": "Is it red?", "imageId": "2370799", "answer": "no", "types": {"structural": "verify"}}
    write(tmp_path / "val_balanced_questions.json", {"05515938": entry})
    row = load_questions(tmp_path)[0]
    assert (row["question_id"], row["answers"], row["split"]) == ("05515938", ["no"], "val")
    assert (row["question_type"], row["answer_type"]) == ("verify", "yes/no")


def test_easy_vqa_splits_are_folders(tmp_path):
    for split in ("train", "test"):
        write_image(tmp_path / split / "images" / "0.png")
        write(tmp_path / split / "questions.json", [["what shape is it?", f"circle {split}", 0]])
    table = load_questions(tmp_path)
    assert list(table["split"]) == ["train", "test"]
    assert list(table["image_id"]) == ["train-0", "test-0"]
    assert load_questions(tmp_path, split="test")[0]["answers"] == ["circle test"]


def test_format_can_be_named(daquar, vqa2):
    assert len(load_questions(daquar, format="daquar")) == 3
    assert len(load_questions(daquar, format="vqa2")) == 1
    with pytest.raises(DataError, match="format must be"):
        load_questions(daquar, format="coco")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"image": "1.png", "question": 3, "answers": ["a"]}', "'question' must be str, got 3"),
        ('{"image": "1.png", "question": "a", "answers": "b"}', "'answers' must be a list of texts, got 'b'"),
        ('{"image": "1.png", "question": "a", "answers": [" "]}', "'answers' must be a list of texts"),
        ('{"image": "9.png", "question": "a", "answers": ["b"]}', "1 of 1 image files are missing"),
        ("3", "expected an object with 'image', got 3"),
        ("", "nothing in it, expected"),
    ],
)
def test_broken_lines_are_named(daquar, content, message):
    write(daquar / "qa.jsonl", content)
    with pytest.raises(DataError, match=message):
        load_questions(daquar)


@pytest.mark.parametrize(
    "content", ['{"questions": [{}]}', '{"1": {"question": "a"}}', '[{"id": 1}]', "[[1]]", "[]", "3"]
)
def test_broken_documents_say_what_was_expected(tmp_path, content):
    write(tmp_path / "questions.json", content)
    with pytest.raises(DataError, match=r"expected|no 'imageId'"):
        load_questions(tmp_path / "questions.json")


def test_what_is_not_there(daquar):
    with pytest.raises(DataError, match=r"no split 'test', there are \['train', 'val'\]"):
        load_questions(daquar, split="test")
    with pytest.raises(FileNotFoundError, match="No questions at"):
        load_questions(daquar / "nowhere")


def test_rows_to_train_on(daquar, caplog):
    table = load_questions(daquar)
    assert answered_rows(table, "train", "daquar", limit=1)["question_id"] == ["1"]
    with pytest.raises(ValueError, match=r"no split 'test', but \['train', 'val'\]"):
        answered_rows(table, "test", "daquar", limit=0)
    assert learnable_rows(table, ["2", "lamp"], strict=False)["question_id"] == ["1", "2"]
    assert "1 questions with no answer that the model knows, left out: question 3: ['garbage_bin']" in caplog.text
    with pytest.raises(DataError, match=r"question 3: \['garbage_bin'\]: questions with no answer"):
        learnable_rows(table, ["2", "lamp"], strict=True)
