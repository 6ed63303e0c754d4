# SPDX-License-Identifier: Apache-2.0
import sys
from dataclasses import fields

import pytest
from transformers import TrainingArguments

from butd_hf import training
from butd_hf.training import arguments
from butd_hf.training.arguments import SUCCESSORS, DataArguments, ModelArguments, parse_arguments


GROUPS = [value for name, value in vars(arguments).items() if name in arguments.__all__ and isinstance(value, type)]


def parse(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "x", "--output_dir", "run", *words])
    return parse_arguments(DataArguments, ModelArguments, metric_for_best_model="loss")


def test_there_are_few_options():
    names = {field.name for group in GROUPS for field in fields(group)}
    assert 30 < len(names) <= 60 and not names & {field.name for field in fields(TrainingArguments)}


@pytest.mark.parametrize(
    ("word", "successor"),
    [
        ("--epochs", "--num_train_epochs"),
        ("--batch_size=3", "--per_device_train_batch_size"),
        ("--scheduler", "--lr_scheduler_type"),
        ("--warmup", "--warmup_steps"),
        ("--mixed_precision", "--bf16 or --fp16"),
        ("--resume", "--resume_from_checkpoint last"),
        ("--hidden_size", "--config hidden_size="),
    ],
)
def test_earlier_options_name_their_successor(monkeypatch, word, successor):
    with pytest.raises(ValueError, match=f"its successor is {successor}"):
        parse(monkeypatch, word, "1")
    with pytest.raises(ValueError, match="not used"):
        parse(monkeypatch, "--num_train", "1")  # an abbreviation


def test_successors_are_options():
    known = {field.name for group in (*GROUPS, arguments.Seq2SeqTrainingArguments) for field in fields(group)}
    named = {word[2:] for text in SUCCESSORS.values() for word in text.split() if word.startswith("--")}
    assert named <= known and not set(SUCCESSORS) & {field.name for field in fields(TrainingArguments)}


def test_lower_losses_are_better(monkeypatch):
    data, _, found = parse(monkeypatch, "--augment", "none", "--use_cpu")
    assert data.augment == [] and not found.greater_is_better and found.warmup_steps == 0.05


def test_earlier_names_of_the_package_name_their_successor():
    with pytest.raises(AttributeError, match="its successor is ButdTrainer"):
        training.TrainingLoop  # noqa: B018
    assert training.ButdTrainer.__name__ in dir(training)
