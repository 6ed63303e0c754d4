# SPDX-License-Identifier: Apache-2.0
"""Self-critical training of captions: the model is rewarded for whole captions that score well."""

from typing import Any, Literal, get_args

import torch
from torch import nn

from ..metrics.cider import CiderD
from ..metrics.tokenizer import tokenize_captions
from .caption_examples import CaptionDataset, CaptionExample
from .captioning import CaptioningTask


Baseline = Literal["mean", "greedy", "beam"]
END = "</s>"  # a word of its own in the reward: a caption that stops in the middle lacks it


class SelfCriticalTask(CaptioningTask):
    """
    Continues the training of a captioner by REINFORCE on CIDEr-D (Rennie et al. 2017, arXiv 1612.00563).

    Several captions of each image are sampled; each one's advantage is its CIDEr-D minus a baseline. The end of a
    caption counts as a word of it: without that, models learn to leave captions unfinished.

    Args:
        num_samples: Captions sampled per image; at least two with `baseline="mean"`.
        baseline: What a sample has to beat. `"mean"`: the mean of the image's other samples (Luo 2020, arXiv
            2003.09971), which needs no second decoding and is unbiased. `"greedy"`: the caption of greedy search
            (Rennie et al.). `"beam"`: that of the evaluation's beam search, which the model will be used with.
        temperature: Of the model that samples and learns. Below one, it says little of the odd words to which label
            smoothing gave a share, and of which samples would otherwise be full.

    The other arguments are those of `CaptioningTask`.
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
        if num_samples < 2 and baseline == "mean":
            raise ValueError(f"num_samples must be at least 2, to compare each with the others, got {num_samples}.")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.num_samples = num_samples
        self.baseline = baseline
        self.temperature = temperature
        if not isinstance(self.train_dataset, CaptionDataset):
            raise ValueError(
                f"train_dataset must be a CaptionDataset, got {type(self.train_dataset).__name__}: the reward weighs "
                f"words by how many of its images have them."
            )
        self.scorer = build_scorer(self.train_dataset)

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "kind": "self-critical captioning",
            "num_samples": self.num_samples,
            "baseline": self.baseline,
            "temperature": self.temperature,
        }

    def collate(self, examples: list[CaptionExample]) -> dict[str, torch.Tensor]:
        indices = torch.tensor([example.index for example in examples])
        return {**self.collate_images(examples), "indices": indices}

    def loss_weight(self, batch: dict[str, torch.Tensor]) -> int:
        return 1  # how many words there are to be is known only when captions are sampled

    def loss(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        images = {name: value for name, value in batch.items() if name != "indices"}
        bare = getattr(model, "module", model)  # without the wrapper of distributed training
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
        rewards = self.rewards(sequences, batch["indices"])  # (batch_size, num_samples)
        advantages = (rewards - self.baselines(bare, images, rewards, batch["indices"])).flatten()

        labels = sequences[:, 1:].masked_fill(sequences[:, 1:] == bare.config.pad_token_id, -100)
        logits = model(**images, input_ids=sequences[:, :-1]).logits  # (batch_size * num_samples, length, vocab_size)
        # a token that is never sampled is never punished: probability would flow to it without end
        forbidden = torch.tensor(forbidden, device=logits.device)
        logits = logits.float().index_fill(2, forbidden, torch.finfo(torch.float32).min) / self.temperature
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        losses = losses.view(labels.shape)  # minus the log-probability of each sampled token
        loss = (losses * advantages[:, None]).sum() / (labels != -100).sum()
        return {"loss": loss, "reward": rewards.mean()}

    @torch.no_grad()
    def baselines(
        self, model: nn.Module, images: dict[str, torch.Tensor], rewards: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """What each sample has to beat: (batch_size, num_samples), or (batch_size, 1) if it is the same for all."""
        if self.baseline == "mean":
            return (rewards.sum(dim=1, keepdim=True) - rewards) / (self.num_samples - 1)
        beams = 1 if self.baseline == "greedy" else model.generation_config.num_beams
        return self.rewards(model.generate(**images, do_sample=False, num_beams=beams), indices)

    def forbidden_tokens(self, model: nn.Module) -> list[int]:
        """Tokens that no caption holds: unknown words, what else the checkpoint suppresses, and padding."""
        suppressed = model.generation_config.suppress_tokens or []
        return sorted({*suppressed, model.config.pad_token_id, model.config.bos_token_id})

    def rewards(self, sequences: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        """CIDEr-D, 0 to 10, of captions, as many of each image, against their references: a row for each image."""
        texts = tokenize_captions(self.processor.batch_decode(sequences, skip_special_tokens=True))
        eos = self.processor.tokenizer.eos_token_id
        ended = (sequences == eos).any(dim=1).tolist()
        candidates = [f"{text} {END}" if end else text for text, end in zip(texts, ended, strict=True)]
        images = indices.repeat_interleave(len(sequences) // len(indices)).tolist()
        scores = self.scorer.score(candidates, images)
        rewards = torch.as_tensor(scores, dtype=torch.float32, device=sequences.device)
        return rewards.view(len(indices), -1)  # (batch_size, captions of each image)


def build_scorer(dataset: CaptionDataset) -> CiderD:
    """CIDEr-D against the captions of the data set's images, by index, each with its end as a word."""
    references = [[f"{text} {END}" for text in tokenize_captions(captions)] for captions in dataset.captions]
    return CiderD(references)


__all__ = ["SelfCriticalTask", "build_scorer"]
