# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
from PIL import Image

import butd_hf
from butd_hf.metrics import CaptionMetrics
from butd_hf.metrics.question_answering import score_answers


QUESTIONS = (("how many dogs", ["2"]), ("what colour is the mat", ["red"]), ("what animals", ["dog", "cat"]))


@pytest.fixture
def images(tmp_path):
    """Four images of different sizes, the first two of them to train on."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        image = Image.new("RGB", (70 + 8 * number, 64), (60 * number, 80, 200))
        image.save(folder / "images" / f"{number}.png")
    return folder


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def captions(images):
    rows = []
    for number in range(4):
        texts = [f"a dog runs on grass {number}", "two dogs play in the water"]
        split = "train" if number < 2 else "dev"
        rows.append({"image": f"{number}.png", "split": split, "captions": texts})
    write_lines(images / "captions.jsonl", rows)
    return images


@pytest.fixture
def questions(images):
    rows = []
    for number in range(4):
        split = "train" if number < 2 else "val"
        for question, answers in QUESTIONS:
            rows.append({"image": f"{number}.png", "question": question, "answers": answers, "split": split})
    write_lines(images / "qa.jsonl", rows)
    return images


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_captions(call, tiny_checkpoint, captions, tmp_path):
    file = tmp_path / "new" / "predictions.jsonl"
    arguments = ["evaluate", "captioning", "--no-meteor", "--data", captions, "--model", tiny_checkpoint]
    options = ["--split", "dev", "--json", "--predictions", file, "--batch-size", 1]
    result = json.loads(call(*arguments, *options).stdout)
    assert (result["split"], result["num_images"], result["model"]) == ("dev", 2, tiny_checkpoint)
    lines = read_lines(file)
    assert [line["image"] for line in lines] == ["2.png", "3.png"]
    assert lines[0]["references"] == ["a dog runs on grass 2", "two dogs play in the water"]
    scores = CaptionMetrics().compute([line["caption"] for line in lines], [line["references"] for line in lines])
    assert result["metrics"] == pytest.approx(scores, abs=1e-3)
    assert list(file.parent.iterdir()) == [file]
    table = call(*arguments, "--num-beams", 1, "--max-new-tokens", 4).stdout
    assert "BLEU-4" in table and "CIDEr-D" in table and "num images 4" in table and "num beams 1" in table


def test_answers(call, tiny_oracle, questions, tmp_path):
    file = tmp_path / "predictions.jsonl"
    arguments = ["evaluate", "vqa", "--no-wups", "--data", questions, "--model", tiny_oracle]
    options = ["--format", "daquar", "--split", "val", "--json", "--predictions", file]
    result = json.loads(call(*arguments, *options).stdout)
    assert (result["num_questions"], result["num_images"], result["split"]) == (6, 2, "val")
    lines = read_lines(file)
    assert [line["question"] for line in lines] == [question for question, _ in QUESTIONS] * 2
    expected = score_answers([line["answer"] for line in lines], [line["references"] for line in lines], together=True)
    assert {name: result["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-3)
    # the model's answer to one question about one image, alone
    model = butd_hf.ButdForQuestionAnswering.from_pretrained(tiny_oracle).eval()
    processor = butd_hf.ButdProcessor.from_pretrained(tiny_oracle)
    image = Image.open(questions / "images" / lines[4]["image"])
    logits = model(**processor(images=[image], text=[lines[4]["question"]], return_tensors="pt")).logits[0].detach()
    assert model.config.id2label[int(logits.argmax())] == lines[4]["answer"]
    assert float(logits.sigmoid().max()) == pytest.approx(lines[4]["score"], abs=2e-4)
    table = call(*arguments, "--types").stdout
    assert "exact match" in table and "num questions 12" in table and "question type 'how many'" in table


def test_answers_that_are_kept_back(call, tiny_oracle, questions, tmp_path):
    asked = [{"image_id": 7, "question": "what is it?", "question_id": 1}]
    (questions / "test_questions.json").write_text(json.dumps({"questions": asked, "data_subtype": "test2015"}))
    Image.new("RGB", (64, 64)).save(questions / "images" / "COCO_test2015_000000000007.jpg")
    arguments = ["evaluate", "vqa", "--no-wups", "--model", tiny_oracle, "--data", questions, "--format", "vqa2"]
    assert "nothing to score" in call(*arguments, code=1).stderr
    call(*arguments, "--predictions", tmp_path / "answers.jsonl")
    assert read_lines(tmp_path / "answers.jsonl")[0]["question_id"] == "1"


def test_objects(call, plain, tiny_detector, detection_data, tmp_path):
    task = "segmentation" if tiny_detector.endswith("segmentation") else "detection"
    file = tmp_path / "predictions.jsonl"
    arguments = ["evaluate", task, "--model", tiny_detector, "--data"]
    options = ["--json", "--predictions", file, "--common", 1, "--split", "val", "--batch-size", 1]
    result = json.loads(call(*arguments, detection_data, *options).stdout)
    assert (result["task"], result["split"], result["num_images"]) == (task, "val", 2)
    assert {"box_ap50", "box_ap50_common", "recall36"} <= set(result["metrics"])
    assert ("mask_ap50" in result["metrics"]) == (task == "segmentation")
    lines = read_lines(file)
    assert [line["image"] for line in lines] == ["4.png", "5.png"] and lines[0]["regions"] and lines[0]["references"]
    assert all(("mask" in found) == (task == "segmentation") for line in lines for found in line["objects"])

    data = shutil.copytree(detection_data, tmp_path / "data")
    Image.new("RGB", (9, 9)).save(data / "images" / "4.png")
    wrong = call(*arguments, data, "--split", "val", code=1)
    assert "annotated as" in wrong.stderr and "num images 1" in wrong.stdout
    document = json.loads((data / "annotations.json").read_text())
    document["categories"][0]["name"] = "ball"
    (data / "annotations.json").write_text(json.dumps(document))
    assert "'ball'" in plain(call(*arguments, data, code=2).stderr)


@pytest.fixture
def graphs(images):
    """Annotated graphs in VRD's layout."""
    rows = []
    for number in range(3):
        objects = [
            {"label": label, "bbox": [5 + 10 * place, 5, 30, 30]}
            for place, label in enumerate(("square", "disc", "dog"))
        ]
        relations = [
            {"subject": 0, "predicate": "on", "object": 1},
            {"subject": 1, "predicate": "beside", "object": 2},
        ]
        size = {"width": 70 + 8 * number, "height": 64, "split": "val" if number else "train"}
        rows.append({"image": f"{number}.png", "objects": objects, "relations": relations, **size})
    (images / "annotations.json").write_text(json.dumps(rows))
    return images


@pytest.mark.parametrize("mode", ["predcls", "sgcls", "sgdet"])
def test_graphs(call, plain, tiny_grapher, graphs, tmp_path, mode):
    file = tmp_path / "predictions.jsonl"
    arguments = ["evaluate", "scene-graph", "--data", graphs, "--model", tiny_grapher, "--mode", mode]
    options = ["--split", "val", "--json", "--per-predicate", "--predictions", file]
    result = json.loads(call(*arguments, *options).stdout)
    assert (result["mode"], result["num_images"]) == (mode, 2)
    assert {"recall_20_triples", "mean_recall_50_images", "recall_100_predicate_on"} <= set(result["metrics"])
    lines = read_lines(file)
    assert len(lines) == 2 and lines[0]["references"]["relations"] == [[0, "on", 1], [1, "beside", 2]]
    labels = [each["label"] for each in lines[0]["objects"]]
    assert set(labels) <= {"square", "disc", "dog"}
    if mode == "predcls":
        assert labels == ["square", "disc", "dog"]
    scores = [relation[3] for relation in lines[0]["relations"]]
    assert scores == sorted(scores, reverse=True) and scores
    assert "none of predcls" in plain(call(*arguments[:-1], "captions", code=2).stderr)
    rows = json.loads((graphs / "annotations.json").read_text())
    rows[2]["relations"][0]["predicate"] = "eats"
    (graphs / "annotations.json").write_text(json.dumps(rows))
    assert "1 of its 3 predicates are not the model's" in plain(call(*arguments, code=2).stderr)


def test_graphs_without_images_and_objects_that_were_drawn_twice(call, plain, tiny_grapher, graphs, tmp_path):
    """Labels and boxes are enough for predcls; that a box was drawn twice is found out, unless repetitions count."""
    rows = json.loads((graphs / "annotations.json").read_text())[:1]
    rows[0]["objects"].append({**rows[0]["objects"][0], "bbox": [5, 5, 30, 29]})
    ends = ((0, "on"), (3, "beside"))
    rows[0]["relations"] = [{"subject": place, "predicate": name, "object": 1} for place, name in ends]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    arguments = ["evaluate", "scene-graph", "--data", tmp_path, "--model", tiny_grapher, "--json"]
    once, repeated = (json.loads(call(*arguments, *more).stdout)["metrics"] for more in ([], ["--repeats"]))
    assert (once["recall_100_triples"], repeated["recall_100_triples"]) == (100, 50)
    for mode in ("sgcls", "sgdet"):
        error = plain(call(*arguments, "--mode", mode, code=2).stderr)
        assert f"{mode} needs images, but 1 of 1" in error


def test_unreadable_images_are_named_and_the_others_are_scored(
    call, tiny_checkpoint, tiny_oracle, captions, questions
):
    (captions / "images" / "3.png").write_bytes(b"nothing")
    result = call("evaluate", "captioning", "--data", captions, "--model", tiny_checkpoint, "--json", code=1)
    assert "3.png" in result.stderr and json.loads(result.stdout)["num_images"] == 3
    result = call("evaluate", "vqa", "--data", questions, "--model", tiny_oracle, "--json", code=1)
    assert "3.png" in result.stderr and json.loads(result.stdout)["num_questions"] == 9
    for file in (captions / "images").iterdir():
        file.write_bytes(b"nothing")
    result = call("evaluate", "captioning", "--data", captions, "--model", tiny_checkpoint, code=1)
    assert "nothing to score" in result.stderr


def test_wrong_data_is_named(call, plain, questions, captions, tmp_path):
    assert "--data" in call("evaluate", "captioning", code=2).stderr
    for task in ("captioning", "detection", "vqa", "scene-graph"):
        assert str(tmp_path)[:20] in plain(call("evaluate", task, "--data", tmp_path / "nothing", code=2).stderr)
    assert "'train', 'val'" in plain(call("evaluate", "vqa", "--data", questions, "--split", "dev", code=2).stderr)
    assert "format must be" in plain(call("evaluate", "vqa", "--data", questions, "--format", "coco", code=2).stderr)
