# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Scene graphs: the image proposes regions, the task labels them and predicts their relations."""

from dataclasses import replace
from typing import ClassVar

import torch
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .bottom_up.bottom_up import ButdBottomUp, ButdBottomUpOutput
from .configuration_butd import ButdConfig
from .heads.objects import ButdObjectHead
from .losses.proposals import bottom_up_losses
from .losses.scene_graph import match_graph, prepare_graph_targets, scene_graph_losses
from .losses.targets import prepare_targets
from .modeling_butd import ButdPreTrainedModel
from .outputs import ButdSceneGraphGenerationOutput
from .regions import ready_regions
from .top_down.scene_graph import ButdSceneGraphDecoder


class ButdForSceneGraphGeneration(ButdPreTrainedModel):  # trf-ignore: TRF057
    """Scene graphs: objects, and subject - predicate - object triples of them.

    | given | task | |
    |---|---|---|
    | pixels, or features and boxes of proposals | SGDet | objects, labels and relations are found |
    | the same with annotated `region_boxes` | SGCls | labels and relations are found |
    | `region_boxes` and `region_labels` | PredCls | relations are found; pixels and features may be left out |
    """

    input_modalities = ("image",)
    _no_split_modules: ClassVar[list[str]] = ["ButdRegionLayer", "ButdPairLayer"]  # trf-ignore: TRF022

    def __init__(self, config: ButdConfig):
        super().__init__(config)
        if config.num_predicates < 1:
            raise ValueError("ButdConfig.num_predicates or id2predicate must be given for scene graphs, got none.")
        self.bottom_up = ButdBottomUp(config.bottom_up_config)
        self.object_head = ButdObjectHead(config, region_size=self.bottom_up.region_size)
        self.top_down = ButdSceneGraphDecoder(config, region_size=self.bottom_up.region_size)
        self.post_init()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057, trf-ignore: TRF045
        self,
        pixel_values: torch.FloatTensor | None = None,
        pixel_mask: torch.LongTensor | None = None,
        region_features: torch.FloatTensor | None = None,
        region_boxes: torch.FloatTensor | None = None,
        region_mask: torch.BoolTensor | None = None,
        image_scale: torch.FloatTensor | None = None,
        labels: list[dict[str, torch.Tensor]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ButdSceneGraphGenerationOutput | tuple:
        """
        Args:
            region_labels (`torch.LongTensor` of shape `(batch_size, num_regions)`, *optional*): Labels of
                `region_boxes`; not used where there is no region. Not in the signature, in which `Trainer` would take
                it for a label that every batch has.
            labels (`list[dict]`, *optional*): For each image `class_labels` (n,), `boxes` (n, 4) as `centre x, centre
                y, width, height` in [0, 1] of the unpadded image, and unless nobody annotated any, `relations` (r, 3)
                as subject, object and predicate. With `region_labels`, the objects are the regions, in their order.

        See `encode_image` for the arguments about the image. Pixels and features may be left out with `region_boxes`
        and `region_labels`.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        region_labels = kwargs.pop("region_labels", None)
        targets = None
        if labels is not None and region_boxes is None and self.trains_bottom_up():
            targets = prepare_targets(labels, self.config, len(pixel_values))
        image = self.encode_image(
            pixel_values=pixel_values,
            pixel_mask=pixel_mask,
            region_features=region_features,
            region_boxes=region_boxes,
            region_mask=region_mask,
            image_scale=image_scale,
            targets=targets,
            region_labels=region_labels,
        )
        regions, matched, required = image.regions, None, None
        if region_labels is not None and region_labels.shape[1] == 0:
            region_labels = region_labels.new_zeros(regions.mask.shape)
        logits, known_labels = self.object_head(regions, region_labels)
        if labels is not None:
            graphs = prepare_graph_targets(labels, self.config, len(regions.mask))
            is_labelled = region_labels is not None
            matched = match_graph(regions, known_labels, graphs, self.config, is_labelled, self.training)
            known_labels = matched.labels
            required = matched.relations.any(dim=-1) if self.training else None  # no related pair is pruned
        pairs = self.top_down(regions, known_labels, required, output_attentions, output_hidden_states)
        loss, losses = None, None
        if labels is not None:
            losses = scene_graph_losses(logits, pairs, matched, regions.mask, graphs, is_labelled)
            if targets is not None:
                losses.update(bottom_up_losses(self.bottom_up.selector, image, targets))
            loss = sum(losses.values())
        found = {"logits": logits, "region_labels": known_labels, "regions": regions}
        return replace(pairs, loss=loss, loss_dict=losses, **found)

    def encode_image(self, *, region_labels: torch.LongTensor | None = None, **image) -> ButdBottomUpOutput:
        """As in every task, but boxes with `region_labels` need neither pixels nor features."""
        boxes, features, pixels = (image.get(name) for name in ("region_boxes", "region_features", "pixel_values"))
        if boxes is None:
            for name, value in (("region_mask", image.get("region_mask")), ("region_labels", region_labels)):
                if value is not None:
                    raise ValueError(f"`{name}` has shape {tuple(value.shape)}, expected None without `region_boxes`.")
        elif region_labels is not None and region_labels.shape != boxes.shape[:2]:
            raise ValueError(
                f"`region_labels` has shape {tuple(region_labels.shape)}, expected {tuple(boxes.shape[:2])}."
            )
        if region_labels is None and boxes is not None and features is None and pixels is None:
            raise ValueError(
                "Give `pixel_values`, or `region_boxes` with `region_features` or `region_labels`; got only "
                "`region_boxes`."
            )
        reads_appearance = self.config.relation_appearance and pixels is not None
        if region_labels is not None and features is None and not reads_appearance:
            regions = ready_regions(None, boxes.float(), image.get("region_mask"), self.bottom_up.region_size)
            return ButdBottomUpOutput(regions)
        return super().encode_image(**image)

    def trains_bottom_up(self) -> bool:
        """Whether the bottom-up half is learned and has the classes of the labels: it then has losses of its own."""
        config = self.config.bottom_up_config
        return (
            config.selector == "rpn"
            and self.config.region_label_ids is None
            and config.num_region_labels in (0, self.config.num_labels)
            and any(parameter.requires_grad for parameter in self.bottom_up.parameters())
        )


__all__ = ["ButdForSceneGraphGeneration"]
