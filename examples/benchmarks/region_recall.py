# SPDX-License-Identifier: Apache-2.0
"""How many objects the best 36 regions of an image cover, by learned regions and by what needs no training:

    python examples/benchmarks/region_recall.py --model RUN/best --data FOLDER --split val

Prints a Markdown table of the class-agnostic recall at IoU 0.5 on COCO-format data, as `examples/train_detection.py`
reads it. The rows: the model's own regions (`rpn`); the `saliency` selector on the same backbone weights; 36 evenly
spread windows, the same for every image (`spread_windows`); and selective search (Uijlings et al. 2013) as
opencv-contrib has it, which needs `pip install opencv-contrib-python-headless`, or `--skip selective_search`.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from butd_hf import ButdConfig, ButdImageProcessor, ButdModel
from butd_hf.cli.loading import load_checkpoint
from butd_hf.data.detection import load_detections
from butd_hf.data.transforms import load_image
from butd_hf.inference import image_regions
from butd_hf.inference.objects import reference_of
from butd_hf.metrics.regions import region_recall
from butd_hf.progress import images_progress


METHODS = ("rpn", "saliency", "spread_windows", "selective_search")
SEARCHED_SIDE = 256  # longest side in pixels that selective search works at; its time grows with the area

Proposer = Callable[[list[Image.Image]], list[np.ndarray]]


def spread_windows(num_regions: int = 36) -> np.ndarray:
    """Windows spread evenly over place and size, the same for every image.

    The whole image; then grids of 2 x 2 windows with 0.75 of each side, of 3 x 3 with 0.5, and of 5 x 5 with 0.3, from
    border to border; of the last, those nearest to the centre come first, until there are enough: 1 + 4 + 9 + 22 = 36.

    Returns:
        `x0, y0, x1, y1` in [0, 1]: (num_regions, 4), at most 39.
    """
    boxes = [(0.0, 0.0, 1.0, 1.0)]
    for count, side in ((2, 0.75), (3, 0.5), (5, 0.3)):
        starts = np.linspace(0.0, 1.0 - side, count)
        grid = [(left, top, left + side, top + side) for top in starts for left in starts]
        # ties keep reading order; a stable sort makes the choice the same everywhere
        grid.sort(key=lambda box: round(abs(box[0] + box[2] - 1) + abs(box[1] + box[3] - 1), 6))
        boxes.extend(grid)
    return np.array(boxes)[:num_regions]


def selective_search(image: Image.Image, num_regions: int) -> np.ndarray:
    """The first proposals of opencv's selective search, in its fast mode, as `x0, y0, x1, y1` in [0, 1].

    Raises:
        ImportError: opencv-contrib is not installed.
    """
    try:
        import cv2

        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "selective search needs opencv's contributed modules: pip install opencv-contrib-python-headless, or "
            "leave it out with --skip selective_search."
        ) from error
    cv2.setRNGSeed(0)
    small = image.convert("RGB")
    small.thumbnail((SEARCHED_SIDE, SEARCHED_SIDE))
    search.setBaseImage(np.ascontiguousarray(np.asarray(small)[..., ::-1]))
    search.switchToSelectiveSearchFast()
    boxes = np.asarray(search.process(), dtype=float).reshape(-1, 4)[:num_regions]  # x, y, width, height
    boxes[:, 2:] += boxes[:, :2]
    return boxes / [small.width, small.height, small.width, small.height]


def with_selector(model: Any, selector: str, num_regions: int) -> ButdModel:
    """The same backbone with another selector."""
    settings = model.config.to_dict()
    settings["bottom_up_config"].update(selector=selector, num_regions=num_regions, out_indices=None)
    other = ButdModel(ButdConfig.from_dict(settings)).eval().to(model.device)
    weights = model.base_model.bottom_up.backbone.state_dict()
    own = other.bottom_up.backbone.state_dict()
    other.bottom_up.backbone.load_state_dict({name: weights[name] for name in own})
    return other


def build_proposers(
    model: Any, processor: ButdImageProcessor, methods: list[str], num_regions: int
) -> dict[str, Proposer]:
    """A function from images to boxes in [0, 1], the best first, for each method."""

    def by_model(selecting: Any) -> Proposer:
        return lambda images: [found.boxes for found in image_regions(selecting, processor, images)]

    windows = spread_windows(num_regions)
    makers: dict[str, Callable[[], Proposer]] = {
        "rpn": lambda: by_model(model),
        "saliency": lambda: by_model(with_selector(model, "saliency", num_regions)),
        "spread_windows": lambda: lambda images: [windows] * len(images),
        "selective_search": lambda: lambda images: [selective_search(image, num_regions) for image in images],
    }
    return {name: makers[name]() for name in methods}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Detection checkpoint; the package's default if left out.")
    parser.add_argument("--data", required=True, help="COCO-format file or folder.")
    parser.add_argument("--split", help="Only this split; all images by default.")
    parser.add_argument("--num_regions", type=int, default=36, help="Regions that count.")
    parser.add_argument("--limit", type=int, default=0, help="Only this many images, for trials.")
    parser.add_argument("--skip", nargs="*", default=[], choices=METHODS, help="Rows to leave out.")
    parser.add_argument("--batch_size", type=int, default=16, help="Images at a time.")
    parser.add_argument("--json", type=Path, help="Also write the figures there.")
    arguments = parser.parse_args()

    table = load_detections(arguments.data, split=arguments.split)
    rows = list(table)[: arguments.limit or None]
    name, model, processor = load_checkpoint(arguments.model, "auto", "object-detection", any_model=True)
    model.config.bottom_up_config.num_regions = arguments.num_regions
    methods = [method for method in METHODS if method not in arguments.skip]
    proposers = build_proposers(model, processor, methods, arguments.num_regions)
    found: dict[str, list[np.ndarray]] = {method: [] for method in proposers}
    with images_progress() as progress:
        bar = progress.add_task("regions", total=len(rows))
        for start in range(0, len(rows), arguments.batch_size):
            batch = rows[start : start + arguments.batch_size]
            images = [load_image(row["image"]).convert("RGB") for row in batch]
            for method, propose in proposers.items():
                scales = [[row["width"], row["height"]] * 2 for row in batch]
                found[method].extend(boxes * scale for boxes, scale in zip(propose(images), scales, strict=True))
            progress.advance(bar, len(batch))

    references = [reference_of(row) for row in rows]
    recalls = {
        method: region_recall(boxes, references, num_regions=arguments.num_regions) for method, boxes in found.items()
    }
    objects = sum(len(reference["boxes"]) for reference in references)
    print(
        f"Recall at IoU 0.5 of {objects} objects in {len(rows)} images by the best {arguments.num_regions} regions.\n"
    )
    print("| regions | recall |\n|---|---|")
    for method, recall in recalls.items():
        print(f"| {method.replace('_', ' ')} | {recall:.1f} |")
    if arguments.json is not None:
        content = {"model": name, "split": arguments.split, "num_images": len(rows), "recall": recalls}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
