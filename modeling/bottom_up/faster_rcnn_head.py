# SPDX-License-Identifier: Apache-2.0
"""The heads of the published bottom-up detector: object class, box and attribute of a region."""

import torch
from torch import nn

from ..configuration_butd import ButdBottomUpConfig


class ButdFasterRcnnHead(nn.Module):
    """
    Class and attribute of each region, from its feature.

    The attribute is told from the feature and an embedding of the likeliest class. Background is the last class and
    "none" the last attribute, whatever the order in the files of a variant.
    """

    def __init__(self, config: ButdBottomUpConfig, region_size: int):
        super().__init__()
        num_labels, num_attributes = config.num_region_labels, config.num_region_attributes
        embedding_size, hidden_size = region_size // 8, region_size // 4  # 256 and 512 of 2048
        self.classifier = nn.Linear(region_size, num_labels + 1)
        self.deltas = nn.Linear(region_size, 4 * num_labels)
        self.has_attributes = num_attributes > 0
        if self.has_attributes:
            self.class_embedding = nn.Embedding(num_labels + 1, embedding_size)
            self.attribute_proj = nn.Linear(region_size + embedding_size, hidden_size)
            self.act_fn = nn.ReLU()
            self.attribute_classifier = nn.Linear(hidden_size, num_attributes + 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            features (`torch.FloatTensor` of shape `(num_regions, region_size)`).

        Returns:
            Class logits `(num_regions, num_region_labels + 1)`, background last, and attribute logits
            `(num_regions, num_region_attributes + 1)`, none last, or None without attributes.
        """
        class_logits = self.classifier(features)  # (num_regions, num_region_labels + 1)
        if not self.has_attributes:
            return class_logits, None
        embedding = self.class_embedding(class_logits.argmax(dim=1))  # (num_regions, embedding_size)
        joined = torch.cat([features, embedding], dim=1)  # (num_regions, region_size + embedding_size)
        return class_logits, self.attribute_classifier(self.act_fn(self.attribute_proj(joined)))

    def box_deltas(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Deltas `(num_regions, 4)` of each region's box, for the class of each in `labels` `(num_regions,)`."""
        deltas = self.deltas(features).unflatten(1, (-1, 4))  # (num_regions, num_region_labels, 4)
        return deltas[torch.arange(len(labels), device=labels.device), labels]
