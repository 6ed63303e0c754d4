# SPDX-License-Identifier: Apache-2.0
"""The object head of scene graphs: a label for each region."""

import torch
from torch import nn
from transformers import initialization as init

from ..boxes import with_no_object
from ..configuration_butd import ButdConfig
from ..regions import ButdBoxEmbedding, ButdRegions
from ..top_down.scene_graph import CERTAIN_LOGIT, ButdRegionContext


class ButdObjectHead(nn.Module):
    """Labels of regions in context (the object context of Zellers et al. 2018, with self-attention for an LSTM)."""

    def __init__(self, config: ButdConfig, region_size: int):
        super().__init__()
        self.config = config
        top_down = config.top_down_config
        self.region_norm = nn.LayerNorm(region_size, eps=top_down.layer_norm_eps)
        self.region_proj = nn.Linear(region_size, top_down.hidden_size)
        self.box_embedding = ButdBoxEmbedding(top_down)
        self.context = ButdRegionContext(top_down)
        self.class_proj = nn.Linear(top_down.hidden_size, config.num_labels)
        self.init_own_weights()

    def init_own_weights(self):
        # CODEPATH: where the bottom-up half classifies regions, its labels stand until training corrects them
        if self.config.region_label_ids is not None:
            init.zeros_(self.class_proj.weight)
        init.zeros_(self.class_proj.bias)

    def forward(self, regions: ButdRegions, labels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `(batch_size, num_regions, num_labels + 1)`, the last column is "no object", always 0; and the label
        of each region `(batch_size, num_regions)`: the given or the most likely one.
        """
        if labels is not None:
            return self.given(labels, regions.mask)
        dtype = self.region_proj.weight.dtype
        hidden_states = self.region_proj(self.region_norm(regions.features.to(dtype)))
        geometry = self.box_embedding(regions.boxes.to(dtype))
        hidden_states, _ = self.context(hidden_states, geometry, regions.mask)
        logits = self.class_proj(hidden_states).float()  # (batch_size, num_regions, num_labels)
        if self.config.region_label_ids is not None and regions.class_logits is not None:
            logits = logits + self.bottom_up_logits(regions)
        logits = logits.masked_fill(~regions.mask[..., None], -CERTAIN_LOGIT)
        return with_no_object(logits), logits.argmax(dim=-1) * regions.mask

    def given(self, labels: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Certain logits of given labels; see `forward`."""
        labels = labels.long() * mask
        if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= self.config.num_labels):
            raise ValueError(
                f"`region_labels` has {int(labels.min())} to {int(labels.max())}, expected 0 to "
                f"{self.config.num_labels - 1}."
            )
        is_given = nn.functional.one_hot(labels, self.config.num_labels) * mask[..., None]
        return with_no_object((2 * is_given - 1) * CERTAIN_LOGIT), labels

    def bottom_up_logits(self, regions: ButdRegions) -> torch.Tensor:
        """Logits of the bottom-up half beside a "no object" of 0: the odds that there is an object, times the
        probability of each label.
        """
        shares = regions.class_logits.float().softmax(dim=-1)  # (batch_size, num_regions, num_region_labels)
        labels = torch.tensor(self.config.region_label_ids, device=shares.device)
        probabilities = shares.new_zeros(*shares.shape[:2], self.config.num_labels)
        probabilities = probabilities.index_add(2, labels[labels >= 0], shares[..., labels >= 0])
        saliency = regions.saliency.float().clamp(0.01, 0.99)  # boxes given by hand have 1
        return torch.logit(saliency)[..., None] + probabilities.clamp(min=1e-6).log()
