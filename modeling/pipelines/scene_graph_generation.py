# SPDX-License-Identifier: Apache-2.0
"""The pipeline `scene-graph-generation`: photographs in, objects and the relations between them out."""

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import PIL.Image
import torch
from huggingface_hub.utils import httpx
from transformers import Pipeline


class SceneGraphGenerationPipeline(Pipeline):
    """
    Turns pictures into scene graphs.

    Pictures are processed batch by batch, so that those of different sizes can be padded together. The model is put
    into evaluation mode, and a float16 model on the CPU into float32, which is faster there; `dtype=torch.float16`
    keeps it.

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
    _load_feature_extractor = False
    _load_video_processor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        dtype = kwargs.get("dtype")
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
        self.model.eval()
        if dtype in (None, "auto") and self.device.type == "cpu" and self.dtype == torch.float16:
            self.model.float()

    def __call__(
        self, inputs: "str | PIL.Image.Image | Sequence | Iterator | None" = None, **kwargs: Any
    ) -> dict[str, list] | list[dict[str, list]] | Iterator[dict[str, list]]:
        """
        Finds the scene graphs of pictures.

        Args:
            inputs: A picture, a list of them, or a dataset or generator of them (`KeyDataset` picks a column). A
                picture is a path, URL, base64 string, PIL image, array or tensor.
            threshold (`float`, *optional*): Only objects that score higher, 0.3 by default.
            relation_threshold (`float`, *optional*): Only relations that score higher, 0 by default.
            top_k (`int`, *optional*): At most this many relations, the best; 20 by default.
            graph_constraint (`bool`, *optional*): Whether each pair has but its best predicate, as by default.
            repeat_overlap (`float`, *optional*): From which overlap (intersection over union) boxes with one label are
                about one thing, whose relations are told once; told for each box by default.
            twin_overlap (`float`, *optional*): From which overlap they are one thing that was found twice, and has no
                relation to itself; no two are by default.
            timeout (`float`, *optional*): Seconds to wait for a URL.
            batch_size (`int`, *optional*): Pictures that go through the model together, 1 by default.

        Returns:
            For a picture `{"objects": [{"label", "score", "box"}], "relations": [{"subject", "predicate", "object",
            "score"}]}`, both best first. Boxes are `xmin, ymin, xmax, ymax` in pixels; subject and object are places
            among the objects, from 0. For a list of pictures a list of such graphs; for a dataset or generator, an
            iterator of them.

        Raises:
            ValueError: If there are no inputs, or a picture cannot be read; the message names it.
        """
        if "images" in kwargs:
            inputs = kwargs.pop("images")
        if inputs is None:
            raise ValueError("Cannot call the scene-graph-generation pipeline without an inputs argument!")
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
            if len(inputs) == 0:
                return []
            if not isinstance(inputs, list):  # tuples, and columns of `datasets`, which decode picture by picture
                return list(super().__call__((image for image in inputs), **kwargs))
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self,
        threshold: float | None = None,
        relation_threshold: float | None = None,
        top_k: int | None = None,
        graph_constraint: bool | None = None,
        repeat_overlap: float | None = None,
        twin_overlap: float | None = None,
        timeout: float | None = None,
    ) -> tuple[dict, dict, dict]:
        choices = {
            "threshold": threshold,
            "relation_threshold": relation_threshold,
            "top_k": top_k,
            "graph_constraint": graph_constraint,
            "repeat_overlap": repeat_overlap,
            "twin_overlap": twin_overlap,
        }
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k must be zero or positive, got {top_k}.")
        for name in ("threshold", "relation_threshold", "repeat_overlap", "twin_overlap"):
            if choices[name] is not None and not 0 <= choices[name] <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {choices[name]}.")
        forward_params = {name: value for name, value in choices.items() if value is not None}
        return {} if timeout is None else {"timeout": timeout}, forward_params, {}

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, list]:
        """Reads a picture. The rest waits until the batch is known: pictures are padded to the largest of it."""
        name = repr(image) if isinstance(image, (str, os.PathLike)) else repr(getattr(image, "filename", type(image)))
        image = os.fspath(image) if isinstance(image, os.PathLike) else image
        try:
            if timeout is not None and isinstance(image, str) and image.startswith(("http://", "https://")):
                response = httpx.get(image, timeout=timeout, follow_redirects=True)
                image = PIL.Image.open(BytesIO(response.raise_for_status().content))
            # upright and in RGB, so that boxes are in the pixels that people see
            picture = self.image_processor.process_image(self.image_processor.fetch_images(image), name="image")
        except Exception as error:  # decoders raise whatever a broken file leads them into
            raise ValueError(f"Cannot read the picture {name[:200]}: {error}") from error
        return {"images": [picture]}  # in a list, because a lone tensor would be concatenated with others of its batch

    def _forward(
        self,
        model_inputs: dict,
        threshold: float = 0.3,
        relation_threshold: float = 0.0,
        top_k: int = 20,
        graph_constraint: bool = True,
        repeat_overlap: float | None = None,
        twin_overlap: float | None = None,
    ) -> dict[str, list]:
        images = []
        for image in model_inputs["images"]:  # a batch comes as lists of one
            images.extend(image if isinstance(image, list) else [image])
        features = self.image_processor(images=images, return_tensors="pt").to(self.device, dtype=self.dtype)
        graphs = self.image_processor.post_process_scene_graph_generation(
            self.model(**features),
            threshold=threshold,
            relation_threshold=relation_threshold,
            top_k=top_k,
            target_sizes=[tuple(image.shape[-2:]) for image in images],
            graph_constraint=graph_constraint,
            repeat_overlap=repeat_overlap,
            twin_overlap=twin_overlap,
        )
        return {"graphs": [{name: value.tolist() for name, value in graph.items()} for graph in graphs]}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, list]:
        graph = model_outputs["graphs"]
        graph = graph[0] if isinstance(graph, list) else graph  # alone it is still in the list of its batch
        labels = self.model.config.id2label
        predicates = self.model.config.id2predicate
        objects = [
            {
                "label": labels[label],
                "score": score,
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, box), strict=True)),
            }
            for label, score, box in zip(graph["labels"], graph["scores"], graph["boxes"], strict=True)
        ]
        relations = [
            {"subject": subject, "predicate": predicates[predicate], "object": target, "score": score}
            for (subject, target, predicate), score in zip(graph["relations"], graph["relation_scores"], strict=True)
        ]
        return {"objects": objects, "relations": relations}


__all__ = ["SceneGraphGenerationPipeline"]
