# SPDX-License-Identifier: Apache-2.0
import errno
import importlib.metadata
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset as Table
from torch import nn
from torch.utils.data import Dataset

from butd_hf.training.arguments import LoopArguments
from butd_hf.training.batches import EpochBatches
from butd_hf.training.checkpoints import is_complete, latest_state, recover_folder, replace_folder
from butd_hf.training.curves import draw_curves
from butd_hf.training.example_stream import ExampleStream
from butd_hf.training.failures import advice
from butd_hf.training.loop import NonFiniteLossError, TrainingLoop
from butd_hf.training.task import Task


class Lines(Dataset):
    """Points on a line, whose noise depends on index and epoch alone."""

    def __init__(self, size=24):
        self.size = size
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.epoch + index)
        inputs = torch.rand(4, generator=generator)
        return inputs, inputs.sum(dim=0, keepdim=True)


class LineStream(ExampleStream):
    """The same from a stream of four shards, of which one row is broken."""

    def __init__(self):
        rows = Table.from_dict({"number": list(range(24))}).to_iterable_dataset(num_shards=4)
        super().__init__(rows, shuffle_buffer=7, strict=False)

    def read(self, row, rng):
        if row["number"] == 13:
            raise OSError("number 13 is broken")
        inputs = torch.tensor([row["number"] / 24, *rng.random(3)], dtype=torch.float32)
        return inputs, inputs.sum(dim=0, keepdim=True)


class Network(nn.Module):
    """A backbone with batch norm, and a head with dropout: all that a resumed run could get wrong."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, inputs):
        return self.head(self.backbone(inputs))


class Interruption(Exception):
    pass


class LineTask(Task):
    def __init__(self, interrupt_at=None, spoil_at=None, metrics=None, size=24, streamed=False):
        torch.manual_seed(0)
        self.model = Network()
        self.train_dataset = LineStream() if streamed else Lines(size)
        self.interrupt_at = interrupt_at
        self.spoil_at = spoil_at
        self.metrics = metrics
        self.calls = 0
        self.evaluated = []

    @property
    def backbone(self):
        return self.model.backbone

    def collate(self, examples):
        inputs, targets = zip(*examples, strict=True)
        return {"inputs": torch.stack(inputs), "targets": torch.stack(targets)}

    def loss(self, model, batch):
        self.calls += 1
        if self.interrupt_at == self.calls:
            raise Interruption
        loss = nn.functional.mse_loss(model(batch["inputs"]), batch["targets"])
        return {"loss": loss * float("nan") if self.spoil_at == self.calls else loss}

    def evaluate(self, model, accelerator, folder, epoch):
        assert not model.training
        self.evaluated.append(epoch)
        data = [Lines()[index] for index in range(24)]
        batch = self.collate(data)
        loss = float(nn.functional.mse_loss(model(batch["inputs"]), batch["targets"]))
        return {"loss": loss, "score": self.metrics[epoch - 1] if self.metrics else -loss}

    def save(self, model, folder):
        torch.save(model.state_dict(), folder / "weights.pt")


def arguments(folder, **changes):
    settings = {
        "epochs": 3,
        "batch_size": 5,  # does not divide 24: the last batch is smaller
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "logging_steps": 2,
        "checkpoint_minutes": 0.0,
        "num_workers": 0,
        **changes,
    }
    return LoopArguments(output_dir=str(folder), **settings)


def run(task, folder, **changes):
    loop = TrainingLoop(task, arguments(folder, **changes))
    loop.run()
    return loop


def weights(loop):
    return {name: value.clone() for name, value in loop.task.model.state_dict().items()}


def assert_same(first, second):
    for name in first:
        assert torch.equal(first[name], second[name]), name


def read_metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_run_explains_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("butd_hf.training.journal.draw_curves", draw_curves)
    run(LineTask(), tmp_path, epochs=6, backbone_learning_rate=0.02)
    lines = read_metrics(tmp_path)
    losses = [line["loss"] for line in lines if line["event"] == "evaluation"]
    assert losses[-1] < 0.2 * lines[0]["loss"]
    assert {"step", "epoch", "loss", "learning_rate", "images_per_second"} <= set(lines[0])
    assert json.loads((tmp_path / "arguments.json").read_text())["loop"]["epochs"] == 6
    assert json.loads((tmp_path / "versions.json").read_text())["torch"] == importlib.metadata.version("torch")
    assert (tmp_path / "best" / "weights.pt").is_file()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert latest_state(tmp_path / "last").name == "step-000000030"


VARIANTS = {
    "plain": {},
    "averaged": {"ema_decay": 0.9, "scheduler": "one_cycle"},
    "accumulated": {"gradient_accumulation_steps": 2, "checkpoint_steps": 1},
    "workers": {"num_workers": 1, "scheduler": "linear"},
    # more than once through the rows
    "streamed": {
        **{"steps_per_epoch": 3, "gradient_accumulation_steps": 2, "checkpoint_steps": 1},
        **{"epochs": 2, "evaluate_every": 2},
    },
    "streamed_to_workers": {"steps_per_epoch": 5, "num_workers": 2, "epochs": 2, "evaluate_every": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_resuming_in_the_middle_of_an_epoch_gives_the_same_weights(tmp_path, variant):
    settings = {"checkpoint_steps": 3, **VARIANTS[variant]}
    streamed = "steps_per_epoch" in settings
    whole = run(LineTask(streamed=streamed), tmp_path / "whole", **settings)
    with pytest.raises(Interruption):  # in the second epoch, after a checkpoint within it
        run(LineTask(interrupt_at=10, streamed=streamed), tmp_path / "broken", **settings)
    resumed = run(LineTask(streamed=streamed), tmp_path / "broken", resume=True, **settings)
    assert_same(weights(whole), weights(resumed))
    assert whole.state.step == resumed.state.step
    if whole.average is not None:
        assert_same(whole.average.state_dict(), resumed.average.state_dict())
    steps = [line["step"] for line in read_metrics(tmp_path / "broken") if line["event"] == "training"]
    assert steps == sorted(set(steps))  # steps done twice are logged once


def test_batches_of_a_step_teach_what_one_batch_teaches(tmp_path):
    """However unequal they are, and though the last step of an epoch has fewer."""

    class Weighed(LineTask):
        def loss_weight(self, batch):
            return len(batch["inputs"])

    def train(name, size, **changes):
        changes = {"epochs": 2, "logging_steps": 1, **changes}
        trained = weights(run(Weighed(size=size), tmp_path / name, **changes))
        lines = read_metrics(tmp_path / name)
        return trained, [line["loss"] for line in lines if line["event"] == "training"]

    for size in (18, 14):  # 4 + 4, 4 + 4, 2 examples, and 4 + 4, 4 + 2
        whole, losses = train(f"whole-{size}", size, batch_size=8)
        gathered, logged = train(f"gathered-{size}", size, batch_size=4, gradient_accumulation_steps=2)
        torch.testing.assert_close(gathered, whole, rtol=1e-5, atol=1e-6)
        assert logged == pytest.approx(losses, rel=1e-5)


def test_a_signal_saves_and_stops(tmp_path):
    class Signalled(LineTask):
        def loss(self, model, batch):
            if self.calls == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(model, batch)

    whole = run(LineTask(), tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(Signalled(), tmp_path / "stopped")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert latest_state(tmp_path / "stopped" / "last").name == "step-000000007"
    resumed = run(LineTask(), tmp_path / "stopped", resume=True)
    assert_same(weights(whole), weights(resumed))


def test_half_written_states_are_passed_over(tmp_path):
    run(LineTask(), tmp_path, epochs=1)
    last = tmp_path / "last"
    good = latest_state(last)
    (last / "step-000000099.unfinished").mkdir()
    (last / "step-000000098").mkdir()  # never marked as complete
    (last / "step-000000097").mkdir()
    (last / "step-000000097" / "complete.json").write_text(json.dumps({"files": {"optimizer.bin": 10}}))
    assert latest_state(last) == good
    (good / "optimizer.bin").write_bytes(b"cut")
    assert latest_state(last) is None


def test_an_interrupted_replacement_is_undone(tmp_path):
    best = tmp_path / "best"
    replace_folder(best, lambda folder: (folder / "weights").write_text("old"), {})
    with pytest.raises(Interruption):

        def fail(folder):
            (folder / "weights").write_text("new")
            raise Interruption

        replace_folder(best, fail, {})
    assert (best / "weights").read_text() == "old"
    best.rename(tmp_path / "best.previous")  # as if stopped between the two renames
    recover_folder(best)
    assert (best / "weights").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best"]


def test_the_best_is_kept(tmp_path):
    task = LineTask(metrics=[1.0, 3.0, 2.0])
    loop = run(task, tmp_path, metric_for_best="score")
    assert (loop.state.best, loop.state.best_epoch) == (3.0, 2)
    assert json.loads((tmp_path / "best" / "complete.json").read_text())["epoch"] == 2
    saved = torch.load(tmp_path / "best" / "weights.pt")
    assert not torch.equal(saved["head.1.weight"], task.model.head[1].weight)


def test_a_run_without_a_best_says_so(tmp_path, capsys):
    run(LineTask(metrics=[float("nan")]), tmp_path, epochs=1, metric_for_best="score")
    assert not (tmp_path / "best").exists()
    assert "no evaluation gave a finite score" in capsys.readouterr().err


def test_the_average_is_what_is_saved(tmp_path):
    loop = run(LineTask(), tmp_path, epochs=1, ema_decay=0.99)
    assert_same(torch.load(tmp_path / "best" / "weights.pt"), loop.average.module.state_dict())
    assert not torch.equal(loop.average.module.head[1].weight, loop.task.model.head[1].weight)


def test_early_stopping(tmp_path):
    task = LineTask(metrics=[3.0, 2.0, 1.0, 0.0, 0.0])
    loop = run(task, tmp_path, epochs=5, metric_for_best="score", early_stopping_patience=2)
    assert task.evaluated == [1, 2, 3]
    assert loop.state.best_epoch == 1


def test_not_a_number_stops_and_leaves_the_last_good_state(tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"loss is nan at step 8 of epoch 2(.|\n)*step-000000006"):
        run(LineTask(spoil_at=8), tmp_path, checkpoint_steps=3)
    assert latest_state(tmp_path / "last").name == "step-000000006"
    resumed = run(LineTask(), tmp_path, resume=True)
    assert all(value.isfinite().all() for value in weights(resumed).values())


def test_a_full_disk_leaves_the_last_good_state(tmp_path, monkeypatch, capsys):
    """Of the state and of the best model alike."""
    run(LineTask(), tmp_path, epochs=1)
    whole = sorted(file.relative_to(tmp_path) for file in (tmp_path / "last").rglob("*"))

    def full(self, folder, **options):
        (Path(folder) / "half").write_text("x")
        # what PyTorch makes of a full disk
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598")

    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2**20))
    with monkeypatch.context() as patched:
        patched.setattr("accelerate.Accelerator.save_state", full)
        with pytest.raises(RuntimeError, match="inline_container"):
            run(LineTask(), tmp_path, epochs=2, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "is full (1 MB are free): make room" in said and "step-000000005: the same command with --resume" in said
    assert sorted(file.relative_to(tmp_path) for file in (tmp_path / "last").rglob("*")) == whole

    class Full(LineTask):
        def save(self, model, folder):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(Full(), tmp_path, epochs=2, resume=True)
    assert "make room" in capsys.readouterr().err
    assert is_complete(tmp_path / "best") and not (tmp_path / "best.unfinished").exists()
    assert run(LineTask(), tmp_path, epochs=2, resume=True).state.epoch == 2


def test_nothing_and_one_example(tmp_path):
    with pytest.raises(ValueError, match="the data set is empty"):
        run(LineTask(size=0), tmp_path / "nothing")
    assert run(LineTask(size=1), tmp_path / "one", epochs=2).state.step == 2


def test_a_dead_neighbour_is_told_apart(tmp_path):
    error = RuntimeError("[/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711")
    assert re.match("Another process of this run has died.* Nothing was saved yet", advice(error, tmp_path, None))
    assert advice(KeyError("x"), tmp_path, tmp_path / "step-1").startswith("The last good state is")


def test_the_backbone_keeps_its_statistics_and_learns_at_its_own_rate(tmp_path):
    loop = run(LineTask(), tmp_path, epochs=1, backbone_learning_rate=0.0, scheduler="constant")
    fresh = LineTask().model.state_dict()
    trained = weights(loop)
    for name in fresh:
        assert torch.equal(fresh[name], trained[name]) == name.startswith("backbone"), name
    assert {group["name"] for group in loop.optimizer.param_groups} == {
        "backbone_decayed",
        "backbone_undecayed",
        "head_decayed",
        "head_undecayed",
    }


def test_a_run_is_not_overwritten_nor_resumed_with_another_order(tmp_path):
    run(LineTask(), tmp_path, epochs=1)
    with pytest.raises(FileExistsError, match="holds a run"):
        run(LineTask(), tmp_path, epochs=2)
    with pytest.raises(ValueError, match="batch_size=4: the run had 5"):
        run(LineTask(), tmp_path, epochs=2, batch_size=4, resume=True)
    assert run(LineTask(), tmp_path, epochs=2, resume=True).state.epoch == 2  # more of the same is welcome


def test_tensorboard_sees_each_step_once_over_a_resumption(tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"report_to": ["tensorboard"], "checkpoint_steps": 3}
    with pytest.raises(Interruption):
        run(LineTask(interrupt_at=10), tmp_path, **settings)
    run(LineTask(), tmp_path, resume=True, **settings)
    events = loading.EventAccumulator(str(tmp_path / "trackers" / "butd_hf"))
    events.Reload()
    lines = read_metrics(tmp_path)
    for event, name in (("training", "loss"), ("training", "learning_rate"), ("evaluation", "score")):
        logged = [(line["step"], line[name]) for line in lines if line["event"] == event]
        seen = [(scalar.step, scalar.value) for scalar in events.Scalars(f"{event}/{name}")]
        assert [step for step, _ in seen] == [step for step, _ in logged]
        assert [value for _, value in seen] == pytest.approx([value for _, value in logged], rel=1e-5)


def test_an_epoch_of_a_stream_has_the_length_that_was_said(tmp_path):
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1 to train on a stream, got 0"):
        run(LineTask(streamed=True), tmp_path)
    with pytest.raises(ValueError, match=r"steps_per_epoch is for streams, got 2: .* the 24 examples"):
        run(LineTask(), tmp_path, steps_per_epoch=2)
    loop = run(LineTask(streamed=True), tmp_path, steps_per_epoch=2, epochs=1)
    assert loop.state.step == 2 and loop.scheduler.get_last_lr()[-1] == pytest.approx(0, abs=1e-9)  # ran its course
    with pytest.raises(ValueError, match="num_workers=2: the run had 1"):
        run(LineTask(streamed=True), tmp_path, steps_per_epoch=2, epochs=2, num_workers=2, resume=True)


def test_max_steps_ends_within_an_epoch(tmp_path):
    loop = run(LineTask(), tmp_path, max_steps=7)
    assert loop.state.step == 7


@pytest.mark.parametrize(
    ("size", "num_processes", "sizes"),
    [(10, 1, None), (10, 2, None), (3, 4, None), (10, 2, [3, 1, 2, 3, 1, 2, 3, 1, 2, 2])],
)
def test_batches_start_in_the_middle_and_share_out_evenly(size, num_processes, sizes):
    batches = EpochBatches(size, batch_size=2, seed=1, num_processes=num_processes, sizes=sizes)
    batches.begin(3)
    whole = list(batches)
    assert len(whole) == len(batches) == batches.batches_per_process * num_processes
    assert {index for batch in whole for index in batch} == set(range(size))
    batches.begin(3, consumed=1)
    assert list(batches) == whole[num_processes:]
    batches.begin(4)
    assert list(batches) != whole


def test_batches_of_similar_sizes():
    sizes = [(7 * index) % 20 for index in range(103)]
    batches = list(EpochBatches(103, batch_size=4, seed=1, sizes=sizes))
    assert sorted(index for batch in batches for index in batch) == list(range(103)) and len(batches[-1]) == 3
    spread = [max(sizes[index] for index in batch) - min(sizes[index] for index in batch) for batch in batches[:-1]]
    assert sum(spread) < 3 * len(spread)
    largest = [max(sizes[index] for index in batch) for batch in batches[:-1]]
    assert largest != sorted(largest)  # small ones don't come first


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"epochs": 0}, "epochs"), ({"ema_decay": 1.0}, "ema_decay"), ({"learning_rate": -1.0}, "learning_rate")],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        LoopArguments(output_dir="x", **changes)
