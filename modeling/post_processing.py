# SPDX-License-Identifier: Apache-2.0
"""From the outputs of models to boxes, masks and graphs in the pixels of the original images."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, box_iou
from transformers.models.detr.image_processing_detr import binary_mask_to_rle


NOTHING = 1e-12  # scores of queries that don't exist are lower
Sizes = torch.Tensor | list[tuple[int, int]] | None


def check_sizes(target_sizes: Sizes, batch_size: int) -> list[tuple[int, int]] | None:
    """Heights and widths as integers."""
    if target_sizes is None:
        return None
    sizes = target_sizes.tolist() if isinstance(target_sizes, torch.Tensor) else target_sizes
    if len(sizes) != batch_size:
        raise ValueError(f"target_sizes has {len(sizes)} sizes, expected one for each of {batch_size} images.")
    return [(int(height), int(width)) for height, width in sizes]


def objects_in_pixels(outputs: Any, threshold: float, target_sizes: Sizes, top_k: int) -> list[dict]:
    """Scores, labels, boxes in pixels and queries of the best pairs of query and class in each image, best first."""
    boxes = box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy").clamp(0.0, 1.0)
    sizes, results = check_sizes(target_sizes, len(boxes)), []
    for row, logits in enumerate(outputs.logits[..., :-1]):  # one sigmoid per class; "no object" isn't read
        scores, pairs = logits.float().sigmoid().flatten().sort(descending=True, stable=True)
        kept = (scores > max(threshold, NOTHING)) & (torch.arange(len(scores), device=scores.device) < top_k)
        scores, pairs = scores[kept], pairs[kept]
        queries = torch.div(pairs, logits.shape[1], rounding_mode="floor")
        found = boxes[row, queries]  # (num_objects, 4)
        if sizes is not None:
            height, width = sizes[row]
            found = found * found.new_tensor([width, height, width, height])
        results.append({"scores": scores, "labels": pairs % logits.shape[1], "boxes": found, "queries": queries})
    return results


class PastedObject(NamedTuple):
    """An object on the pixels of its image, kept as the part of the image that its box covers."""

    label: int
    score: float
    window: torch.Tensor  # (num_rows, num_columns): true on the object, which is nowhere else
    place: tuple[slice, slice]  # rows and columns of the image that the window covers


def paste_mask(
    mask: torch.Tensor, box: list[float], height: int, width: int
) -> tuple[torch.Tensor, tuple[slice, slice]]:
    """The mask at the resolution of the image, sampled at the centres of its pixels: `(num_rows, num_columns)` of the
    pixels that the box covers, perhaps none, and the rows and columns of the image that they are.
    """
    x0, y0, x1, y1 = box
    top, left = max(0, round(y0)), max(0, round(x0))
    bottom, right = min(height, max(round(y1), round(y0) + 1)), min(width, max(round(x1), round(x0) + 1))
    if top >= bottom or left >= right:
        return mask.new_zeros(0, 0), (slice(0, 0), slice(0, 0))
    across = (torch.arange(left, right, device=mask.device) + 0.5 - x0) / max(x1 - x0, 1e-6) * 2 - 1
    down = (torch.arange(top, bottom, device=mask.device) + 0.5 - y0) / max(y1 - y0, 1e-6) * 2 - 1
    places = torch.stack([across.expand(len(down), -1), down[:, None].expand(-1, len(across))], dim=-1)
    pasted = F.grid_sample(mask[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]
    return pasted, (slice(top, bottom), slice(left, right))


def pasted_objects(
    outputs: Any, threshold: float, mask_threshold: float, sizes: list[tuple[int, int]], top_k: int
) -> Iterator[list[PastedObject]]:
    """The objects in each image, best first, on the pixels of the original images; those without any are left out."""
    for row, found in enumerate(objects_in_pixels(outputs, threshold, sizes, top_k)):
        masks = outputs.pred_masks[row, found["queries"]].float().sigmoid()  # (num_objects, m, m)
        windows, objects = {}, []
        numbers = zip(*(found[name].tolist() for name in ("queries", "labels", "scores", "boxes")), strict=True)
        for mask, (query, label, score, box) in zip(masks, numbers, strict=True):
            if query not in windows:  # one that may be several things is drawn once
                pasted, place = paste_mask(mask, box, *sizes[row])
                windows[query] = (pasted > mask_threshold, place)
            objects.append(PastedObject(label, score, *windows[query]))
        yield [each for each in objects if each.window.any()]


def arranged(
    objects: list[PastedObject], least_share: float, height: int, width: int, device: torch.device
) -> tuple[torch.Tensor, list[PastedObject]]:
    """A map `(height, width)` of which object is where, better ones in front, and those that are seen enough."""
    segmentation = torch.full((height, width), -1, dtype=torch.int32, device=device)
    free = torch.ones(height, width, dtype=torch.bool, device=device)
    kept = []
    for found in objects:
        rest = found.window & free[found.place]  # what better objects leave
        if int(rest.sum()) >= max(1, least_share * int(found.window.sum())):
            segmentation[found.place][rest] = len(kept)
            free[found.place] &= ~found.window
            kept.append(found)
    return segmentation, kept


def object_scores(logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Probability of the label of each region beside all others and "no object": `(batch_size, num_regions)`."""
    shares = logits.float().softmax(dim=-1)  # (batch_size, num_regions, num_labels + 1)
    return shares.gather(-1, labels[..., None])[..., 0] * mask


def best_relations(
    scores: torch.Tensor, top_k: int, threshold: float, graph_constraint: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best relations of one image, best first; of equals the one whose pair came first, then the first predicate.

    From scores `(num_pairs, num_predicates)` their scores, places among the pairs and predicates.
    """
    if graph_constraint:
        scores, predicates = scores.max(dim=-1, keepdim=True)  # (num_pairs, 1)
    else:
        predicates = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    scores, order = scores.flatten().sort(descending=True, stable=True)
    order = order[(scores > threshold) & (torch.arange(len(scores), device=scores.device) < top_k)]
    return (
        scores[: len(order)],
        torch.div(order, predicates.shape[1], rounding_mode="floor"),
        predicates.flatten()[order],
    )


def without_repeats(
    scores: torch.Tensor,  # (num_pairs, num_predicates): of all relations
    same: torch.Tensor,  # (num_pairs, num_pairs): which pairs have the same two objects
    graph_constraint: bool,  # whether only the best predicate of each pair counts
) -> torch.Tensor:
    """Scores of the relations of one image, minus infinity where a relation repeats a better one."""
    places = torch.arange(len(scores), device=scores.device)
    same = same & (places[:, None] != places)
    has_equals = same.any(dim=1, keepdim=True)
    if not has_equals.any():
        return scores
    scores = scores.clone()
    while True:
        candidates = scores.isfinite() & has_equals
        if graph_constraint:
            best = torch.zeros_like(candidates).scatter(1, scores.argmax(dim=-1, keepdim=True), True)
            candidates = candidates & best
        rows, predicates = candidates.nonzero().unbind(dim=1)
        score, others = scores[rows, predicates, None], scores.T[predicates]  # (num_candidates, 1 or num_pairs)
        better = (others > score) | ((others == score) & (places < rows[:, None]))
        repeated = (better & same[rows] & candidates.T[predicates]).any(dim=1)
        if not repeated.any():
            return scores
        scores[rows[repeated], predicates[repeated]] = -torch.inf


def are_one_object(labels: torch.Tensor, boxes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which regions have the same label and overlapping boxes: `(num_regions, num_regions)`."""
    return (box_iou(boxes, boxes) >= overlap) & (labels[:, None] == labels)


def same_objects(pairs: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor, overlap: float) -> torch.Tensor:
    """Which pairs `(num_pairs, 2)` have the same labels and overlapping boxes: `(num_pairs, num_pairs)`."""
    same = are_one_object(labels, boxes, overlap)  # (num_regions, num_regions)
    subjects, objects = pairs.unbind(dim=1)
    return same[subjects[:, None], subjects] & same[objects[:, None], objects]


class ButdPostProcessing:
    """What `ButdImageProcessor` makes of the outputs of models."""

    def post_process_object_detection(
        self,
        outputs: Any,  # `ButdObjectDetectionOutput` of the batch
        threshold: float = 0.5,  # only pairs of box and class that score higher count
        target_sizes: Sizes = None,  # height and width of each original image; without, boxes are in [0, 1]
        top_k: int = 100,  # at most this many pairs per image
    ) -> list[dict[str, torch.Tensor]]:
        """Objects of each image, best first: `scores` (n,), `labels` (n,) and `boxes` (n, 4) as `x0, y0, x1, y1` in
        pixels. A box may come with several classes: each pair is scored by itself.
        """
        found = objects_in_pixels(outputs, threshold, target_sizes, top_k)
        return [{name: objects[name] for name in ("scores", "labels", "boxes")} for objects in found]

    def post_process_instance_segmentation(
        self,
        outputs: Any,  # `ButdInstanceSegmentationOutput` of the batch, in evaluation mode
        threshold: float = 0.5,  # only objects that score higher count
        mask_threshold: float = 0.5,  # pixels belong to an object above this probability
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: Sizes = None,  # height and width of each original image; of predicted masks by default
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
        top_k: int = 100,  # at most this many objects per image
    ) -> list[dict[str, Any]]:
        """Objects of each image as masks of its original size, best first: `segmentation`, an integer tensor (height,
        width) of ids with -1 where nothing is, and `segments_info`, a list of `{"id", "label_id", "score"}`.

        Objects don't overlap: one of which better ones cover more than `1 - overlap_mask_area_threshold` is left out.
        With `return_binary_maps` they may, and have one boolean map each; with `return_coco_annotation` one run-length
        encoding each, as those of transformers: starts, from 1, and lengths of runs in row-major order.
        """
        if return_coco_annotation and return_binary_maps:
            raise ValueError("return_coco_annotation and return_binary_maps cannot both be True.")
        masks, results = outputs.pred_masks, []
        sizes = check_sizes(target_sizes, len(masks)) or [tuple(masks.shape[-2:])] * len(masks)
        all_objects = pasted_objects(outputs, threshold, mask_threshold, sizes, top_k)
        for (height, width), objects in zip(sizes, all_objects, strict=True):
            if return_coco_annotation or return_binary_maps:
                segmentation = torch.zeros((len(objects), height, width), dtype=torch.bool, device=masks.device)
                for number, found in enumerate(objects):
                    segmentation[number][found.place] = found.window
                if return_coco_annotation:
                    segmentation = [binary_mask_to_rle(one.int()) for one in segmentation.cpu()]
            else:
                segmentation, objects = arranged(objects, overlap_mask_area_threshold, height, width, masks.device)
            segments = [
                {"id": number, "label_id": found.label, "score": round(found.score, 6)}
                for number, found in enumerate(objects)
            ]
            results.append({"segmentation": segmentation, "segments_info": segments})
        return results

    def post_process_scene_graph_generation(
        self,
        outputs: Any,  # `ButdSceneGraphGenerationOutput` of the batch
        threshold: float = 0.0,  # only objects that score higher count
        relation_threshold: float = 0.0,  # only relations that score higher count
        top_k: int = 100,  # at most this many relations per image
        target_sizes: Sizes = None,  # height and width of each original image; without, boxes are in [0, 1]
        graph_constraint: bool = True,  # whether each pair has only its best predicate, or all of them
        repeat_overlap: float | None = None,
        twin_overlap: float | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Objects of each image, and the relations between them, both best first and equals in the order of regions:
        `scores` (n,), `labels` (n,), `boxes` (n, 4) as `x0, y0, x1, y1` in pixels and `regions` (n,), each object's
        place among the regions; `relations` (r, 3), subject and object as places among the objects and predicate, and
        `relation_scores` (r,), the product of four probabilities: of subject, of object, that the two are related, and
        of the predicate.

        Boxes of one label count as one object from the IoU `repeat_overlap`: a relation between two objects is then
        returned once, by its best pair; the other pairs return their next best. From the IoU `twin_overlap` they are
        one object that was found twice, which has no relation to itself.
        """
        regions = outputs.regions
        sizes = check_sizes(target_sizes, len(outputs.logits))
        scores = object_scores(outputs.logits, outputs.region_labels, regions.mask)
        related = outputs.pair_logits.float().sigmoid() * outputs.pair_mask  # (batch_size, num_pairs)
        results = []
        for row in range(len(scores)):
            kept = (scores[row] > threshold) & regions.mask[row]
            order = scores[row].sort(descending=True, stable=True).indices
            order = order[kept[order]]  # regions of the objects, the most certain first
            place = torch.full_like(outputs.region_labels[row], -1)
            place[order] = torch.arange(len(order), device=order.device)

            pairs = outputs.pairs[row]  # (num_pairs, 2)
            exists = outputs.pair_mask[row] & (place[pairs] >= 0).all(dim=-1)
            pairs = pairs[exists]
            pair_scores = related[row, exists] * scores[row][pairs].prod(dim=-1)
            shares = outputs.predicate_logits[row, exists].float().softmax(dim=-1)  # (num_pairs, num_predicates)
            all_scores = pair_scores[:, None] * shares
            boxes = regions.boxes[row].float()
            if twin_overlap is not None:
                twins = are_one_object(outputs.region_labels[row], boxes, twin_overlap)[pairs[:, 0], pairs[:, 1]]
                all_scores = all_scores.masked_fill(twins[:, None], -torch.inf)
            if repeat_overlap is not None:
                same = same_objects(pairs, outputs.region_labels[row], boxes, repeat_overlap)
                all_scores = without_repeats(all_scores, same, graph_constraint)
            kept = best_relations(all_scores, top_k, relation_threshold, graph_constraint)
            relation_scores, of_pair, predicates = kept
            boxes = boxes[order]  # (num_objects, 4)
            if sizes is not None:
                height, width = sizes[row]
                boxes = boxes * boxes.new_tensor([width, height, width, height])
            results.append(
                {
                    "scores": scores[row, order],
                    "labels": outputs.region_labels[row, order],
                    "boxes": boxes,
                    "regions": order,
                    "relations": torch.cat([place[pairs[of_pair]], predicates[:, None]], dim=1),  # (num_relations, 3)
                    "relation_scores": relation_scores,
                }
            )
        return results
