# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from butd_hf.commands import app
from butd_hf.metrics.question_answering import score_answers
from butd_hf.modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from butd_hf.modeling.processing_butd import ButdProcessor


runner = CliRunner()
QUESTIONS = (("how many dogs", ["2"]), ("what colour is the mat", ["red"]), ("what animals", ["dog", "cat"]))


@pytest.fixture
def data(tmp_path):
    """Three pictures with three questions each, two of them to evaluate on."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(3):
        name = f"{number}.png"
        Image.new("RGB", (70 + 8 * number, 64), (90 * number, 80, 200)).save(folder / "images" / name)
        for question, answers in QUESTIONS:
            split = "val" if number else "train"
            lines.append({"image": name, "question": question, "answers": answers, "split": split})
    (folder / "qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluate(*arguments, code=0):
    result = runner.invoke(app, ["evaluate", "vqa", "--no-wups", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_json_has_the_scores_of_the_predictions(tiny_oracle, data, tmp_path):
    file = tmp_path / "predictions.jsonl"
    options = ["--data", data, "--format", "daquar", "--split", "val", "--json", "--predictions", file]
    result = json.loads(evaluate("--model", tiny_oracle, *options).stdout)
    assert (result["num_questions"], result["num_images"], result["split"]) == (6, 2, "val")

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["question"] for line in lines] == [question for question, _ in QUESTIONS] * 2
    expected = score_answers([line["answer"] for line in lines], [line["references"] for line in lines], together=True)
    assert {name: result["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-3)
    assert {"accuracy_answer_type_number", "accuracy_answer_type_other"} <= set(result["metrics"])
    assert not any(name.startswith("accuracy_question_type") for name in result["metrics"])

    # what the command says is what the model says to one question about one picture
    model, processor = (
        ButdForQuestionAnswering.from_pretrained(tiny_oracle).eval(),
        ButdProcessor.from_pretrained(tiny_oracle),
    )
    picture = Image.open(data / "images" / lines[4]["image"])
    logits = model(**processor(images=[picture], text=[lines[4]["question"]], return_tensors="pt")).logits[0].detach()
    assert model.config.id2label[int(logits.argmax())] == lines[4]["answer"]
    assert float(logits.sigmoid().max()) == pytest.approx(lines[4]["score"], abs=2e-4)


def test_table(tiny_oracle, data):
    output = evaluate("--model", tiny_oracle, "--data", data, "--types").stdout
    assert "exact match" in output and "num questions 9" in output
    assert "answer type 'number'" in output and "question type 'how many'" in output


def test_unreadable_picture_is_named_and_the_rest_is_scored(tiny_oracle, data):
    (data / "images" / "1.png").write_bytes(b"nothing")
    result = evaluate("--model", tiny_oracle, "--data", data, "--json", code=1)
    assert "1.png" in result.stderr
    assert json.loads(result.stdout)["num_questions"] == 6


def test_answers_that_are_kept_back(tiny_oracle, data, tmp_path):
    questions = [{"image_id": 7, "question": "what is it?", "question_id": 1}]
    (data / "test_questions.json").write_text(json.dumps({"questions": questions, "data_subtype": "test2015"}))
    Image.new("RGB", (64, 64)).save(data / "images" / "COCO_test2015_000000000007.jpg")
    options = ["--model", tiny_oracle, "--data", data, "--format", "vqa2"]
    assert "nothing to score" in evaluate(*options, code=1).stderr
    evaluate(*options, "--predictions", tmp_path / "answers.jsonl")
    assert json.loads((tmp_path / "answers.jsonl").read_text())["question_id"] == "1"


def test_what_cannot_be_evaluated(tiny_checkpoint, data, tmp_path):
    assert "'train', 'val'" in " ".join(evaluate("--data", data, "--split", "dev", code=2).stderr.split())
    assert "No questions at" in evaluate("--data", tmp_path / "nothing", code=2).stderr
    assert "format must be" in evaluate("--data", data, "--format", "coco", code=2).stderr
    assert "expected a" in evaluate("--data", data, "--model", tiny_checkpoint, code=2).stderr
