# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from butd_hf.data.questions import QUESTION_FEATURES
from butd_hf.data.transforms import Augmentation
from butd_hf.modeling.configuration_butd import ButdConfig
from butd_hf.modeling.image_processing_butd import ButdImageProcessor
from butd_hf.modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from butd_hf.modeling.processing_butd import ButdProcessor
from butd_hf.training import QuestionAnsweringTask, QuestionDataset
from butd_hf.training.answer_teachers import AnswerTeachers


ANSWERS = ["left", "right", "2", "red"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    file = tmp_path_factory.mktemp("picture") / "0.png"
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32, 0] = 255
    Image.fromarray(pixels).save(file)
    rows = [
        ("which side is red, left or right", ["left"], True),
        ("what is on the left", ["red"] * 3 + ["two"] * 7, False),
        ("what is this", ["a mystery"], True),
        ("what is there", ["red", "2"], True),
    ]
    columns = {
        "image": [str(file)] * 4,
        "image_id": ["0"] * 4,
        "question_id": list("0123"),
        "question": [question for question, _, _ in rows],
        "answers": [answers for _, answers, _ in rows],
        "together": [together for _, _, together in rows],
        "question_type": ["what"] * 4,
        "answer_type": ["other"] * 4,
        "split": ["train"] * 4,
    }
    return Dataset.from_dict(columns, features=QUESTION_FEATURES)


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return ButdForQuestionAnswering(
        ButdConfig(
            bottom_up_config={"backbone": "test_efficientnet", "selector": "grid"},
            top_down_config={
                "vocab_size": len(tiny_tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            },
            tie_word_embeddings=False,
            id2label=dict(enumerate(ANSWERS)),
            label2id={answer: label for label, answer in enumerate(ANSWERS)},
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def processor(tiny_tokenizer):
    return ButdProcessor(ButdImageProcessor(size={"height": 64, "width": 64}), tiny_tokenizer)


def build(model, processor, table, loss="bce", teachers=None, **options):
    dataset = QuestionDataset(table, **options)
    evaluated = QuestionDataset(table.select([0]))
    return QuestionAnsweringTask(model, processor, dataset, evaluated, loss=loss, teachers=teachers)


def test_mirroring_turns_questions_and_answers_with_the_picture(table):
    dataset = QuestionDataset(table, augmentation=Augmentation(("flip",)))
    seen = set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        example = dataset[0]
        red_is_left = example.image.getpixel((0, 0))[0] == 255
        assert example.scores == [{"left" if red_is_left else "right": 1.0}]
        assert example.questions[0].endswith("left or right" if red_is_left else "right or left")
        seen.add(red_is_left)
    assert seen == {True, False}


def test_examples_depend_on_seed_epoch_and_index_alone(table):
    one, other = (QuestionDataset(table, augmentation=Augmentation(("flip", "crop")), seed=3) for _ in range(2))
    list(map(one.__getitem__, range(4)))
    assert one[1].draws == other[1].draws and one[1].image.tobytes() == other[1].image.tobytes()
    other.set_epoch(1)
    assert one[1].draws != other[1].draws


def test_soft_scores_are_targets(model, processor, table):
    task = build(model, processor, table)
    targets = task.targets([task.train_dataset[index] for index in range(4)])
    # right, none of them known, and two together; three of ten said red: .9 when one is left out
    expected = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0.9], [0, 0, 0, 0], [0, 0, 1, 1]])
    torch.testing.assert_close(targets, expected)
    simplified = build(model, processor, table, form="simplified")
    assert simplified.targets([simplified.train_dataset[1]])[0, 3] == 1


def test_one_of_several_answers_is_drawn_by_how_right_it_is(model, processor, table):
    task = build(model, processor, table, loss="ce")
    drawn = []
    for epoch in range(200):
        task.train_dataset.set_epoch(epoch)
        drawn.append(task.targets([task.train_dataset[index] for index in range(4)]))
    drawn = torch.stack(drawn)
    assert set(drawn[:, 0].tolist()) == {0} and set(drawn[:, 2].tolist()) == {-100}
    assert (drawn[:, 1] == 2).float().mean() == pytest.approx(1 / 1.9, abs=0.12)
    assert (drawn[:, 3] == 2).float().mean() == pytest.approx(1 / 2, abs=0.12)


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.parametrize("look", [True, False])
@pytest.mark.parametrize("ask", [True, False])
def test_every_ablation_has_a_finite_loss_and_gradients(model, processor, table, loss, look, ask):
    task = build(model, processor, table, loss=loss, look=look, ask=ask)
    batch = task.collate([task.train_dataset[index] for index in range(4)])
    assert task.num_images(batch) == 4
    assert ("pixel_values" in batch) == look
    assert look or not batch["region_mask"].any()
    model.zero_grad()
    value = task.loss(model, batch)["loss"]
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(model.top_down.classifier.weight.grad).all()
    looked = model.top_down.region_proj.weight.grad
    assert look == (looked is not None and bool(looked.abs().sum() > 0))


def test_questions_about_one_image_share_its_regions(model, processor, table):
    """As many for each image, drawn anew each epoch; with all of them drawn, the loss is that of single examples."""
    task = build(model, processor, table, questions_per_image=4)
    assert len(task.train_dataset) == 1
    example = task.train_dataset[0]
    assert sorted(example.indices) == [0, 1, 2, 3]
    task.train_dataset.set_epoch(1)
    assert task.train_dataset[0].indices != example.indices

    together, single = task.collate([example]), build(model, processor, table)
    assert together["pixel_values"].shape[0] == 1 and together["labels"].shape == (4, len(ANSWERS))
    apart = single.collate([single.train_dataset[index] for index in example.indices])
    model.eval()
    with torch.no_grad():
        assert float(model(**together).loss) == pytest.approx(float(model(**apart).loss), rel=1e-4)
    with pytest.raises(ValueError, match="questions_per_image"):
        grouped = QuestionDataset(table.select([0]), questions_per_image=2)
        QuestionAnsweringTask(model, processor, task.train_dataset, grouped)


def test_teachers_answer_what_nobody_did(model, processor, table):
    """Questions without a label are learned from the normalised geometric mean of the teachers' probabilities."""
    others = [ButdForQuestionAnswering(model.config) for _ in range(2)]
    for other in others:
        torch.nn.init.normal_(other.top_down.classifier.weight)
    teachers = AnswerTeachers(others)
    task = build(model, processor, table.select([0, 1]), loss="ce", teachers=teachers, foreign_questions=3)
    example, again = task.train_dataset[1], task.train_dataset[1]
    assert example.questions == again.questions and len(example.questions) == 4 and example.indices == [1]
    assert example.questions[0] == "what is on the left" and example.scores[1:] == [{}] * 3
    seen = set()
    for epoch in range(8):
        task.train_dataset.set_epoch(epoch)
        seen.update(task.train_dataset[1].questions[1:])
    assert seen == set(task.train_dataset.questions)

    model.eval()
    batch = task.collate([task.train_dataset[0], task.train_dataset[1]])
    assert (batch["labels"] == -100).tolist() == 2 * [False, True, True, True]
    losses = task.loss(model, batch)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        product = torch.stack([other(**inputs).logits.softmax(-1) for other in others]).prod(dim=0).sqrt()
        opinions = product / product.sum(dim=-1, keepdim=True)
        told = model(**inputs).logits.log_softmax(-1)
    taught = batch["labels"] == -100
    expected = -(opinions[taught] * told[taught]).sum(dim=-1).mean()
    assert losses["loss_teachers"].item() == pytest.approx(float(expected), rel=1e-4)
    labels = batch["labels"][~taught]
    expected_labels = torch.nn.functional.cross_entropy(told[~taught], labels)
    assert losses["loss_labels"].item() == pytest.approx(float(expected_labels), rel=1e-4)
    assert losses["loss"].item() == pytest.approx(float(expected + expected_labels), rel=1e-4)
    losses["loss"].backward()
    assert all(parameter.grad is None for other in others for parameter in other.parameters())


@pytest.mark.parametrize(("loss", "foreign", "taught"), [("ce", 2, False), ("ce", 0, True), ("bce", 2, True)])
def test_teachers_and_their_questions_need_each_other(model, processor, table, loss, foreign, taught):
    teachers = AnswerTeachers([model]) if taught else None
    with pytest.raises(ValueError, match="need each other"):
        build(model, processor, table, loss=loss, teachers=teachers, foreign_questions=foreign)


def test_long_questions_are_cut(model, processor, table):
    task = build(model, processor, table)
    task.max_length = 5
    assert task.collate_questions(["two cats sit on a red mat near the window", "a"])["input_ids"].shape == (2, 5)


def test_what_cannot_be_trained_is_refused(model, processor, table):
    with pytest.raises(ValueError, match="loss must be"):
        build(model, processor, table, loss="mse")
    with pytest.raises(ValueError, match="None of the answers to learn"):
        build(model, processor, table.select([2]))
    with pytest.raises(ValueError, match="mixes questions"):
        QuestionAnsweringTask(model, processor, QuestionDataset(table), QuestionDataset(table))
