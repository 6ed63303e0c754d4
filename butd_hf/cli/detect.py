# SPDX-License-Identifier: Apache-2.0
"""`butd-hf detect`, `butd-hf segment` and `butd-hf regions`: images in, boxes and masks out."""

from typing import Any

from .console import print_rows
from .images import ImageTask, run_on_images
from .options import (
    BatchSizeOption,
    DeviceOption,
    DrawOption,
    ImagesArgument,
    JsonOption,
    MaskThresholdOption,
    ModelOption,
    ThresholdOption,
    TopOption,
)


def detect(
    images: ImagesArgument,
    model: ModelOption = None,
    threshold: ThresholdOption = 0.5,
    top: TopOption = 100,
    draw: DrawOption = None,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Detect objects: class, score and box (x0, y0, x1, y1 in pixels) of each.

    Exit code 1 if an image cannot be read; the others are processed all the same.
    """
    options = {"drawing": draw, "as_json": json, "batch_size": batch_size, "what": "detecting"}
    run_on_images(
        images, lambda: load_detector("object-detection", model, device, top, threshold=threshold), **options
    )


def segment(
    images: ImagesArgument,
    model: ModelOption = None,
    threshold: ThresholdOption = 0.5,
    mask_threshold: MaskThresholdOption = 0.5,
    top: TopOption = 100,
    draw: DrawOption = None,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Detect objects and their masks, which --json prints as COCO's compressed run lengths.

    Exit code 1 if an image cannot be read; the others are processed all the same.
    """
    thresholds = {"threshold": threshold, "mask_threshold": mask_threshold, "masks": True}
    options = {"drawing": draw, "as_json": json, "batch_size": batch_size, "what": "segmenting"}
    run_on_images(images, lambda: load_detector("image-segmentation", model, device, top, **thresholds), **options)


def regions(
    images: ImagesArgument,
    model: ModelOption = None,
    top: TopOption = 36,
    draw: DrawOption = None,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """
    Show the regions that a model attends to, the most salient first: box in pixels, and class and attribute if known.

    Any model of this package has regions, captioners too. Exit code 1 if an image cannot be read.
    """
    options = {"drawing": draw, "as_json": json, "batch_size": batch_size, "what": "selecting regions"}
    run_on_images(images, lambda: load_selector(model, device, top), **options)


def load_detector(task: str, model: str | None, device: str, top: int, **options: Any) -> ImageTask:
    """Detection, or with `masks=True` segmentation; `options` are those of `detect_objects`."""
    from ..drawing import draw_objects
    from ..inference import detect_objects
    from .loading import load_checkpoint

    _, detector, processor = load_checkpoint(model, device, task)
    names = detector.config.id2label

    def describe(found: Any, image: Any) -> dict[str, Any]:
        prediction = found.as_prediction()
        objects = []
        for place, (label, score, box) in enumerate(
            zip(*(prediction[name][:top] for name in ("labels", "scores", "boxes")), strict=True)
        ):
            row = {"label": names[label], "score": round(score, 4), "box": [round(side, 1) for side in box]}
            if found.masks is not None:
                row["pixels"] = int(found.masks[place].sum())
                row["mask"] = {"size": [image.height, image.width], "counts": prediction["masks"][place]}
            objects.append(row)
        return {"width": image.width, "height": image.height, "objects": objects}

    def draw(found: Any, image: Any) -> Any:
        pairs = zip(found.labels[:top], found.scores[:top], strict=True)
        titles = [f"{names[int(label)]} {score:.2f}" for label, score in pairs]
        masks = None if found.masks is None else found.masks[:top]
        return draw_objects(image, found.boxes[:top], titles, masks=masks)

    return ImageTask(
        processor,
        predict=lambda batch: detect_objects(detector, processor, batch, **options),
        describe=describe,
        draw=draw,
        print_results=lambda results: print_found(results, "objects"),
    )


def load_selector(model: str | None, device: str, top: int) -> ImageTask:
    """The regions of any model."""
    from ..drawing import draw_regions, image_axes
    from ..inference import image_regions
    from .loading import load_checkpoint

    _, selecting, processor = load_checkpoint(model, device, "object-detection", any_model=True)
    names = selecting.config.id2label

    def describe(found: Any, image: Any) -> dict[str, Any]:
        scale = [image.width, image.height] * 2
        rows = []
        for place in range(min(top, len(found.boxes))):
            row: dict[str, Any] = {"rank": place + 1, "saliency": round(float(found.saliency[place]), 4)}
            if found.labels is not None:
                label = int(found.labels[place])
                row["label"] = names.get(label, str(label))
            if found.attributes is not None:
                row["attribute"] = int(found.attributes[place])
            rows.append({**row, "box": (found.boxes[place] * scale).round(1).tolist()})
        return {"width": image.width, "height": image.height, "regions": rows}

    def draw(found: Any, image: Any) -> Any:
        figure, axes = image_axes(image)
        draw_regions(axes, found.boxes, numbered=top, masks=found.masks)
        return figure

    return ImageTask(
        processor,
        predict=lambda batch: image_regions(selecting, processor, batch),
        describe=describe,
        draw=draw,
        print_results=lambda results: print_found(results, "regions"),
    )


def print_found(results: list[dict[str, Any]], kind: str) -> None:
    """A line per object or region; masks are too long for a table."""
    rows = []
    for result in results:
        for row in result[kind] or [{"label": f"no {kind}"}]:
            rows.append({"image": result["image"], **{name: value for name, value in row.items() if name != "mask"}})
    print_rows(rows)
