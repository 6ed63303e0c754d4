# SPDX-License-Identifier: Apache-2.0
"""Saved checkpoints carry their code: these folders, flattened, because transformers loads only files that lie beside
one another. `bottom_up/grid.py` becomes `bottom_up_grid.py`; saved again from there, it stays as it is.
"""

import os
import re
from importlib.util import resolve_name
from pathlib import Path
from typing import Any


RELATIVE_IMPORT = re.compile(r"^(\s*from )(\.+[\w.]*)( import )", re.MULTILINE)

# architecture -> its module, and the auto classes that load it
ARCHITECTURES = {
    "ButdModel": ("modeling_butd", ("AutoModel",)),
    "ButdRegionModel": ("modeling_butd", ("AutoModel",)),
    "ButdForConditionalGeneration": ("modeling_captioning_butd", ("AutoModelForImageTextToText",)),
    "ButdForQuestionAnswering": ("modeling_question_answering_butd", ("AutoModelForVisualQuestionAnswering",)),
    "ButdForSceneGraphGeneration": ("modeling_scene_graph_butd", ("AutoModel",)),
    "ButdForObjectDetection": ("modeling_detection_butd", ("AutoModelForObjectDetection",)),
    "ButdForInstanceSegmentation": (
        "modeling_detection_butd",
        ("AutoModelForInstanceSegmentation", "AutoModelForImageSegmentation"),  # the pipeline knows the older name
    ),
}

# architecture -> its task and the pipeline, in `pipelines/` in a file of the task's name, that transformers has not
PIPELINES = {
    "ButdForConditionalGeneration": ("image-to-text", "ImageToTextPipeline"),
    "ButdForQuestionAnswering": ("visual-question-answering", "VisualQuestionAnsweringPipeline"),
    "ButdForSceneGraphGeneration": ("scene-graph-generation", "SceneGraphGenerationPipeline"),
}


def pipeline_classes() -> dict[str, type]:
    """Task -> pipeline, imported when asked for. These imports also make the files part of every checkpoint's code."""
    from .pipelines.image_to_text import ImageToTextPipeline
    from .pipelines.scene_graph_generation import SceneGraphGenerationPipeline
    from .pipelines.visual_question_answering import VisualQuestionAnsweringPipeline

    return {
        "image-to-text": ImageToTextPipeline,
        "visual-question-answering": VisualQuestionAnsweringPipeline,
        "scene-graph-generation": SceneGraphGenerationPipeline,
    }


def auto_map(architectures: list[str] | None) -> dict[str, str]:
    """What `auto_map` of a saved config says: auto class -> `file.Class`. Empty for a class of somebody else's."""
    classes = {}
    for architecture in architectures or []:
        module, auto_classes = ARCHITECTURES.get(architecture, (None, ()))
        classes.update(dict.fromkeys(auto_classes, f"{module}.{architecture}"))
    if classes:
        classes["AutoConfig"] = "configuration_butd.ButdConfig"
        # not in preprocessor_config.json, from which AutoVideoProcessor would derive a class of its own
        classes["AutoImageProcessor"] = "image_processing_butd.ButdImageProcessor"
    return classes


def custom_pipelines(architectures: list[str] | None) -> dict[str, dict[str, Any]]:
    """What `custom_pipelines` of a saved config says: task -> pipeline and auto class."""
    pipelines = {}
    for architecture in architectures or []:
        if architecture in PIPELINES:
            task, pipeline = PIPELINES[architecture]
            file = f"pipelines_{task.replace('-', '_')}"
            pipelines[task] = {"impl": f"{file}.{pipeline}", "pt": [ARCHITECTURES[architecture][1][0]]}
    return pipelines


def write_code(cls: type, folder: str | os.PathLike) -> None:
    """Writes the module of a class, and all that it imports of these folders, as siblings into a folder.

    Of a subclass that is defined elsewhere, the code of the class that it extends is written.
    """
    root, here = __name__.rpartition(".")[0], Path(__file__).parent
    own = next(base.__module__ for base in cls.__mro__ if base.__module__.startswith(f"{root}."))
    waiting, written = [own.removeprefix(f"{root}.")], set()
    while waiting:
        name = waiting.pop()
        if name in written:
            continue
        written.add(name)
        package = f"{root}.{name}".rpartition(".")[0]

        def flatten(found: re.Match, package: str = package) -> str:
            target = resolve_name(found[2], package).removeprefix(f"{root}.")
            waiting.append(target)
            return f"{found[1]}.{target.replace('.', '_')}{found[3]}"

        source = RELATIVE_IMPORT.sub(flatten, (here / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))
        Path(folder, f"{name.replace('.', '_')}.py").write_text(source, encoding="utf-8")


class CarriesCode:
    """Of a model or processor: `save_pretrained`, and so `push_to_hub`, writes its code beside it."""

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = None) -> None:
        """Does nothing: transformers' own way to carry code knows no folders."""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> Any:
        """As every `save_pretrained` of transformers."""
        if kwargs.get("is_main_process", True) and not os.path.isfile(save_directory):
            os.makedirs(save_directory, exist_ok=True)
            write_code(type(self), save_directory)
        return super().save_pretrained(save_directory, **kwargs)
