# SPDX-License-Identifier: Apache-2.0
"""Self-critical training of captions: the model is rewarded for whole captions that score well."""

from typing import Any, Literal, get_args

import torch
from torch import nn

from ..metrics.cider import CiderD
from ..metrics.tokenizer import tokenize_captions
from .samples import SampleTable
from .trainer import ButdTrainer


Baseline = Literal["mean", "greedy", "beam"]
END = "</s>"  # a word of its own in the reward: a caption that stops in the middle lacks it
IMAGE_INPUTS = ("pixel_values", "pixel_mask", "region_features", "region_boxes", "region_mask")


class SelfCriticalTrainer(ButdTrainer):
    """Continues the training of a captioner by REINFORCE on CIDEr-D (Rennie et al. 2017, arXiv 1612.00563).

    Several captions of each image are sampled; each one's advantage is its CIDEr-D minus a baseline. The end of a
    caption counts as a word of it: without that, models learn to leave captions unfinished.

    Args:
        num_samples: Captions sampled per image; at least two with `baseline="mean"`.
        baseline: What a sample has to beat. `"mean"`: the mean of the image's other samples (Luo 2020, arXiv
            2003.09971), which needs no second decoding and is unbiased. `"greedy"`: the caption of greedy search
            (Rennie et al.). `"beam"`: that of the evaluation's beam search.
        temperature: Of the model that samples and learns. Below one, samples have fewer of the odd words to which
            label smoothing gave a share.

    The other arguments are those of `ButdTrainer`.
    """

    def __init__(
        self,
        *args: Any,
        num_samples: int = 5,
        baseline: Baseline = "mean",
        temperature: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if baseline not in get_args(Baseline):
            raise ValueError(f"baseline must be one of {get_args(Baseline)}, got {baseline!r}.")
        least = 2 if baseline == "mean" else 1  # the mean compares each with the others
        if num_samples < least:
            raise ValueError(f"num_samples must be at least {least}, got {num_samples}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        if not isinstance(self.train_dataset, SampleTable):
            raise ValueError(
                f"train_dataset must be a SampleTable, got {type(self.train_dataset).__name__}: the reward weighs "
                f"words by how many of its images have them."
            )
        self.num_samples = num_samples
        self.baseline = baseline
        self.temperature = temperature
        self.scorer = build_scorer([row["captions"] for row in self.train_dataset.rows])
        self.loss_is_scaled_for_ga = False  # a mean of each batch: nobody knows before how many words there will be

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        images = {name: inputs[name] for name in IMAGE_INPUTS if name in inputs}
        bare = self.accelerator.unwrap_model(model)
        model.eval()  # without dropout: the model that samples and the one that learns are the same
        forbidden = self.forbidden_tokens(bare)
        with torch.no_grad():
            sequences = bare.generate(
                **images,
                do_sample=True,
                num_beams=1,
                num_return_sequences=self.num_samples,
                temperature=self.temperature,
                top_k=0,
                suppress_tokens=forbidden,
            )  # (batch_size * num_samples, length)
        rewards = self.rewards(sequences, inputs["rows"])  # (batch_size, num_samples)
        advantages = (rewards - self.baselines(bare, images, rewards, inputs["rows"])).flatten()

        labels = sequences[:, 1:].masked_fill(sequences[:, 1:] == bare.config.pad_token_id, -100)
        logits = model(**images, input_ids=sequences[:, :-1]).logits  # (batch_size * num_samples, length, vocab_size)
        # a token that is never sampled is never punished: probability would flow to it without end
        index = torch.tensor(forbidden, device=logits.device)
        logits = logits.float().index_fill(2, index, torch.finfo(torch.float32).min) / self.temperature
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses = losses.view(labels.shape)  # minus the log-probability of each sampled token
        return (losses * advantages[:, None]).sum() / (labels != -100).sum()

    @torch.no_grad()
    def baselines(
        self, model: nn.Module, images: dict[str, torch.Tensor], rewards: torch.Tensor, rows: list[int]
    ) -> torch.Tensor:
        """What each sample has to beat: (batch_size, num_samples), or (batch_size, 1) if it is the same for all."""
        if self.baseline == "mean":
            return (rewards.sum(dim=1, keepdim=True) - rewards) / (self.num_samples - 1)
        beams = 1 if self.baseline == "greedy" else model.generation_config.num_beams
        return self.rewards(model.generate(**images, do_sample=False, num_beams=beams), rows)

    def forbidden_tokens(self, model: nn.Module) -> list[int]:
        """Tokens that no caption holds: unknown words, what else the checkpoint suppresses, and padding."""
        suppressed = model.generation_config.suppress_tokens or []
        return sorted({*suppressed, model.config.pad_token_id, model.config.bos_token_id})

    def rewards(self, sequences: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """CIDEr-D, 0 to 10, of captions, as many of each image, against their references: a row for each image."""
        processor = self.task.processor
        texts = tokenize_captions(processor.batch_decode(sequences, skip_special_tokens=True))
        ended = (sequences == processor.tokenizer.eos_token_id).any(dim=1).tolist()
        candidates = [f"{text} {END}" if end else text for text, end in zip(texts, ended, strict=True)]
        images = [row for row in rows for _ in range(len(sequences) // len(rows))]
        rewards = torch.as_tensor(self.scorer.score(candidates, images), dtype=torch.float32, device=sequences.device)
        return rewards.view(len(rows), -1)  # (batch_size, captions of each image)


def build_scorer(captions: list[list[str]]) -> CiderD:
    """CIDEr-D against the captions of images, by their place, each with its end as a word."""
    return CiderD([[f"{text} {END}" for text in tokenize_captions(each)] for each in captions])


__all__ = ["SelfCriticalTrainer", "build_scorer"]
