# SPDX-License-Identifier: Apache-2.0
"""The question answering task: images or stored regions with questions in, the best answers scored."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..data.answers import TargetForm, answer_scores
from ..data.region_rows import StoredRegions
from ..data.region_store import RegionStore
from ..data.transforms import MIRRORED_VIEWS, Augmentation, load_image, mirror_caption
from ..metrics.question_answering import score_answers
from ..progress import images_progress
from .answer_teachers import AnswerTeachers
from .caption_examples import draw_captions
from .captioning import REGION_INPUTS, collate_regions
from .example_table import ExampleTable
from .frozen_stages import collate_cells
from .task import Task


QUESTION_INPUTS = ("input_ids", "attention_mask")


@dataclass
class QuestionExample:
    """Questions about one image, as a picture or as its stored regions, with how right each answer is."""

    indices: list[int]  # of the questions in the data set, without foreign ones, which come after them
    questions: list[str]
    scores: list[dict[str, float]]
    draws: list[float]  # in [0, 1), which of several right answers to learn
    image: Image.Image | None = None
    regions: StoredRegions | None = None


class QuestionDataset(ExampleTable[QuestionExample]):
    """
    Questions about images. An example depends only on its index, the epoch and the seed.

    Where a picture is mirrored, left and right change places in its question and answers too.

    Args:
        table: What `load_questions` returns.
        form: How answers of several people count, see `answer_scores`.
        augmentation: Of pictures.
        store: Regions to use instead of pictures; one of its views is drawn each epoch.
        questions_per_image: Questions drawn from those about an image, anew each epoch, which makes an example of
            each image: it is looked at once for all of them. 0 makes an example of each question.
        foreign_questions: Questions drawn from all, so nearly always about other images, that each example asks about
            its image too, after its own. They have no scores: teachers answer them.
        ask: False leaves every question empty: what can the picture alone tell?
        look: False leaves pictures out: what can the question alone tell?
        seed: Of what is drawn.
        strict: Whether a picture that can't be read is an error. Otherwise the next question takes its place, with a
            warning that names it and counts.
    """

    def __init__(
        self,
        table: Dataset,
        *,
        form: TargetForm = "leave_one_out",
        augmentation: Augmentation | None = None,
        store: RegionStore | None = None,
        questions_per_image: int = 0,
        foreign_questions: int = 0,
        ask: bool = True,
        look: bool = True,
        seed: int = 0,
        strict: bool = True,
    ):
        super().__init__(seed=seed, strict=strict)
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
        self.questions_per_image = questions_per_image
        self.foreign_questions = foreign_questions
        about: dict[str, list[int]] = {}
        for index, image_id in enumerate(self.image_ids):
            about.setdefault(image_id, []).append(index)
        self.about = list(about.values())
        self.ask = ask
        self.look = look

    def __len__(self) -> int:
        return len(self.about) if self.questions_per_image else len(self.questions)

    def read(self, index: int) -> QuestionExample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        indices = [index]
        if self.questions_per_image:
            indices = draw_captions(self.about[index], self.questions_per_image, rng)
        image, regions, mirrored = None, None, False
        if self.look and self.store is not None:
            view = self.store.views[rng.integers(len(self.store.views))]
            regions, mirrored = self.store[self.image_ids[indices[0]], view], view in MIRRORED_VIEWS
        elif self.look:
            image = load_image(self.paths[indices[0]])
            if self.augmentation is not None:
                image, mirrored = self.augmentation(image, rng)
        foreign = rng.integers(len(self.questions), size=self.foreign_questions).tolist()
        questions = [self.questions[each] if self.ask else "" for each in indices + foreign]
        scores = [self.scores[each] for each in indices] + [{} for _ in foreign]
        if mirrored:
            questions = [mirror_caption(question) for question in questions]
            scores = [{mirror_caption(answer): score for answer, score in each.items()} for each in scores]
        return QuestionExample(indices, questions, scores, rng.random(len(questions)).tolist(), image, regions)


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
        teachers: Answer the questions without a label, with `"ce"`; their cross-entropy is added to the loss.
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
        teachers: AnswerTeachers | None = None,
        max_length: int = 32,
        eval_batch_size: int = 128,
        num_workers: int = 0,
        stored_stages: bool = False,
        settings: dict[str, Any] | None = None,
    ):
        if loss not in ("bce", "ce"):
            raise ValueError(f"loss must be 'bce' or 'ce', got {loss!r}.")
        if (teachers is None) != (train_dataset.foreign_questions == 0) or (teachers is not None and loss != "ce"):
            raise ValueError(
                "teachers, foreign_questions of the training set and loss='ce' need each other, got "
                f"{'no' if teachers is None else len(teachers.models)} teachers, {train_dataset.foreign_questions} "
                f"foreign questions and loss={loss!r}."
            )
        if len(set(eval_dataset.together)) > 1:
            raise ValueError("The evaluation mixes questions whose answers are right together with others.")
        self.model = model
        self.processor = processor
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.loss_kind = loss
        self.teachers = teachers
        self.max_length = max_length
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.stored_stages = stored_stages
        self._settings = settings or {}
        if eval_dataset.questions_per_image:
            raise ValueError("The evaluation needs every question: leave out its questions_per_image.")
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

    def card(self) -> dict[str, Any]:
        return {
            "task": "visual-question-answering",
            "learned_from": f"{len(self.train_dataset.questions):,} questions about pictures",
            "evaluation": {"num_questions": len(self.eval_dataset)},
        }

    def collate(self, examples: list[QuestionExample]) -> dict[str, torch.Tensor]:
        questions = self.collate_questions([question for example in examples for question in example.questions])
        return {**self.collate_images(examples), **questions, "labels": self.targets(examples)}

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.teachers is None:
            return super().loss(model, batch)
        outputs = model(**batch)
        unanswered = batch["labels"] == -100  # at least the foreign questions
        opinions = self.teachers(batch)[unanswered]
        taught = nn.functional.cross_entropy(outputs.logits[unanswered].float(), opinions)
        return {"loss": outputs.loss + taught, "loss_labels": outputs.loss, "loss_teachers": taught}

    def loss_weight(self, batch: dict[str, torch.Tensor]) -> int:
        return int((batch["labels"] != -100).sum()) if self.loss_kind == "ce" else len(batch["labels"])

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
        scores = [each for example in examples for each in example.scores]
        targets = torch.zeros(len(scores), len(self.answers))
        for row, each in enumerate(scores):
            for answer, score in each.items():
                if answer in self.label2id:
                    targets[row, self.label2id[answer]] = score
        if self.loss_kind != "ce":
            return targets
        drawn = torch.full((len(scores),), -100)
        for row, draw in enumerate(draw for example in examples for draw in example.draws):
            weights = targets[row].numpy().astype(np.float64)
            if weights.any():
                drawn[row] = int(np.searchsorted(weights.cumsum(), draw * weights.sum(), side="right"))
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
            for indices, images, places, inputs in loader:
                inputs = {name: value.to(device) for name, value in inputs.items()}
                labels = inputs.pop("labels")
                # questions about one picture follow one another: it is looked at once for all of them
                regions = model.look(**{name: value.to(device) for name, value in images.items()})
                parts = (regions.features, regions.boxes, regions.mask)
                inputs.update({name: part[places] for name, part in zip(REGION_INPUTS, parts, strict=True)})
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

    def collate_evaluation(
        self, examples: list[QuestionExample]
    ) -> tuple[list[int], dict[str, torch.Tensor], list[int], dict[str, torch.Tensor]]:
        """Places of the questions in the data set, their images, which image each is about, and the other inputs."""
        ids = [self.eval_dataset.image_ids[example.indices[0]] for example in examples]
        first = {image_id: row for row, image_id in reversed(list(enumerate(ids)))}
        order = {image_id: place for place, image_id in enumerate(first)}
        images = self.collate_images([examples[row] for row in first.values()])
        questions = self.collate_questions([example.questions[0] for example in examples])
        inputs = {**questions, "labels": self.targets(examples)}
        indices = [example.indices[0] for example in examples]
        return indices, images, [order[image_id] for image_id in ids], inputs

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
