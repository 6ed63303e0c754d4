# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from butd_hf.data.region_store import RegionStore
from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.modeling_butd import ButdForConditionalGeneration
from butd_hf.modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from butd_hf.modeling.processing_butd import ButdProcessor
from butd_hf.training.question_answering_recipe import load_bottom_up


EXAMPLES = Path(__file__).parents[2] / "examples"
COLOURS = ("red", "green", "blue")

TINY = [
    *("--backbone", "test_efficientnet", "--image_size", "64", "--hidden_size", "16", "--num_layers", "1"),
    *("--num_heads", "2", "--intermediate_size", "32", "--num_region_layers", "0", "--num_glimpses", "1"),
]
SHORT = ["--batch_size", "4", "--epochs", "1", "--num_workers", "0", "--num_threads", "1", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six pictures of one colour each, four to learn from, with three questions about each."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    lines = []
    for index in range(6):
        colour = COLOURS[index % 3]
        pixels = np.random.default_rng(index).integers(0, 60, (48, 64, 3), dtype=np.uint8)
        pixels[..., index % 3] += 150
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        for question, answers in (
            ("what colour is it", [colour]),
            ("how many colours are on the left", ["1"]),
            ("which colours", [colour, "black"]),
        ):
            split = "train" if index < 4 else "val"
            lines.append({"image": f"{index}.png", "question": question, "answers": answers, "split": split})
    (folder / "qa.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(monkeypatch, example, *options):
    """An example in this process, which has imported everything already."""
    monkeypatch.setattr(sys, "argv", [example, *map(str, options)])
    runpy.run_path(str(EXAMPLES / example), run_name="__main__")


def events(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def first_run(data, tmp_path_factory):
    """A run end to end, from pictures."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "train_vqa.py", "--data", data, "--output_dir", folder, *TINY, *SHORT, "--augment", "flip", "crop")
    return folder


def test_a_run_leaves_a_model_that_answers(first_run, data):
    assert len(events(first_run, "training")) == 3
    assert {"exact_match", "exact_match_single", "loss"} <= set(events(first_run, "evaluation")[0])
    predictions = [json.loads(line) for line in (first_run / "predictions" / "epoch-001.jsonl").open()]
    assert [line["question_id"] for line in predictions] == [str(number) for number in range(13, 19)]

    model = ButdForQuestionAnswering.from_pretrained(first_run / "best").eval()
    assert set(model.config.label2id) == {"1", "black", *COLOURS}
    assert model.config.problem_type == "multi_label_classification"
    processor = ButdProcessor.from_pretrained(first_run / "best")
    inputs = processor(images=[data / "images" / "4.png"], text=["what colour is it"], return_tensors="pt")
    with torch.no_grad():
        label = int(model(**inputs).logits.argmax())
    assert model.config.id2label[label] == predictions[0]["prediction"]  # inference sees what the evaluation saw


def test_words_begin_as_their_vectors(data, tmp_path, monkeypatch, capsys):
    (tmp_path / "vectors.txt").write_text("colour 1 2 3 4\nleft 5 6 7 8\nunicorn 0 0 0 1\n")
    options = ["--word_vectors", tmp_path / "vectors.txt", "--decoder", "gru", "--embedding_size", "4"]
    options += ["--question_ngrams", "50", "--learning_rate", "0", "--augment", "none"]
    run(monkeypatch, "train_vqa.py", "--data", data, "--output_dir", tmp_path / "run", *TINY, *SHORT, *options)
    assert "2 of 16 tokens begin as the vectors of" in capsys.readouterr().out
    model = ButdForQuestionAnswering.from_pretrained(tmp_path / "run" / "best")
    processor = ButdProcessor.from_pretrained(tmp_path / "run" / "best")
    row = processor.tokenizer.convert_tokens_to_ids("left")
    assert model.get_input_embeddings().weight[row].tolist() == [5, 6, 7, 8]
    assert model.question_encoder.ngrams.embed_buckets.num_embeddings == 50


def test_stored_regions_are_those_of_the_pictures(first_run, data, tmp_path, monkeypatch):
    options = ["--data", data, *SHORT, "--init_from", first_run / "best", "--learning_rate", "0", "--freeze", "all"]
    run(monkeypatch, "train_vqa.py", *options, "--output_dir", tmp_path / "pictures")
    cached = [*options, "--cache", tmp_path / "cache", "--cache_dtype", "float32"]
    run(monkeypatch, "train_vqa.py", *cached, "--output_dir", tmp_path / "stored")
    pictures, stored = (events(tmp_path / name, "evaluation")[0] for name in ("pictures", "stored"))
    assert stored["loss"] == pytest.approx(pictures["loss"], rel=1e-4)
    assert (
        json.loads((tmp_path / "cache" / "train" / "store.json").read_text())["num_rows"] == 8
    )  # with mirrors; not 24


def test_regions_begin_with_mean_0_and_variance_1(data, tmp_path, monkeypatch):
    options = ["--freeze", "all", "--cache", tmp_path / "cache", "--standardize_regions", "true"]
    options += ["--learning_rate", "0", "--augment", "none", "--cache_dtype", "float32"]
    run(monkeypatch, "train_vqa.py", "--data", data, "--output_dir", tmp_path / "run", *TINY, *SHORT, *options)
    norm = ButdForQuestionAnswering.from_pretrained(tmp_path / "run" / "best").top_down.region_norm
    store = RegionStore.open(tmp_path / "cache" / "train")
    features = torch.cat([torch.from_numpy(regions.features.copy()) for _, _, regions in store.stream()])
    heard = norm(features).detach()
    torch.testing.assert_close(heard.mean(dim=0), torch.zeros(heard.shape[1]), atol=1e-3, rtol=0)
    # numbers that are the same everywhere stay quiet
    spread = heard.std(dim=0)[torch.nn.functional.layer_norm(features, norm.normalized_shape).std(dim=0) > 1e-2]
    assert len(spread) and ((spread - 1).abs() < 1e-2).all()


def test_teachers_of_the_same_kind(first_run, data, tmp_path, monkeypatch):
    options = ["--data", data, *TINY, *SHORT, "--loss", "ce", "--foreign_questions", "2"]
    cached = ["--freeze", "all", "--cache", tmp_path / "cache", "--questions_per_image", "3"]
    run(
        monkeypatch, "train_vqa.py", *options, *cached, "--output_dir", tmp_path / "run",
        "--teachers", first_run / "best", first_run / "best",
    )  # fmt: skip
    assert all(line["loss_teachers"] > 0 and line["loss_labels"] > 0 for line in events(tmp_path / "run", "training"))

    ButdProcessor.from_pretrained(first_run / "best").save_pretrained(tmp_path / "other")
    for name, value in (("answers", "mauve"), ("regions", "saliency")):
        config = ButdConfig.from_pretrained(first_run / "best")
        if name == "answers":
            config.id2label = {**config.id2label, 0: value}
        else:
            config.bottom_up_config.selector = value
        ButdForQuestionAnswering(config).save_pretrained(tmp_path / "other")
        with pytest.raises(ValueError, match=f"has other {name} than the model"):
            run(
                monkeypatch, "train_vqa.py", *options, "--output_dir", tmp_path / "no",
                "--teachers", tmp_path / "other",
            )  # fmt: skip


def test_stored_stages_of_a_backbone_that_learns(first_run, data, tmp_path, monkeypatch):
    options = ["--data", data, *SHORT, "--init_from", first_run / "best", "--freeze", 2, "--loss", "ce"]
    run(
        monkeypatch, "train_vqa.py", *options, "--output_dir", tmp_path / "run",
        "--cache", tmp_path / "cache", "--learning_rate", "0.1",
    )  # fmt: skip
    before = ButdForQuestionAnswering.from_pretrained(first_run / "best").state_dict()
    after = ButdForQuestionAnswering.from_pretrained(tmp_path / "run" / "best")
    assert after.config.problem_type == "single_label_classification"
    changed = {name for name, value in after.state_dict().items() if not torch.equal(before[name], value)}
    assert any("blocks.4.0.conv_pw" in name for name in changed)
    assert not any("blocks.0." in name or "conv_stem" in name for name in changed)


def test_the_bottom_up_half_of_another_checkpoint(data, tiny_checkpoint, tmp_path, monkeypatch):
    options = ["--data", data, *SHORT, *TINY, "--init_from", tiny_checkpoint, "--freeze", "all"]
    run(monkeypatch, "train_vqa.py", *options, "--output_dir", tmp_path / "run", "--epochs", 1)
    before = ButdForConditionalGeneration.from_pretrained(tiny_checkpoint).base_model.bottom_up.state_dict()
    after = ButdForQuestionAnswering.from_pretrained(tmp_path / "run" / "best").base_model.bottom_up.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bottom_up_half_that_does_not_fit(tiny_oracle):
    config = ButdConfig.from_pretrained(tiny_oracle).to_dict()
    config["bottom_up_config"].update(selector="rpn", out_indices=[-3, -2, -1], fpn_size=16)
    with pytest.raises(ValueError, match="doesn't fit the selector 'rpn'"):
        load_bottom_up(ButdForQuestionAnswering(ButdConfig.from_dict(config)), tiny_oracle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache", "x"], "--cache needs frozen stages"),
        (["--freeze", "some"], "--freeze must be"),
        (["--standardize_regions", "true"], "needs the regions of --cache"),
        (["--freeze", "all", "--cache", "x", "--augment", "jitter"], "jitter is not"),
        (["--foreign_questions", "2"], "--teachers, --foreign_questions and --loss ce need each other"),
        (["--teachers", "x", "--loss", "ce"], "need each other, got 1 teachers, 0 questions and --loss ce"),
        (["--eval_split", "holdout"], "no answers in split 'holdout'"),
        (["--min_answers", "100"], "min_count=100"),
    ],
)
def test_impossible_options_are_refused(data, tmp_path, monkeypatch, options, message):
    with pytest.raises(ValueError, match=message):
        run(monkeypatch, "train_vqa.py", "--data", data, "--output_dir", tmp_path / "run", *TINY, *SHORT, *options)


@pytest.mark.parametrize("option", [["--word_vectors", "x"], ["--standardize_regions", "true"]])
def test_a_model_that_answers_does_not_begin_anew(data, tiny_oracle, tmp_path, monkeypatch, option):
    options = ["--init_from", tiny_oracle, "--freeze", "all", "--cache", tmp_path / "cache", *option]
    with pytest.raises(ValueError, match=f"{option[0]} is for a new model, but .* answers questions already"):
        run(monkeypatch, "train_vqa.py", "--data", data, "--output_dir", tmp_path / "run", *SHORT, *options)
    assert not (tmp_path / "run").exists()
