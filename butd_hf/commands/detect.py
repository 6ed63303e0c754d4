# SPDX-License-Identifier: Apache-2.0
"""`butd-hf detect`, `butd-hf segment` and `butd-hf regions`: photographs in, boxes and masks out."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .caption import drawing_files, shown
from .console import print_json, print_table, report
from .options import (
    BatchSizeOption,
    DeviceOption,
    DrawOption,
    JsonOption,
    MaskThresholdOption,
    ModelOption,
    ThresholdOption,
    TopOption,
)
from .photos import NoPhotosError, find_photos


PhotosArgument = Annotated[list[str], typer.Argument(metavar="PHOTO", help="Files, folders, patterns, URLs.")]


def detect(
    photos: PhotosArgument,
    model: ModelOption = None,
    threshold: ThresholdOption = 0.5,
    top: TopOption = 100,
    draw: DrawOption = None,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """
    Find objects in photographs: class, score and box (x0, y0, x1, y1 in pixels) of each.

    Exit code 1 if a photograph cannot be read; objects are found in the others all the same.
    """
    find_and_tell(photos, model, threshold, 0.5, top, draw, json, batch_size, device, masks=False)


def segment(
    photos: PhotosArgument,
    model: ModelOption = None,
    threshold: ThresholdOption = 0.5,
    mask_threshold: MaskThresholdOption = 0.5,
    top: TopOption = 100,
    draw: DrawOption = None,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """
    Find objects in photographs and their masks, which --json prints as COCO's compressed run lengths.

    Exit code 1 if a photograph cannot be read; objects are found in the others all the same.
    """
    find_and_tell(photos, model, threshold, mask_threshold, top, draw, json, batch_size, device, masks=True)


def regions(
    photos: PhotosArgument,
    model: ModelOption = None,
    top: TopOption = 36,
    draw: DrawOption = None,
    json: JsonOption = False,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """
    Show the regions that a model looks at, the most salient first: box in pixels, and class and attribute if it knows.

    Any model of this package has regions, captioners too. Exit code 1 if a photograph cannot be read.
    """
    sources, drawings = sources_and_drawings(photos, draw)

    from ..detection import find_regions
    from .loading import load_checkpoint

    _, loaded, processor = load_checkpoint(model, device, "object-detection")
    names = dict(loaded.config.id2label)

    def rows_of(found: Any, width: int, height: int) -> list[dict[str, Any]]:
        rows = []
        for place in range(min(top, len(found.boxes))):
            row = {"rank": place + 1, "saliency": round(float(found.saliency[place]), 4)}
            if found.labels is not None:
                label = int(found.labels[place])
                row["label"] = names.get(label, str(label))
            if found.attributes is not None:
                row["attribute"] = int(found.attributes[place])
            row["box"] = (found.boxes[place] * [width, height, width, height]).round(1).tolist()
            rows.append(row)
        return rows

    def draw_them(picture: Any, found: Any, rows: list[dict[str, Any]], file: Path) -> None:
        from ..drawing import draw_picture, draw_regions, save_figure

        figure, axes = draw_picture(picture)
        draw_regions(axes, found.boxes, numbered=len(rows))
        save_figure(figure, file)

    run(
        sources,
        drawings,
        processor,
        lambda pictures: find_regions(loaded, processor, pictures),
        rows_of,
        draw_them,
        kind="regions",
        as_json=json,
        batch_size=batch_size,
    )


def find_and_tell(
    photos: list[str],
    model: str | None,
    threshold: float,
    mask_threshold: float,
    top: int,
    draw: Path | None,
    json: bool,
    batch_size: int,
    device: str,
    *,
    masks: bool,
) -> None:
    """The body of `detect` and `segment`."""
    sources, drawings = sources_and_drawings(photos, draw)

    from ..detection import detect_objects
    from ..modeling.modeling_detection_butd import ButdForInstanceSegmentation, ButdForObjectDetection
    from .loading import load_checkpoint

    task, model_class = (
        ("image-segmentation", ButdForInstanceSegmentation) if masks else ("object-detection", ButdForObjectDetection)
    )
    _, loaded, processor = load_checkpoint(model, device, task, model_class)
    names = loaded.config.id2label

    def find(pictures: list[Any]) -> list[Any]:
        found = detect_objects(
            loaded, processor, pictures, threshold=threshold, mask_threshold=mask_threshold, masks=masks
        )
        return [objects for objects, _ in found]

    def rows_of(found: Any, width: int, height: int) -> list[dict[str, Any]]:
        prediction = found.as_prediction()
        rows = []
        for place in range(min(top, len(prediction["boxes"]))):
            box = [round(side, 1) for side in prediction["boxes"][place]]
            score = round(prediction["scores"][place], 4)
            row = {"label": names[prediction["labels"][place]], "score": score, "box": box}
            if masks:
                row["pixels"] = int(found.masks[place].sum())
                row["mask"] = {"size": [height, width], "counts": prediction["masks"][place]}
            rows.append(row)
        return rows

    def draw_them(picture: Any, found: Any, rows: list[dict[str, Any]], file: Path) -> None:
        from ..drawing import draw_objects, save_figure

        titles = [f"{row['label']} {row['score']:.2f}" for row in rows]
        shapes = None if found.masks is None else found.masks[: len(rows)]
        save_figure(draw_objects(picture, found.boxes[: len(rows)], titles, masks=shapes), file)

    run(
        sources,
        drawings,
        processor,
        find,
        rows_of,
        draw_them,
        kind="objects",
        as_json=json,
        batch_size=batch_size,
    )


def sources_and_drawings(photos: list[str], draw: Path | None) -> tuple[list[str], list[Path | None]]:
    """The photographs that the user named, and the file of each one's drawing."""
    try:
        sources = find_photos(photos)
    except NoPhotosError as error:
        raise typer.BadParameter(str(error), param_hint="PHOTO") from error
    return sources, drawing_files(draw, len(sources))


def run(
    sources: list[str],
    drawings: list[Path | None],
    processor: Any,
    find: Callable[[list[Any]], list[Any]],
    rows_of: Callable[[Any, int, int], list[dict[str, Any]]],
    draw_them: Callable[[Any, Any, list[dict[str, Any]], Path], None],
    *,
    kind: str,
    as_json: bool,
    batch_size: int,
) -> None:
    """Finds, draws and prints what is in photographs."""
    from .detector import analyse

    results: list[dict[str, Any]] = []
    analysed = analyse(sources, processor, find, batch_size=batch_size, what=f"finding {kind}")
    for photo, drawing in zip(analysed, drawings, strict=True):
        result: dict[str, Any] = {"image": photo.source}
        if photo.picture is None:
            report(f"{shown(photo.source)}: {photo.error}")
            result["error"] = photo.error
        else:
            width, height = photo.picture.size
            result.update(width=width, height=height)
            result[kind] = rows_of(photo.found, width, height)
            if drawing is not None:
                draw_them(photo.picture, photo.found, result[kind], drawing)
                result["drawing"] = str(drawing)
        results.append(result)
    if as_json:
        print_json(results)
    else:
        print_found(results, kind)
    if any("error" in result for result in results):
        raise typer.Exit(1)


def print_found(results: list[dict[str, Any]], kind: str) -> None:
    """A line per object or region; masks are too long for a table."""
    rows = [
        {"image": shown(result["image"]), **{name: value for name, value in row.items() if name != "mask"}}
        for result in results
        for row in result.get(kind, [])
    ]
    for result in results:
        if "error" not in result and not result[kind]:
            rows.append({"image": shown(result["image"]), "label": f"no {kind}"})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if rows:
        print_table(columns, [[as_text(row.get(name, "")) for name in columns] for row in rows])


def as_text(value: Any) -> str:
    """A value as the table shows it."""
    if isinstance(value, list):
        return " ".join(f"{each:.0f}" for each in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)
