# SPDX-License-Identifier: Apache-2.0
import json

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel

from butd_hf.training.trainer import NonFiniteLossError, last_checkpoint, prediction_lines


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_captions_are_generated_and_scored(build):
    trainer = build()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] > 0 and {"eval_cider", "eval_bleu_4"} <= set(metrics)
    lines = [json.loads(line) for line in prediction_lines(trainer)]
    assert [line["image_id"] for line in lines] == ["0", "1", "2"] and all(line["prediction"] for line in lines)
    batches = build(per_device_eval_batch_size=1).evaluate()  # one image alone is no other than among others
    assert batches["eval_cider"] == pytest.approx(metrics["eval_cider"])


def test_the_average_is_evaluated_and_saved_as_the_model(build):
    trainer = build(own={"ema_decay": 0.5}, max_steps=2, save_steps=2, eval_strategy="steps", eval_steps=2)
    seen, by_hand = [], []
    step = trainer.task.predict
    trainer.task.predict = lambda model, *args: (seen.append(weights_of(model)), step(model, *args))[1]
    training = trainer.training_step

    def count(model, *args):
        if not by_hand:
            by_hand.append(AveragedModel(model, multi_avg_fn=trainer.weight_average.update))
        else:
            by_hand[0].update_parameters(model)
        return training(model, *args)

    trainer.training_step = count
    trainer.train()
    saved = load_file(trainer.args.output_dir + "/checkpoint-2/model.safetensors")
    in_training = torch.load(trainer.args.output_dir + "/checkpoint-2/weights_in_training.pt")["weights"]
    assert same(saved, seen[0]) and same(saved, weights_of(trainer.model)) and not same(saved, in_training)
    by_hand[0].update_parameters(trainer.model.__class__.from_pretrained(trainer.args.output_dir + "/checkpoint-2"))
    trainer.save_model()
    assert same(saved, load_file(trainer.args.output_dir + "/model.safetensors"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_with_equal_weights(build, tmp_path, accumulation):
    options = {"num_train_epochs": 3, "save_steps": 1, "gradient_accumulation_steps": accumulation}
    whole = build(own={"ema_decay": 0.9}, **options)
    whole.train()
    (checkpoint,) = [folder for folder in (tmp_path / "run").glob("checkpoint-*") if folder.name == "checkpoint-4"]
    resumed = build(own={"ema_decay": 0.9}, output_dir=tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == whole.state.global_step > 4
    assert same(weights_of(whole.model), weights_of(resumed.model))


def test_the_best_model_is_kept(build):
    trainer = build(
        own={"ema_decay": 0.5}, max_steps=2, save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="cider", greater_is_better=True,
    )  # fmt: skip
    scores = iter([{"cider": 2.0}, {"cider": 1.0}])
    trainer.task.score = lambda *arguments: next(scores)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
    assert same(load_file(trainer.state.best_model_checkpoint + "/model.safetensors"), weights_of(trainer.model))


def test_parameters_are_in_groups(build):
    trainer = build(own={"backbone_learning_rate": 0.5}, weight_decay=0.1)
    groups = {
        (group["lr"], group["weight_decay"]): group["params"] for group in trainer.create_optimizer().param_groups
    }
    assert set(groups) == {(0.5, 0.1), (0.5, 0.0), (1e-2, 0.1), (1e-2, 0.0)}
    backbone = {id(weight) for weight in trainer.model.base_model.bottom_up.backbone.parameters()}
    for (rate, decay), weights in groups.items():
        assert all((id(weight) in backbone) == (rate == 0.5) for weight in weights)
        assert all(weight.ndim >= 2 for weight in weights) or decay == 0
    embeddings = trainer.model.get_input_embeddings().weight
    assert any(weight is embeddings for weight in groups[1e-2, 0.0])
    trainer = build()
    trainer.model.requires_grad_(False)
    with pytest.raises(ValueError, match="everything is frozen"):
        trainer.create_optimizer()


def test_a_loss_that_is_not_a_number_ends_the_run(build):
    trainer = build(max_steps=2)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="The loss is nan at step 1"):
        trainer.train()


def test_broken_samples_are_in_the_log(build, tmp_path):
    trainer = build(num_train_epochs=1)
    rows = trainer.train_dataset.rows
    (tmp_path / "broken.png").write_bytes(b"nothing")
    images = [*rows["image"][:2], str(tmp_path / "broken.png")]
    trainer.train_dataset.rows = rows.remove_columns("image").add_column("image", images)
    trainer.train()
    assert max(entry.get("broken_samples", 0) for entry in trainer.state.log_history) == 1


def test_a_checkpoint_that_was_cut_short_is_none(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, text in ((9, '{"global_step": 9}'), (10, '{"global_step": 10}'), (11, '{"global_'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_an_average_needs_a_decay(build):
    with pytest.raises(ValueError, match=r"ema_decay must be in \(0, 1\)"):
        build(own={"ema_decay": 1.0})
