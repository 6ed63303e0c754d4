# SPDX-License-Identifier: Apache-2.0
"""Bottom-Up Top-Down attention for transformers: raw image in, caption out, with the regions that were looked at.

Importing registers the models and pipelines with transformers, and nothing else.
"""

from importlib.metadata import version

from .checkpoints import default_checkpoint
from .inference import answer_questions, caption_images, detect_objects, image_regions
from .modeling.configuration_butd import ButdBottomUpConfig, ButdConfig, ButdTopDownConfig
from .modeling.image_processing_butd import ButdImageProcessor
from .modeling.modeling_butd import ButdModel, ButdRegionModel
from .modeling.modeling_captioning_butd import ButdForConditionalGeneration
from .modeling.modeling_detection_butd import ButdForInstanceSegmentation, ButdForObjectDetection
from .modeling.modeling_question_answering_butd import ButdForQuestionAnswering
from .modeling.modeling_scene_graph_butd import ButdForSceneGraphGeneration
from .modeling.pipelines.image_to_text import ImageToTextPipeline
from .modeling.pipelines.scene_graph_generation import SceneGraphGenerationPipeline
from .modeling.pipelines.visual_question_answering import VisualQuestionAnsweringPipeline
from .modeling.processing_butd import ButdProcessor
from .registration import register


__version__ = version("butd_hf")

__all__ = [
    "ButdBottomUpConfig",
    "ButdConfig",
    "ButdForConditionalGeneration",
    "ButdForInstanceSegmentation",
    "ButdForObjectDetection",
    "ButdForQuestionAnswering",
    "ButdForSceneGraphGeneration",
    "ButdImageProcessor",
    "ButdModel",
    "ButdProcessor",
    "ButdRegionModel",
    "ButdTopDownConfig",
    "ImageToTextPipeline",
    "SceneGraphGenerationPipeline",
    "VisualQuestionAnsweringPipeline",
    "__version__",
    "answer_questions",
    "caption_images",
    "default_checkpoint",
    "detect_objects",
    "image_regions",
]

register()
