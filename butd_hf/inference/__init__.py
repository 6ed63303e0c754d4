# SPDX-License-Identifier: Apache-2.0
"""From images to captions, answers, objects and regions, as plain numpy values."""

from .answers import ImageAnswers, answer_questions
from .captions import ImageCaption, caption_images
from .objects import ImageObjects, detect_objects
from .regions import ImageRegions, image_regions


__all__ = [
    "ImageAnswers",
    "ImageCaption",
    "ImageObjects",
    "ImageRegions",
    "answer_questions",
    "caption_images",
    "detect_objects",
    "image_regions",
]
