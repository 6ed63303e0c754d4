# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from butd_hf.metrics import CiderD
from butd_hf.training.self_critical import SelfCriticalTrainer


@pytest.fixture
def trainer(build):
    trainer = build(SelfCriticalTrainer, own={"num_samples": 8})
    trainer.model.generation_config.update(min_new_tokens=None, max_new_tokens=12)
    return trainer


def batch_of(trainer):
    return trainer.task([trainer.train_dataset[index] for index in range(3)])


def test_reward_is_cider_of_finished_captions(trainer):
    captions = trainer.train_dataset.rows["captions"]
    tokenizer = trainer.task.processor.tokenizer
    tokens = [tokenizer(each[0])["input_ids"] for each in captions]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = [[*row, *tail, *[pad] * (14 - len(row))] for row in tokens for tail in ([end], [pad])]
    rewards = trainer.rewards(torch.tensor(rows), [0, 1, 2])
    scorer = CiderD([[f"{caption} </s>" for caption in each] for each in captions])
    finished = scorer.score([f"{each[0]} </s>" for each in captions], [0, 1, 2])
    torch.testing.assert_close(rewards[:, 0], torch.tensor(finished, dtype=torch.float32))
    assert rewards[:, 0].mean() > rewards[:, 1].mean()  # the same words, left unfinished


def test_what_scores_better_than_the_others_becomes_likelier(trainer, monkeypatch):
    batch = batch_of(trainer)
    preferred = torch.zeros(3, 8).index_fill_(1, torch.tensor([2]), 1.0)
    sampled = []
    monkeypatch.setattr(trainer, "rewards", lambda sequences, rows: (sampled.append(sequences), preferred)[1])
    images = {name: value for name, value in batch.items() if name.startswith("pixel")}

    def log_likelihood(sequences):
        labels = sequences[:, 1:]
        with torch.no_grad():
            scores = trainer.model(**images, input_ids=sequences[:, :-1]).logits.log_softmax(dim=-1)
        scores = scores.gather(2, labels[..., None])[..., 0] * (labels != trainer.model.config.pad_token_id)
        return scores.sum(dim=1).view(3, 8)

    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1e-3)
    loss = trainer.compute_loss(trainer.model, batch)
    assert not any(module.training for module in trainer.model.modules())  # sampler and learner are one model
    before = log_likelihood(sampled[0])
    loss.backward()
    optimizer.step()
    gain = log_likelihood(sampled[0]) - before  # (3, 8)
    assert gain[:, 2].mean() > gain[:, [0, 1, 3, 4, 5, 6, 7]].mean()


@pytest.mark.parametrize(("baseline", "beams"), [("mean", None), ("greedy", 1), ("beam", 3)])
def test_what_a_sample_has_to_beat(trainer, baseline, beams):
    trainer.baseline, trainer.num_samples = baseline, 4
    trainer.model.generation_config.num_beams = 3
    trainer.model.eval()
    images = {name: value for name, value in batch_of(trainer).items() if name.startswith("pixel")}
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0]] * 3)
    found = trainer.baselines(trainer.model, images, rewards, [0, 1, 2])
    if beams is None:
        assert found[0].tolist() == pytest.approx([8 / 3, 7 / 3, 2.0, 1.0])
        return
    sequences = trainer.model.generate(**images, do_sample=False, num_beams=beams)
    assert found.shape == (3, 1) and torch.equal(found, trainer.rewards(sequences, [0, 1, 2]))


def test_a_run(build):
    trainer = build(SelfCriticalTrainer, own={"num_samples": 2}, max_steps=2, gradient_accumulation_steps=2)
    before = trainer.model.lm_head.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.lm_head.weight, before)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"num_samples": 1}, "num_samples must be at least 2"),
        ({"baseline": "best"}, r"baseline must be one of .*, got 'best'"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_impossible_settings(build, own, message):
    with pytest.raises(ValueError, match=message):
        build(SelfCriticalTrainer, own=own)
