# SPDX-License-Identifier: Apache-2.0
"""The scene-graph-generation pipeline: images in, objects and the relations between them out."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import PIL.Image
import torch

from .images import ButdImagePipeline, given


# options of `post_process_scene_graph_generation` and their ranges
CHOICES = {
    "threshold": (0, 1),
    "relation_threshold": (0, 1),
    "top_k": (0, math.inf),
    "graph_constraint": (False, True),
    "repeat_overlap": (0, 1),
    "twin_overlap": (0, 1),
}


class SceneGraphGenerationPipeline(ButdImagePipeline):
    """Turns images into scene graphs; see `ButdImagePipeline`.

    Example:

    ```python
    >>> import butd_hf
    >>> from transformers import pipeline

    >>> grapher = pipeline("scene-graph-generation", model="path/to/checkpoint")
    >>> graph = grapher("photo.jpg")
    >>> graph["objects"][0]
    {'label': 'person', 'score': 0.98, 'box': {'xmin': 12, 'ymin': 30, 'xmax': 118, 'ymax': 294}}
    >>> graph["relations"][0]
    {'subject': 0, 'predicate': 'ride', 'object': 1, 'score': 0.71}
    ```"""

    _load_processor = False
    _load_image_processor = True
    _load_tokenizer = False
    needed_parts = ("image_processor",)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if not hasattr(self.image_processor, "post_process_scene_graph_generation"):
            raise ValueError(
                "scene-graph-generation needs an image processor with post_process_scene_graph_generation, got "
                f"{type(self.image_processor).__name__}; pass image_processor=...."
            )
        if not getattr(self.model.config, "id2predicate", None):
            raise ValueError(
                "scene-graph-generation needs a model whose config has id2predicate, got "
                f"{type(self.model).__name__} without."
            )

    def __call__(
        self, inputs: "str | PIL.Image.Image | Sequence | Iterator | None" = None, **kwargs: Any
    ) -> dict[str, list] | list[dict[str, list]] | Iterator[dict[str, list]]:
        """Finds the scene graphs of images.

        Args:
            inputs: An image, a list of them, or a dataset or generator of them (`KeyDataset` picks a column). A
                image is a path, URL, base64 string, PIL image, array or tensor.
            threshold, relation_threshold, top_k, graph_constraint, repeat_overlap, twin_overlap (*optional*): As of
                `post_process_scene_graph_generation`, but 0.3, 0 and 20 by default.
            timeout (`float`, *optional*): Seconds to wait for a URL.
            batch_size (`int`, *optional*): Images that go through the model together, 1 by default.

        Returns:
            For an image `{"objects": [{"label", "score", "box"}], "relations": [{"subject", "predicate", "object",
            "score"}]}`, both best first. Boxes are `xmin, ymin, xmax, ymax` in pixels; subject and object are places
            among the objects, from 0. For a list of images a list of such graphs; for a dataset or generator, an
            iterator of them. `ValueError` names an image that cannot be read.
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, timeout: float | None = None, **choices: Any) -> tuple[dict, dict, dict]:
        choices = given(**choices)
        if unknown := ", ".join(sorted(choices.keys() - CHOICES.keys())):
            raise TypeError(f"the {self.task} pipeline has no option {unknown}, only {', '.join(CHOICES)}.")
        for name, (least, most) in CHOICES.items():
            if name in choices and not least <= choices[name] <= most:
                expected = "zero or positive" if most == math.inf else f"in [{least}, {most}]"
                raise ValueError(f"{name} must be {expected}, got {choices[name]}.")
        return given(timeout=timeout), choices, {}

    def read(self, image: Any, timeout: float | None = None) -> torch.Tensor:
        """The image, upright and in RGB, so that boxes are in the pixels that people see."""
        return self.image_processor.process_image(super().read(image, timeout), name="image")

    def _forward(self, model_inputs: dict, threshold: float = 0.3, top_k: int = 20, **choices: Any) -> dict[str, list]:
        images = self.batch(model_inputs, "images")
        features = self.image_processor(images=images, return_tensors="pt").to(self.device, dtype=self.dtype)
        choices |= {"threshold": threshold, "top_k": top_k, "target_sizes": [image.shape[-2:] for image in images]}
        graphs = self.image_processor.post_process_scene_graph_generation(self.model(**features), **choices)
        return {"graphs": [{name: value.tolist() for name, value in graph.items()} for graph in graphs]}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, list]:
        graph = model_outputs["graphs"]
        graph = graph[0] if isinstance(graph, list) else graph  # alone it is still in the list of its batch
        labels, predicates = self.model.config.id2label, self.model.config.id2predicate
        boxes = [dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, box), strict=True)) for box in graph["boxes"]]
        objects = [
            {"label": labels[label], "score": score, "box": box}
            for label, score, box in zip(graph["labels"], graph["scores"], boxes, strict=True)
        ]
        relations = [
            {"subject": subject, "predicate": predicates[predicate], "object": target, "score": score}
            for (subject, target, predicate), score in zip(graph["relations"], graph["relation_scores"], strict=True)
        ]
        return {"objects": objects, "relations": relations}
