# SPDX-License-Identifier: Apache-2.0
import pytest
from datasets import Dataset
from transformers import TrainingArguments

import butd_hf
from butd_hf.training.captioning import CaptionTask
from butd_hf.training.samples import SampleTable
from butd_hf.training.trainer import ButdTrainer


CAPTIONS = [
    ["a brown dog runs on the green grass", "a dog runs on grass"],
    ["two cats sit on a red mat", "two cats sit near the window"],
    ["a man is riding a white horse on the beach"],
]


@pytest.fixture
def caption_rows(image_paths):
    return Dataset.from_dict({"image": image_paths, "image_id": ["0", "1", "2"], "captions": CAPTIONS})


@pytest.fixture
def build(tiny_checkpoint, caption_rows, tmp_path):
    """Makes a trainer of the tiny captioner; options are those of `TrainingArguments`, or `own` of the trainer."""

    def trainer(trainer_class=ButdTrainer, own=None, **options):
        model = butd_hf.ButdForConditionalGeneration.from_pretrained(tiny_checkpoint)
        model.generation_config.update(max_new_tokens=8)
        task = CaptionTask(butd_hf.ButdProcessor.from_pretrained(tiny_checkpoint), captions_per_image=2)
        settings = {"per_device_train_batch_size": 1, "learning_rate": 1e-2, "report_to": "none", "use_cpu": True}
        settings.update(disable_tqdm=True, logging_steps=1, output_dir=tmp_path / "run", logging_nan_inf_filter=False)
        args = TrainingArguments(**{**settings, **options})
        samples = SampleTable(caption_rows, task.read, training=True)
        return trainer_class(model, args, task, samples, SampleTable(caption_rows, task.read), **(own or {}))

    return trainer
