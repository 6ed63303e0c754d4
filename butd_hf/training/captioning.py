# SPDX-License-Identifier: Apache-2.0
"""The captioning task: images or stored regions with their captions in, generated captions scored."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.utils.data import DataLoader, Subset

from ..data.region_store import StoredRegions
from ..metrics import CaptioningMetric
from ..progress import images_progress
from .caption_examples import CaptionDataset, CaptionExample, CaptionStream
from .frozen_stages import collate_cells
from .task import Task


REGION_INPUTS = ("region_features", "region_boxes", "region_mask")


def collate_regions(regions: Sequence[StoredRegions]) -> dict[str, torch.Tensor]:
    """A batch of the model's region inputs, padded to the image with the most regions."""
    most = max(len(each.mask) for each in regions)
    region_size = regions[0].features.shape[1]
    features = np.zeros((len(regions), most, region_size), dtype=np.float32)
    boxes = np.zeros((len(regions), most, 4), dtype=np.float32)
    mask = np.zeros((len(regions), most), dtype=bool)
    for row, each in enumerate(regions):
        count = len(each.mask)
        features[row, :count] = each.features
        boxes[row, :count] = each.boxes
        mask[row, :count] = each.mask
    return dict(zip(REGION_INPUTS, map(torch.from_numpy, (features, boxes, mask)), strict=True))


class CaptioningTask(Task):
    """
    Trains a `ButdForConditionalGeneration` with a `ButdProcessor`.

    Args:
        model: The model. If regions come from a store, its bottom-up half must be frozen.
        processor: Prepares images and captions, as it will at inference.
        train_dataset: Examples to learn from; every image must come with as many captions.
        eval_dataset: Examples to caption and score, with all of their captions.
        max_length: Longest caption in tokens, the begin token included; longer ones are cut.
        num_beams: Beams of the evaluation, and of the saved model unless told otherwise.
        max_new_tokens: Longest generated caption, likewise.
        eval_batch_size: Images per batch of the evaluation.
        num_workers: Loader processes of the evaluation.
        stored_stages: The stores hold the output of frozen stages that the model's backbone skips, not regions.
        settings: What else describes the task in the run folder.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        train_dataset: CaptionDataset | CaptionStream,
        eval_dataset: CaptionDataset,
        *,
        max_length: int = 24,
        num_beams: int = 3,
        max_new_tokens: int = 24,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        stored_stages: bool = False,
        settings: dict[str, Any] | None = None,
    ):
        known, words = model.config.top_down_config.vocab_size, len(processor.tokenizer)
        if words > known:
            raise ValueError(f"processor has {words} tokens, the model {known}: take the processor saved with it.")
        self.model = model
        self.processor = processor
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.max_length = max_length
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.stored_stages = stored_stages
        self._settings = settings or {}
        self.metric = CaptioningMetric()
        # saved with the model, so that it captions as it was evaluated; an unknown word is no word to say
        unknown = processor.tokenizer.unk_token_id
        model.generation_config.update(
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            suppress_tokens=None if unknown is None else [unknown],
        )

    @property
    def backbone(self) -> nn.Module:
        return self.model.base_model.bottom_up.backbone

    def settings(self) -> dict[str, Any]:
        return {"kind": "captioning", "learned_from": self.train_dataset.describe(), **self._settings}

    def card(self) -> dict[str, Any]:
        beams = self.model.generation_config.num_beams
        evaluation = {"num_images": len(self.eval_dataset), "num_beams": beams}
        return {"task": "image-to-text", "learned_from": self.train_dataset.describe(), "evaluation": evaluation}

    def collate(self, examples: list[CaptionExample]) -> dict[str, torch.Tensor]:
        captions = self.processor.encode_captions(
            [example.captions for example in examples], max_length=self.max_length
        )
        return {**self.collate_images(examples), **captions}

    def loss_weight(self, batch: dict[str, torch.Tensor]) -> int:
        return int((batch["labels"] != -100).sum())

    def collate_images(self, examples: list[CaptionExample]) -> dict[str, torch.Tensor]:
        """What the model sees of a batch of examples."""
        if examples[0].regions is not None:
            collate = collate_cells if self.stored_stages else collate_regions
            return collate([example.regions for example in examples])
        inputs = self.processor(images=[example.image for example in examples], return_tensors="pt")
        inputs = {name: inputs[name] for name in ("pixel_values", "pixel_mask") if name in inputs}
        # convolutions are faster with channels last, on CPUs above all
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
        return inputs

    def collate_evaluation(self, examples: list[CaptionExample]) -> dict[str, Any]:
        """Images with all their captions: `encoded` by the processor, and how many of them belong to each."""
        captions = self.processor.encode_captions(
            [example.captions for example in examples], max_length=self.max_length
        )
        counts = [len(example.captions) for example in examples]
        indices = [example.index for example in examples]
        images = self.collate_images(examples)
        return {"images": images, "captions": dict(captions), "counts": counts, "indices": indices}

    def evaluate(self, model: nn.Module, accelerator: Accelerator, folder: Path, epoch: int) -> dict[str, float]:
        """
        Captions the evaluation images and scores the captions.

        Returns:
            The scores of `CaptioningMetric`, and `loss`, the mean token loss of the references.
        """
        device = accelerator.device
        own = range(accelerator.process_index, len(self.eval_dataset), accelerator.num_processes)
        loader = DataLoader(
            Subset(self.eval_dataset, list(own)),
            batch_size=self.eval_batch_size,
            collate_fn=self.collate_evaluation,
            num_workers=self.num_workers,
        )
        captioned: list[tuple[int, str]] = []
        loss_sum, num_tokens = 0.0, 0
        with images_progress(enabled=accelerator.is_main_process) as progress:
            bar = progress.add_task("captioning", total=len(own))
            for batch in loader:
                regions = self.regions(model, {name: value.to(device) for name, value in batch["images"].items()})
                captions = {name: value.to(device) for name, value in batch["captions"].items()}
                tokens = int((captions["labels"] != -100).sum())
                loss_sum += self.reference_loss(model, regions, captions, batch["counts"]) * tokens
                num_tokens += tokens
                texts = self.processor.batch_decode(model.generate(**regions), skip_special_tokens=True)
                captioned.extend(zip(batch["indices"], (text.strip() for text in texts), strict=True))
                progress.advance(bar, len(texts))

        captioned = sorted(gather_object(captioned))
        losses = gather_object([(loss_sum, num_tokens)])
        scores: dict[str, float] = {}
        if accelerator.is_main_process:
            self.write_predictions(captioned, folder / f"epoch-{epoch:03d}.jsonl")
            predictions = [text for _, text in captioned]
            references = [self.eval_dataset.captions[index] for index, _ in captioned]
            scores = self.metric.compute(predictions=predictions, references=references, meteor=False)
            scores["loss"] = sum(loss for loss, _ in losses) / max(sum(count for _, count in losses), 1)
        return broadcast_object_list([scores])[0]

    def regions(self, model: nn.Module, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Region inputs of the model, computed once for both loss and generation."""
        if "pixel_values" not in images:
            return images
        found = model.base_model.bottom_up(**images)
        return dict(zip(REGION_INPUTS, (found.features, found.boxes, found.mask), strict=True))

    def reference_loss(
        self,
        model: nn.Module,
        regions: dict[str, torch.Tensor],
        captions: dict[str, torch.Tensor],
        counts: list[int],
    ) -> float:
        """Mean token loss of the reference captions, of which images may have different numbers."""
        if len(set(counts)) > 1:  # the model wants as many for each image: repeat each image instead
            repeats = torch.tensor(counts, device=captions["labels"].device)
            regions = {name: value.repeat_interleave(repeats, dim=0) for name, value in regions.items()}
        return float(model(**regions, **captions).loss)

    def write_predictions(self, captioned: list[tuple[int, str]], file: Path) -> None:
        """A line per image: what the model said, and what people said."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8") as opened:
            for index, text in captioned:
                line = {
                    "image_id": self.eval_dataset.image_ids[index],
                    "prediction": text,
                    "references": self.eval_dataset.captions[index],
                }
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")

    def save(self, model: nn.Module, folder: Path) -> None:
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
