"""The question answering task: images or stored regions with questions in, the best answers scored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.data
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..data.answers import TargetForm, answer_scores
from ..data.region_store import RegionStore, StoredRegions
from ..data.views import MIRRORED_VIEWS, Augmentation, load_image, mirror_caption
from ..metrics.question_answering import score_answers
from ..progress import images_progress
from .captioning import REGION_INPUTS, collate_regions
from .frozen_stages import collate_cells
from .task import Task


QUESTION_INPUTS = ("input_ids", "attention_mask")


@dataclass
class QuestionExample:
    """One question about one image, as a picture or as its stored regions, with how right each answer is."""

    index: int
    question: str
    scores: dict[str, float]
    draw: float  # in [0, 1), which of several right answers to learn
    image: Image.Image | None = None
    regions: StoredRegions | None = None


class QuestionDataset(torch.utils.data.Dataset):
    """
    Questions about images. An example depends only on its index, the epoch and the seed.

    Where a picture is mirrored, left and right change places in its question and answers too.

    Args:
        table: What `load_questions` returns.
        form: How answers of several people count, see `answer_scores`.
        augmentation: Of pictures.
        store: Regions to use instead of pictures; one of its views is drawn each epoch.
        ask: False leaves every question empty: what can the picture alone tell?
        look: False leaves pictures out: what can the question alone tell?
        seed: Of what is drawn.
    """

    def __init__(
        self,
        table: Dataset,
        *,
        form: TargetForm = "leave_one_out",
        augmentation: Augmentation | None = None,
        store: RegionStore | None = None,
        ask: bool = True,
        look: bool = True,
        seed: int = 0,
    ):
        # plain lists: reading a row of a table costs more than decoding a small picture
        self.paths: list[str] = list(table["image"])
        self.image_ids: list[str] = list(table["image_id"])
        self.question_ids: list[str] = list(table["question_id"])
        self.questions: list[str] = list(table["question"])
        self.answers: list[list[str]] = list(table["answers"])
        self.together: list[bool] = list(table["together"])
        self.question_types: list[str] = list(table["question_type"])
        self.answer_types: list[str] = list(table["answer_type"])
        pairs = zip(self.answers, self.together, strict=True)
        self.scores = [answer_scores(answers, together=together, form=form) for answers, together in pairs]
        self.augmentation = augmentation
        self.store = store
        self.ask = ask
        self.look = look
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Changes what is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> QuestionExample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        image, regions, mirrored = None, None, False
        if self.look and self.store is not None:
            view = self.store.views[rng.integers(len(self.store.views))]
            regions, mirrored = self.store[self.image_ids[index], view], view in MIRRORED_VIEWS
        elif self.look:
            image = load_image(self.paths[index])
            if self.augmentation is not None:
                image, mirrored = self.augmentation(image, rng)
        question = self.questions[index] if self.ask else ""
        scores = self.scores[index]
        if mirrored:
            question = mirror_caption(question)
            scores = {mirror_caption(answer): score for answer, score in scores.items()}
        return QuestionExample(index, question, scores, rng.random(), image, regions)


class QuestionAnsweringTask(Task):
    """
    Trains a `ButdForQuestionAnswering` with a `ButdProcessor`.

    Args:
        model: The model, whose `config.label2id` are the answers. If regions come from a store, its bottom-up half
            must be frozen.
        processor: Prepares images and questions, as it will at inference.
        train_dataset: Examples to learn from. Where the model knows none of the answers, `"bce"` learns that all of
            its own are wrong, and `"ce"` nothing.
        eval_dataset: Questions to answer and score.
        loss: `"bce"` scores every answer by itself against how right it is; `"ce"` is the cross-entropy of one right
            answer, drawn anew each epoch, the more often the more it is right.
        max_length: Longest question in tokens; longer ones are cut.
        eval_batch_size: Questions per batch of the evaluation.
        num_workers: Loader processes of the evaluation.
        stored_stages: The stores hold the output of frozen stages that the model's backbone skips, not regions.
        settings: What else describes the task in the run folder.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        train_dataset: QuestionDataset,
        eval_dataset: QuestionDataset,
        *,
        loss: Literal["bce", "ce"] = "bce",
        max_length: int = 32,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        stored_stages: bool = False,
        settings: dict[str, Any] | None = None,
    ):
        if loss not in ("bce", "ce"):
            raise ValueError(f"loss must be 'bce' or 'ce', got {loss!r}.")
        if len(set(eval_dataset.together)) > 1:
            raise ValueError("The evaluation mixes questions whose answers are right together with others.")
        self.model = model
        self.processor = processor
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.loss_kind = loss
        self.max_length = max_length
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.stored_stages = stored_stages
        self._settings = settings or {}
        self.label2id: dict[str, int] = model.config.label2id
        self.answers = [model.config.id2label[label] for label in range(model.config.num_labels)]
        if not any(answer in self.label2id for scores in train_dataset.scores for answer in scores):
            raise ValueError(
                f"None of the answers to learn is among the model's {len(self.answers)}: {self.answers[:5]} ..."
            )
        self.region_size: int = model.base_model.bottom_up.region_size

    @property
    def backbone(self) -> nn.Module:
        return self.model.base_model.bottom_up.backbone

    def settings(self) -> dict[str, Any]:
        return {"kind": "question answering", "train_questions": len(self.train_dataset), **self._settings}

    def collate(self, examples: list[QuestionExample]) -> dict[str, torch.Tensor]:
        questions = self.collate_questions([example.question for example in examples])
        return {**self.collate_images(examples), **questions, "labels": self.targets(examples)}

    def collate_questions(self, questions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Tokens of the questions, as the processor makes them at inference, the longest cut."""
        options = {"truncation": True, "max_length": self.max_length}
        encoded = self.processor(text=list(questions), return_tensors="pt", **options)
        return {name: encoded[name] for name in QUESTION_INPUTS}

    def collate_images(self, examples: list[QuestionExample]) -> dict[str, torch.Tensor]:
        """What the model sees of the pictures of a batch."""
        if examples[0].regions is not None:
            collate = collate_cells if self.stored_stages else collate_regions
            return collate([example.regions for example in examples])
        if examples[0].image is None:  # no picture: one region that doesn't exist
            features, boxes = torch.zeros(len(examples), 1, self.region_size), torch.zeros(len(examples), 1, 4)
            mask = torch.zeros(len(examples), 1, dtype=torch.bool)
            return dict(zip(REGION_INPUTS, (features, boxes, mask), strict=True))
        inputs = self.processor(images=[example.image for example in examples], return_tensors="pt")
        inputs = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        # convolutions are faster with channels last, on CPUs above all
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        return inputs

    def targets(self, examples: list[QuestionExample]) -> torch.Tensor:
        """How right each of the model's answers is, (batch_size, num_labels); for `"ce"` one label, (batch_size,)."""
        targets = torch.zeros(len(examples), len(self.answers))
        for row, example in enumerate(examples):
            for answer, score in example.scores.items():
                if answer in self.label2id:
                    targets[row, self.label2id[answer]] = score
        if self.loss_kind != "ce":
            return targets
        drawn = torch.full((len(examples),), -100)
        for row, example in enumerate(examples):
            weights = targets[row].numpy().astype(np.float64)
            if weights.any():
                place = np.searchsorted(weights.cumsum(), example.draw * weights.sum(), side="right")
                drawn[row] = int(place)
        return drawn

    def evaluate(self, model: nn.Module, accelerator: Accelerator, folder: Path, epoch: int) -> dict[str, float]:
        """
        Answers the evaluation questions and scores the answers.

        Returns:
            The scores of `score_answers` without its tables, and `loss` as in training.
        """
        device = accelerator.device
        own = range(accelerator.process_index, len(self.eval_dataset), accelerator.num_processes)
        loader = DataLoader(
            Subset(self.eval_dataset, list(own)),
            batch_size=self.eval_batch_size,
            collate_fn=self.collate_evaluation,
            num_workers=self.num_workers,
        )
        answered: list[tuple[int, str]] = []
        loss_sum, num_counting = 0.0, 0
        with images_progress(enabled=accelerator.is_main_process) as progress:
            bar = progress.add_task("answering", total=len(own))
            for indices, inputs in loader:
                inputs = {name: value.to(device) for name, value in inputs.items()}
                labels = inputs.pop("labels")
                logits = model(**inputs).logits  # (batch_size, num_labels)
                counting = len(indices) if self.loss_kind == "bce" else int((labels != -100).sum())
                if counting:
                    loss_sum += float(model.loss(logits, labels)) * counting
                    num_counting += counting
                best = logits.argmax(dim=1).tolist()
                answered.extend((index, self.answers[label]) for index, label in zip(indices, best, strict=True))
                progress.advance(bar, len(indices))

        answered = sorted(gather_object(answered))
        losses = gather_object([(loss_sum, num_counting)])
        scores: dict[str, float] = {}
        if accelerator.is_main_process:
            self.write_predictions(answered, folder / f"epoch-{epoch:03d}.jsonl")
            scores = score_answers(
                [answer for _, answer in answered],
                [self.eval_dataset.answers[index] for index, _ in answered],
                together=self.eval_dataset.together[0],
            )
            scores["loss"] = sum(loss for loss, _ in losses) / max(sum(count for _, count in losses), 1)
        return broadcast_object_list([scores])[0]

    def collate_evaluation(self, examples: list[QuestionExample]) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Places of the examples in the data set, and inputs of the model without anything dropped."""
        questions = self.collate_questions([example.question for example in examples])
        inputs = {**self.collate_images(examples), **questions, "labels": self.targets(examples)}
        return [example.index for example in examples], inputs

    def write_predictions(self, answered: list[tuple[int, str]], file: Path) -> None:
        """A line per question: what the model said, and what people said."""
        data = self.eval_dataset
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8") as opened:
            for index, answer in answered:
                line = {
                    "image_id": data.image_ids[index],
                    "question_id": data.question_ids[index],
                    "question": data.questions[index],
                    "prediction": answer,
                    "references": data.answers[index],
                }
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")

    def save(self, model: nn.Module, folder: Path) -> None:
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


__all__ = ["QuestionAnsweringTask", "QuestionDataset", "QuestionExample"]
