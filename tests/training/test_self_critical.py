# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from datasets import Dataset

import butd_hf
from butd_hf.metrics import CiderD
from butd_hf.training.captioning import CaptionDataset
from butd_hf.training.self_critical import SelfCriticalTask


CAPTIONS = [
    ["a brown dog runs on the green grass", "a dog runs on grass"],
    ["two cats sit on a red mat", "two cats sit near the window"],
    ["a man is riding a white horse on the beach", "a man is riding a horse"],
]


@pytest.fixture
def task(tiny_checkpoint, image_paths):
    table = Dataset.from_dict({"image": image_paths, "image_id": ["0", "1", "2"], "captions": CAPTIONS})
    model = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
    processor = butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint)
    dataset = CaptionDataset(table)
    task = SelfCriticalTask(model, processor, dataset, dataset, max_new_tokens=12, num_samples=8)
    model.generation_config.update(min_new_tokens=None)
    return task


def batch_of(task):
    return task.collate([task.train_dataset[index] for index in range(3)])


def test_reward_is_cider_of_finished_captions(task):
    tokens = [task.processor.tokenizer(captions[0])["input_ids"] for captions in CAPTIONS]
    task.num_samples = 2
    end, pad = task.processor.tokenizer.eos_token_id, task.processor.tokenizer.pad_token_id
    rows = [[*row, *tail, *[pad] * (14 - len(row))] for row in tokens for tail in ([end], [pad])]
    rewards = task.rewards(torch.tensor(rows), torch.arange(3))
    scorer = CiderD([[f"{caption} </s>" for caption in captions] for captions in CAPTIONS])
    finished = scorer.score([f"{captions[0]} </s>" for captions in CAPTIONS], [0, 1, 2])
    torch.testing.assert_close(rewards[:, 0], torch.tensor(finished, dtype=torch.float32))
    assert rewards[:, 0].mean() > rewards[:, 1].mean()  # the same words, left unfinished


def test_what_scores_better_than_the_others_becomes_likelier(task, monkeypatch):
    batch = batch_of(task)
    preferred = torch.zeros(3, 8).index_fill_(1, torch.tensor([2]), 1.0)
    sampled = []
    monkeypatch.setattr(task, "rewards", lambda sequences, indices: (sampled.append(sequences), preferred)[1])

    def log_likelihood(sequences):
        images = {name: value for name, value in batch.items() if name != "indices"}
        labels = sequences[:, 1:]
        with torch.no_grad():
            scores = task.model(**images, input_ids=sequences[:, :-1]).logits.log_softmax(dim=-1)
        scores = scores.gather(2, labels[..., None])[..., 0] * (labels != task.model.config.pad_token_id)
        return scores.sum(dim=1).view(3, 8)

    optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-3)
    losses = task.loss(task.model, batch)
    before = log_likelihood(sampled[0])
    losses["loss"].backward()
    optimizer.step()
    gain = log_likelihood(sampled[0]) - before  # (3, 8)
    assert losses["reward"].item() == pytest.approx(1 / 8)
    assert gain[:, 2].mean() > gain[:, [0, 1, 3, 4, 5, 6, 7]].mean()


def test_sampler_and_learner_are_one_model(task):
    task.model.train()
    task.loss(task.model, batch_of(task))
    assert not any(module.training for module in task.model.modules())


def test_one_sample_has_nothing_to_be_compared_with(task):
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        SelfCriticalTask(task.model, task.processor, task.train_dataset, task.eval_dataset, num_samples=1)


@pytest.mark.parametrize(("baseline", "beams"), [("mean", None), ("greedy", 1), ("beam", 3)])
def test_what_a_sample_has_to_beat(task, baseline, beams):
    task.baseline, task.num_samples = baseline, 4
    task.model.eval()
    batch = batch_of(task)
    indices = batch.pop("indices")
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0]] * 3)
    found = task.baselines(task.model, batch, rewards, indices)
    if beams is None:
        assert found[0].tolist() == pytest.approx([8 / 3, 7 / 3, 2.0, 1.0])
        return
    sequences = task.model.generate(**batch, do_sample=False, num_beams=beams)
    assert found.shape == (3, 1) and torch.equal(found, task.rewards(sequences, indices))


def test_a_baseline_that_is_none(task):
    options = {"train_dataset": task.train_dataset, "eval_dataset": task.eval_dataset}
    with pytest.raises(ValueError, match=r"baseline must be one of .*, got 'best'"):
        SelfCriticalTask(task.model, task.processor, **options, baseline="best")
    assert SelfCriticalTask(task.model, task.processor, **options, baseline="greedy", num_samples=1).num_samples == 1
