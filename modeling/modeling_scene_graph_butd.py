# SPDX-License-Identifier: Apache-2.0
"""Scene graphs: the image proposes regions, the task names them and finds how they are related."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp
from .configuration_butd import ButdConfig
from .losses.scene_graph import (
    ButdGraphTarget,
    match_objects,
    object_loss,
    prepare_graph_targets,
    region_relations,
    relation_losses,
    required_pairs,
)
from .losses.targets import prepare_targets
from .modeling_butd import ButdPreTrainedModel
from .outputs import ButdSceneGraphGenerationOutput
from .regions import ButdRegions
from .top_down.scene_graph import CERTAIN_LOGIT, ButdObjectHead, ButdPairs, ButdSceneGraphDecoder


class ButdForSceneGraphGeneration(ButdPreTrainedModel):
    """
    Scene graphs: objects, and subject - predicate - object triples of them.

    | given | task | |
    |---|---|---|
    | pixels, or features and boxes of proposals | SGDet | objects, labels and relations are found |
    | the same with annotated `region_boxes` | SGCls | labels and relations are found |
    | `region_boxes` and `region_labels` | PredCls | relations are found; pixels and features may be left out |
    """

    input_modalities = ("image",)
    _no_split_modules: ClassVar[list[str]] = ["ButdRegionLayer", "ButdPairLayer"]

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        if config.num_predicates < 1:
            raise ValueError("ButdConfig.num_predicates or id2predicate must be given for scene graphs, got none.")
        top_down_config = config.top_down_config
        # the decoder reads the attention implementation from its own config: the model's, unless it was given one
        top_down_config._attn_implementation = top_down_config._attn_implementation or config._attn_implementation
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.object_head = ButdObjectHead(config, region_size=self.bottom_up.region_size)
        self.top_down = ButdSceneGraphDecoder(config, region_size=self.bottom_up.region_size)
        self.post_init()

    def get_input_embeddings(self) -> None:
        """None: no words come in. Quantisation asks, to keep tied embeddings as they are."""

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.bottom_up

    def get_decoder(self) -> nn.Module:
        return self.top_down

    def fit_frequency_prior(self, labels: Iterable[dict[str, torch.Tensor]], min_count: int = 1) -> None:
        """
        Counts how labels are related in annotated images, before training.

        Args:
            labels: As `forward` takes them, all of the images with annotated relations.
            min_count: Pairs of labels get a row of their own if they were seen together this often.
        """
        self.top_down.frequency_prior.fit(labels, min_count)
        self.config.num_frequent_pairs = len(self.top_down.frequency_prior.pair_keys)

    @can_return_tuple
    def forward(  # trf-ignore: TRF045, the decoder collects: hooks would see attention before it is unfolded
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        region_labels: torch.LongTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdSceneGraphGenerationOutput | tuple:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch_size, num_channels, height, width)`, *optional*):
                Normalised images. Not needed with `region_features`, or with `region_boxes` and `region_labels`.
            pixel_mask (`torch.LongTensor` of shape `(batch_size, height, width)`, *optional*): 1 on the image, 0 on
                the padding to its right and below it.
            region_features (`torch.FloatTensor` of shape `(batch_size, num_regions, region_size)`, *optional*):
                Ready features, as `ButdRegions.features`, to go with `region_boxes`.
            region_boxes (`torch.FloatTensor` of shape `(batch_size, num_regions, 4)`, *optional*): The nodes of the
                graph, `x0, y0, x1, y1` in [0, 1] of the unpadded image.
            region_mask (`torch.BoolTensor` of shape `(batch_size, num_regions)`, *optional*): True where there is a
                region; everywhere by default.
            region_labels (`torch.LongTensor` of shape `(batch_size, num_regions)`, *optional*): What the regions are;
                not read where there is none.
            image_scale (`torch.FloatTensor` of shape `(batch_size,)`, *optional*): Pixels of each image per pixel of
                the original picture, which the selector `"faster_rcnn_c4"` wants to know; 1 by default.
            labels (`list[dict]`, *optional*): For each image `class_labels` (n,), `boxes` (n, 4) as `centre x, centre
                y, width, height` in [0, 1] of the unpadded image, and unless nobody annotated any, `relations` (r, 3)
                as subject, object and predicate. With `region_labels`, the objects are the regions, in their order.

        Raises:
            ValueError: Inputs are missing, or shapes, labels or numbers don't fit; the message says which.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if region_boxes is not None and region_boxes.shape[1:] == (0, 4):  # one that isn't there keeps shapes ordinary
            num_images = region_boxes.shape[0]
            region_boxes = region_boxes.new_zeros(num_images, 1, 4)
            region_mask = torch.zeros(num_images, 1, dtype=torch.bool, device=region_boxes.device)
            if region_labels is not None:
                region_labels = region_labels.new_zeros(num_images, 1)
            if region_features is not None:
                region_features = region_features.new_zeros(num_images, 1, region_features.shape[-1])
        targets = None
        if labels is not None:
            targets = prepare_graph_targets(labels, self.config.num_labels, self.config.num_predicates)
        regions, losses = self.find_regions(
            pixel_values, pixel_mask, region_features, region_boxes, region_mask, region_labels, image_scale, labels
        )
        if targets is not None and len(targets) != len(regions.mask):
            raise ValueError(
                f"`labels` has {len(targets)} entries, expected one for each of {len(regions.mask)} images."
            )

        logits, known = self.name_regions(regions, region_labels)
        about, related, required = None, None, None
        if targets is not None:
            about = match_objects(regions.boxes, regions.mask, targets, labelled=region_labels is not None)
            related = region_relations(about, targets)
            if self.training:  # relations are taught by what the objects are, and none is left out
                if region_labels is None:
                    known = self.true_labels(known, about, targets)
                required = required_pairs(related, regions.mask.shape[1])
        own = related if self.training else None
        found = self.top_down(regions, known, required, own, output_attentions, output_hidden_states)

        loss = None
        if targets is not None:
            if region_labels is None:
                losses["loss_object"] = object_loss(logits, about, regions.mask, targets, self.config)
            losses.update(
                relation_losses(
                    found.pairs,
                    found.pair_mask,
                    found.selection_logits,
                    found.pair_logits,
                    found.predicate_logits,
                    related,
                    regions.mask.shape[1],
                )
            )
            loss = self.weighted(losses)
        return ButdSceneGraphGenerationOutput(
            loss=loss,
            loss_dict=losses if targets is not None else None,
            logits=logits,
            region_labels=known,
            pairs=found.pairs,
            pair_mask=found.pair_mask,
            pair_logits=found.pair_logits,
            predicate_logits=self.adjusted(found),
            last_hidden_state=found.last_hidden_state,
            hidden_states=found.hidden_states,
            region_attentions=found.region_attentions,
            regions=regions,
        )

    def find_regions(
        self,
        pixel_values: torch.Tensor | None,
        pixel_mask: torch.Tensor | None,
        features: torch.Tensor | None,
        boxes: torch.Tensor | None,
        mask: torch.Tensor | None,
        region_labels: torch.Tensor | None,
        image_scale: torch.Tensor | None,
        labels: list[dict[str, torch.Tensor]] | None,
    ) -> tuple[ButdRegions, dict[str, torch.Tensor]]:
        """The nodes of the graph, and the bottom-up losses where the bottom-up half is trained along."""
        if boxes is not None and (boxes.dim() != 3 or boxes.shape[-1] != 4):
            raise ValueError(f"`region_boxes` has shape {tuple(boxes.shape)}, expected (batch_size, num_regions, 4).")
        for name, value in (("region_mask", mask), ("region_labels", region_labels)):
            if value is not None and (boxes is None or value.shape != boxes.shape[:2]):
                expected = "None without `region_boxes`" if boxes is None else tuple(boxes.shape[:2])
                raise ValueError(f"`{name}` has shape {tuple(value.shape)}, expected {expected}.")
        if features is not None:
            size = self.bottom_up.region_size
            if boxes is None or features.shape != (*boxes.shape[:2], size):
                expected = (
                    f"{(*boxes.shape[:2], size)} to go with `region_boxes`"
                    if boxes is not None
                    else "None without `region_boxes`"
                )
                raise ValueError(f"`region_features` has shape {tuple(features.shape)}, expected {expected}.")
            return ready_regions(boxes, mask, features), {}
        needs_pixels = region_labels is None or self.config.relation_appearance
        if pixel_values is None or not needs_pixels:
            if region_labels is None:
                raise ValueError(
                    "Give `pixel_values`, or `region_boxes` with `region_features` or `region_labels`; got "
                    f"{'only `region_boxes`' if boxes is not None else 'none'}."
                )
            return ready_regions(boxes, mask), {}
        # CODEPATH: with labels, and a learned selector whose classes are those of the labels, both halves learn
        if labels is not None and boxes is None and self.trains_bottom_up():
            bottom_up_targets = prepare_targets(
                labels, self.config.num_labels, self.config.bottom_up_config.num_region_attributes or None
            )
            found = self.bottom_up.find(pixel_values, pixel_mask, targets=bottom_up_targets)
            return found.regions, dict(found.loss_dict)
        return self.bottom_up(pixel_values, pixel_mask, boxes, mask, image_scale), {}

    def trains_bottom_up(self) -> bool:
        """Whether the bottom-up half has losses of its own, and learns by them."""
        config = self.config.bottom_up_config
        return (
            config.selector == "rpn"
            and self.config.bottom_up_loss_coefficient > 0
            and self.config.region_label_ids is None
            and config.num_region_labels in (0, self.config.num_labels)
            and any(parameter.requires_grad for parameter in self.bottom_up.parameters())
        )

    def name_regions(
        self, regions: ButdRegions, region_labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of labels with "no object" last, and the label of each region: the one given or the most likely."""
        if region_labels is None:
            logits = self.object_head(regions)
            return logits, logits[..., :-1].argmax(dim=-1) * regions.mask
        known = region_labels.long() * regions.mask
        if known.numel() and (int(known.min()) < 0 or int(known.max()) >= self.config.num_labels):
            raise ValueError(
                f"`region_labels` has {int(known.min())} to {int(known.max())}, expected 0 to "
                f"{self.config.num_labels - 1}."
            )
        given = nn.functional.one_hot(known, self.config.num_labels) * regions.mask[..., None]
        logits = (2 * given - 1) * CERTAIN_LOGIT  # (batch_size, num_regions, num_labels)
        return torch.cat([logits, logits.new_zeros(*logits.shape[:2], 1)], dim=-1), known

    def true_labels(self, known: torch.Tensor, about: torch.Tensor, targets: list[ButdGraphTarget]) -> torch.Tensor:
        """Labels `(batch_size, num_regions)`, corrected where regions are about an annotated object."""
        corrected = known.clone()
        for row, target in enumerate(targets):
            found = about[row] >= 0
            corrected[row, found] = target.class_labels[about[row, found]]
        return corrected

    def adjusted(self, found: ButdPairs) -> torch.Tensor:
        """Predicate logits, less a share of how frequent each predicate is, once the model is trained."""
        # CODEPATH: 0 for checkpoints that rank by likelihood; others give rare predicates their chance
        if self.training or self.config.logit_adjustment == 0:
            return found.predicate_logits
        return found.predicate_logits - self.config.logit_adjustment * self.top_down.frequency_prior.log_frequencies()

    def weighted(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = {
            "loss_object": self.config.object_loss_coefficient,
            "loss_selection": self.config.pair_loss_coefficient,
            "loss_pair": self.config.pair_loss_coefficient,
            "loss_predicate": self.config.predicate_loss_coefficient,
        }
        bottom_up = self.config.bottom_up_loss_coefficient
        return sum(weights.get(name, bottom_up) * loss for name, loss in losses.items())


def ready_regions(boxes: torch.Tensor, mask: torch.Tensor | None, features: torch.Tensor | None = None) -> ButdRegions:
    """Regions that somebody else selected."""
    if mask is None:
        mask = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    mask = mask.bool()
    boxes = boxes.float() * mask[..., None]
    regions = ButdRegions(boxes=boxes, saliency=mask.float(), mask=mask)
    if features is not None:
        regions["features"] = features * mask[..., None].to(features.dtype)
    return regions


__all__ = ["ButdForSceneGraphGeneration"]
