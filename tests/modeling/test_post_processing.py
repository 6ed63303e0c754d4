# SPDX-License-Identifier: Apache-2.0
"""From outputs to pixels: scores, boxes, masks, and the stock pipelines that ask for them."""

import PIL.Image
import pytest
import torch
from transformers import pipeline

import butd_hf
from butd_hf.modeling.outputs import ButdInstanceSegmentationOutput


PROCESSOR = butd_hf.ButdImageProcessor(size={"height": 64, "width": 64})


def outputs_of(boxes: list[list[float]], scores: list[list[float]], masks: torch.Tensor | None = None):
    """One image: boxes as centre and size, a probability per query and class, masks full by default."""
    logits = torch.tensor(scores).logit(eps=1e-13)[None]
    logits = torch.cat([logits, torch.zeros(*logits.shape[:2], 1)], dim=-1)
    masks = torch.full((1, len(boxes), 4, 4), 9.0) if masks is None else masks
    return ButdInstanceSegmentationOutput(logits=logits, pred_boxes=torch.tensor([boxes]), pred_masks=masks)


def test_objects_come_best_first_in_pixels():
    outputs = outputs_of([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.5, 1.0]], [[0.2, 0.6], [0.9, 0.0]])
    (found,) = PROCESSOR.post_process_object_detection(outputs, 0.5, target_sizes=torch.IntTensor([[100, 200]]))
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.6]))
    assert found["labels"].tolist() == [0, 1]
    torch.testing.assert_close(found["boxes"], torch.tensor([[0.0, 0.0, 100.0, 100.0], [50.0, 25.0, 150.0, 75.0]]))
    (found,) = PROCESSOR.post_process_object_detection(outputs, 0.0, [(100, 200)], top_k=3)
    assert found["labels"].tolist() == [0, 1, 0]  # the pair that scores zero isn't there
    (found,) = PROCESSOR.post_process_object_detection(outputs, 0.95)
    assert found["boxes"].shape == (0, 4)
    with pytest.raises(ValueError, match="2 sizes, expected one for each of 1 images"):
        PROCESSOR.post_process_object_detection(outputs, 0.5, [(1, 1), (1, 1)])


def test_masks_fill_their_boxes_to_the_pixel():
    outputs = outputs_of([[0.5, 0.5, 0.5, 0.5]], [[0.9]])
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, target_sizes=[(40, 60)])
    expected = torch.full((40, 60), -1)
    expected[10:30, 15:45] = 0
    assert torch.equal(found["segmentation"].long(), expected)
    assert found["segments_info"] == [{"id": 0, "label_id": 0, "score": 0.9}]


def test_half_a_mask_is_half_a_box():
    masks = torch.full((1, 1, 4, 4), -9.0)
    masks[..., :2] = 9.0
    outputs = outputs_of([[0.5, 0.5, 0.8, 0.8]], [[0.9]], masks)
    options = {"target_sizes": [(50, 50)], "return_binary_maps": True}
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, **options)
    expected = torch.zeros(1, 50, 50, dtype=torch.bool)
    expected[:, 5:45, 5:25] = True
    assert torch.equal(found["segmentation"], expected)


def test_better_objects_cover_worse_ones():
    boxes = [[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.1, 0.1]]
    outputs = outputs_of(boxes, [[0.9], [0.8], [0.95]])
    options = {"target_sizes": [(20, 20)], "overlap_mask_area_threshold": 0.6}
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, **options)
    assert [segment["score"] for segment in found["segments_info"]] == [0.95, 0.9]  # nothing is left for the third
    assert found["segmentation"].unique().tolist() == [0, 1]
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, return_binary_maps=True, **options)
    assert found["segmentation"].sum(dim=(1, 2)).tolist() == [4, 400, 200]
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, return_coco_annotation=True, **options)
    assert [int(number) for number in found["segmentation"][1]] == [1, 400]
    with pytest.raises(ValueError, match="cannot both"):
        PROCESSOR.post_process_instance_segmentation(outputs, return_coco_annotation=True, return_binary_maps=True)


def test_run_lengths_are_those_of_the_maps():
    """Counted by hand from transformers' form: starts from 1 and lengths, row after row."""
    outputs = outputs_of([[0.5, 0.5, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5]], [[0.9], [0.8]])
    options = {"target_sizes": [(8, 12)], "threshold": 0.5}
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, return_coco_annotation=True, **options)
    first = [number for row in range(2, 6) for number in (row * 12 + 4, 6)]  # columns 3 to 8 of rows 2 to 5
    second = [number for row in range(4) for number in (row * 12 + 7, 6)]  # columns 6 to 11 of rows 0 to 3
    assert [[int(number) for number in one] for one in found["segmentation"]] == [first, second]
    assert [(one["label_id"], one["score"]) for one in found["segments_info"]] == [(0, 0.9), (0, 0.8)]


@pytest.mark.parametrize("option", [None, "return_binary_maps", "return_coco_annotation"])
def test_nothing_above_the_threshold(option):
    outputs = outputs_of([[0.5, 0.5, 0.5, 0.5]], [[0.1]])
    options = {option: True} if option else {}
    (found,) = PROCESSOR.post_process_instance_segmentation(outputs, target_sizes=[(8, 9)], **options)
    assert found["segments_info"] == []
    if option is None:
        assert found["segmentation"].shape == (8, 9) and found["segmentation"].unique().tolist() == [-1]
    else:
        assert len(found["segmentation"]) == 0


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, str]:
    """A folder per task, with a model that believes in something everywhere, and its image processor."""
    folders = {}
    for task, model_class in (
        ("object-detection", butd_hf.ButdForObjectDetection),
        ("image-segmentation", butd_hf.ButdForInstanceSegmentation),
    ):
        torch.manual_seed(0)
        config = butd_hf.ButdConfig(
            bottom_up_config={
                "backbone": "test_efficientnet",
                "num_regions": 6,
                "fpn_size": 16,
                "region_head_size": 8,
            },
            top_down_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
            },
            id2label={0: "cat", 1: "dog"},
        )
        model = model_class(config)
        torch.nn.init.constant_(model.top_down.layers[-1].class_proj.bias, 3.0)
        folders[task] = str(tmp_path_factory.mktemp("checkpoint") / task)
        model.save_pretrained(folders[task])
        butd_hf.ButdImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folders[task])
    return folders


def test_stock_object_detection_pipeline(checkpoints, image_paths):
    detector = pipeline("object-detection", model=checkpoints["object-detection"], device="cpu")
    assert type(detector.model) is butd_hf.ButdForObjectDetection
    results = detector(image_paths, threshold=0.5)
    for path, objects in zip(image_paths, results, strict=True):
        width, height = PIL.Image.open(path).size
        assert objects and {found["label"] for found in objects} <= {"cat", "dog"}
        for found in objects:
            box = found["box"]
            assert 0 <= box["xmin"] <= box["xmax"] <= width and 0 <= box["ymin"] <= box["ymax"] <= height
            assert 0.5 < found["score"] <= 1


@pytest.mark.parametrize("subtask", [None, "instance"])
def test_stock_image_segmentation_pipeline(checkpoints, image_paths, subtask):
    segmenter = pipeline("image-segmentation", model=checkpoints["image-segmentation"], device="cpu")
    assert type(segmenter.model) is butd_hf.ButdForInstanceSegmentation
    options = {"subtask": subtask, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.0}
    segments = segmenter(image_paths[0], threshold=0.5, **options)
    assert segments
    for segment in segments:
        assert segment["label"] in {"cat", "dog"}
        assert segment["mask"].size == PIL.Image.open(image_paths[0]).size
        assert segment["mask"].getbbox() is not None
