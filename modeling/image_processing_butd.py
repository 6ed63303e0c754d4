# SPDX-License-Identifier: Apache-2.0  (trf-ignore: TRF028)
"""Images in, pixel values out: the one place that touches files, colour modes, orientation and bit depth."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, auto_docstring

from .annotations import labels_of_annotation, unpadded_sizes
from .images import (
    KINDS,
    channels_first,
    decode_image,
    each_image,
    eight_bit_pixels,
    fetch_images,
    finite_pixels,
    on_white,
)
from .post_processing import ButdPostProcessing
from .remote_code import CarriesCode


# what the published bottom-up detector was given
PUBLISHED_MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green and red, in grey levels
PUBLISHED_SIZES = {
    "caffe": {"shortest_edge": 600, "longest_edge": 1000},
    "detectron2": {"shortest_edge": 800, "longest_edge": 1333},
}


class ButdImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    size_divisor (`int`, *optional*, defaults to `self.size_divisor`):
        With `size={"shortest_edge": ..., "longest_edge": ...}`, both sides are rounded to a multiple of it and are
        never shorter. Not used with `size={"height": ..., "width": ...}`.
    recipe (`str`, *optional*, defaults to `self.recipe`):
        `"caffe"` or `"detectron2"`: images become what that variant of the published bottom-up detector takes,
        see `from_recipe`.
    """

    size_divisor: int | None
    recipe: str | None


@auto_docstring(
    custom_intro="""
    Turns images into normalised `pixel_values`, and says with `pixel_mask` which of them are padding.

    Any mix of paths, URLs, PIL images, numpy arrays and torch tensors is accepted; the same image gives exactly the
    same values whichever way it comes, alone or in a batch. Every image first becomes 8-bit RGB: EXIF orientation is
    applied, transparency is composited on white, grey is repeated, and 16-bit values are scaled by their range.
    Integer arrays wider than 16 bits count as 8-bit when nothing in them exceeds 255, otherwise as 16-bit. Float
    arrays are in [0, 1]; with `do_rescale=False` they may have any range and are not reduced to 8 bits.

    `size={"height": ..., "width": ...}` stretches to that size and returns no mask. `size={"shortest_edge": ...,
    "longest_edge": ...}` keeps the aspect ratio up to rounding to `size_divisor`, pads bottom and right to the largest
    of the batch and returns `pixel_mask`, an int64 tensor (batch_size, height, width) that is 1 where the image is.
    `longest_edge` always binds, so that memory is bounded for images of any shape.

    With a `recipe`, `image_scale` is returned as well, float32 (batch_size,): pixels of each image per pixel of the
    image as it came.
    """
)
class ButdImageProcessor(CarriesCode, ButdPostProcessing, TorchvisionBackend):
    valid_kwargs = ButdImageProcessorKwargs
    model_input_names: ClassVar[list[str]] = ["pixel_values", "pixel_mask"]

    do_resize = True
    size: ClassVar[dict[str, int]] = {"height": 256, "width": 256}
    size_divisor = 32  # the coarsest stride of the usual backbones
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    do_pad = True  # images resized to one height and width need none
    recipe = None

    def __init__(self, **kwargs: Unpack[ButdImageProcessorKwargs]):
        super().__init__(**kwargs)

    @classmethod
    def from_backbone(cls, backbone: str, **kwargs: Unpack[ButdImageProcessorKwargs]) -> "ButdImageProcessor":
        """
        An image processor with the mean, standard deviation and interpolation that a timm backbone was trained with.

        The name may have a pretrained tag; `ValueError` if timm doesn't know it. Nothing is downloaded. Further
        arguments win over the backbone's.
        """
        import timm  # not needed for anything else here, and slow to import

        pretrained_config = timm.get_pretrained_cfg(backbone)
        if pretrained_config is None:
            raise ValueError(f"timm {timm.__version__} knows no backbone {backbone!r}; see timm.list_models().")
        # timm augments with "random" interpolation in places; its own evaluation then uses bicubic
        interpolation = pretrained_config.interpolation.upper()
        backbone_kwargs = {
            "image_mean": list(pretrained_config.mean),
            "image_std": list(pretrained_config.std),
            "resample": PILImageResampling.__members__.get(interpolation, PILImageResampling.BICUBIC),
        }
        return cls(**{**backbone_kwargs, **kwargs})

    @classmethod
    def from_recipe(cls, recipe: str, **kwargs: Unpack[ButdImageProcessorKwargs]) -> "ButdImageProcessor":
        """An image processor for the published bottom-up detector: blue, green, red, each minus its mean.

        The recipe `"caffe"` subtracts the mean, then resizes floats to 600 pixels on the short side, at most 1000 on
        the long one. `"detectron2"` resizes 8-bit values to 800 and at most 1333, then subtracts. `resample`,
        `size_divisor`, `rescale_factor` and `image_std` play no part; further arguments, such as another `size`, do.
        """
        _check_recipe(recipe)
        recipe_kwargs = {"size": PUBLISHED_SIZES[recipe], "image_mean": list(PUBLISHED_MEAN), "image_std": [1.0] * 3}
        return cls(**{**recipe_kwargs, "recipe": recipe, **kwargs})

    def to_dict(self) -> dict[str, Any]:
        """As any image processor's, without what loading noted."""
        return {name: value for name, value in super().to_dict().items() if name != "auto_map"}

    def to_json_string(self) -> str:
        """As any image processor's, without its class: the model's config names it.

        From a class named here, AutoVideoProcessor would derive one of its own, and ask whether to run its code.
        """
        fields = self.to_dict()
        del fields["image_processor_type"]
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @auto_docstring
    def preprocess(
        self,
        images: ImageInput,
        annotations: dict[str, Any] | list[dict[str, Any]] | None = None,
        return_segmentation_masks: bool = False,
        **kwargs: Unpack[ButdImageProcessorKwargs],
    ) -> BatchFeature:
        r"""
        annotations (`dict` or `list[dict]`, *optional*):
            Of each image, in COCO's detection format `{"image_id", "annotations": [{"bbox", "category_id", ...}]}`;
            they become `labels`, what the detection models train on.
        return_segmentation_masks (`bool`, *optional*, defaults to `False`):
            Whether labels hold the masks that `segmentation` describes.
        """
        return super().preprocess(images, annotations, return_segmentation_masks, **kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Reads paths, URLs and data URIs as PIL images, in nested lists of any depth; other inputs pass unchanged.
        `ValueError` names one that cannot be read and its place, like `images[3]`.
        """
        return fetch_images(image_url_or_urls, "images")

    def process_image(
        self,
        image: ImageInput,
        do_rescale: bool | None = True,
        input_data_format: str | ChannelDimension | None = None,
        device: "torch.device | None" = None,
        name: str = "images",
        **kwargs: Unpack[ImagesKwargs],
    ) -> torch.Tensor:
        """One image as an RGB tensor (3, height, width), uint8, or float32 if it came as floats and `do_rescale` is
        off: else floats must lie in [0, 1]. By default a numpy array is read as channels last and a tensor as channels
        first whenever its shape allows both. `ValueError` if it is no image.
        """
        if isinstance(image, PIL.Image.Image):
            if getattr(image, "filename", ""):
                name = f"{name} ({str(image.filename)!r})"
            image, input_data_format = decode_image(image, name), ChannelDimension.LAST
        if not isinstance(image, (np.ndarray, torch.Tensor)):
            raise ValueError(f"{name}: got {type(image).__name__}, expected {KINDS}.")
        image = channels_first(image, name, input_data_format).to(device)
        if image.is_floating_point() and not do_rescale:
            return on_white(finite_pixels(image, name), 1.0).contiguous()
        return on_white(eight_bit_pixels(image, name), 255).contiguous()

    def resize(
        self,
        image: torch.Tensor,
        size: SizeDict,
        resample: "PILImageResampling | int | None" = None,
        size_divisor: int = 32,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Resizes (..., height, width) to `size`, see the class for the meaning of its two forms."""
        if size.shortest_edge:
            height, width = _size_within(image.shape[-2], image.shape[-1], size, size_divisor)
            size = SizeDict(height=height, width=width)
        return super().resize(image, size=size, resample=resample, **kwargs)

    def _standardize_kwargs(
        self, size_divisor: int | None = None, recipe: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        kwargs = {**super()._standardize_kwargs(**kwargs), "recipe": recipe, "size_divisor": size_divisor}
        size = {} if kwargs["size"] is None else dict(kwargs["size"])  # none is needed without resizing
        forms = ({"height", "width"}, {"shortest_edge", "longest_edge"})
        if size and (set(size) not in forms or min(size.values()) < 1):
            raise ValueError(
                f"size must be positive and of the form {{'height', 'width'}} or {{'shortest_edge', 'longest_edge'}} "
                f"(the longest edge bounds memory), got {size}."
            )
        if recipe is not None:
            _check_recipe(recipe)
            if "shortest_edge" not in size:
                raise ValueError(f"size must be like {PUBLISHED_SIZES[recipe]} for a recipe, got {size}.")
        if not isinstance(size_divisor, int) or size_divisor < 1:
            raise ValueError(f"size_divisor must be a positive integer, got {size_divisor!r}.")
        if "longest_edge" in size and size["longest_edge"] < max(size["shortest_edge"], size_divisor):
            raise ValueError(
                f"longest_edge must be at least shortest_edge and size_divisor={size_divisor}, got {size}."
            )
        if kwargs.get("do_center_crop"):
            raise ValueError("do_center_crop is not supported: regions are found in the whole image.")
        return kwargs

    def _prepare_image_like_inputs(
        self, images: ImageInput, *args: Any, expected_ndims: int = 3, **kwargs: Unpack[ButdImageProcessorKwargs]
    ) -> list[torch.Tensor]:
        images = self.fetch_images(images)
        return [self.process_image(image, name=name, **kwargs) for name, image in each_image(images, "images")]

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        annotations: dict[str, Any] | list[dict[str, Any]] | None = None,
        return_segmentation_masks: bool = False,
        **kwargs: Unpack[ButdImageProcessorKwargs],
    ) -> BatchFeature:
        images = self._prepare_image_like_inputs(images, **kwargs)
        features = self._preprocess(images, **kwargs)
        if annotations is None:
            return features
        annotations = [annotations] if isinstance(annotations, Mapping) else annotations
        if len(annotations) != len(images):
            raise ValueError(f"annotations: got {len(annotations)} for {len(images)} images, expected one for each.")
        names = [f"annotations[{index}]" for index in range(len(images))]
        features["labels"] = [
            labels_of_annotation(annotation, tuple(image.shape[-2:]), size, return_segmentation_masks, name)
            for annotation, image, size, name in zip(annotations, images, unpadded_sizes(features), names, strict=True)
        ]
        return features

    def _preprocess(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        size_divisor: int,
        resample: "PILImageResampling | int | None",
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | list[float] | None,
        image_std: float | list[float] | None,
        do_pad: bool | None,
        pad_size: SizeDict | None,
        return_tensors: str | TensorType | None,
        recipe: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        pixel_values, scales = [], []
        for image in images:  # one by one, never stacked, so that an image's values cannot depend on its batch
            if recipe is not None:
                image, scale = published_pixels(image, recipe, size.shortest_edge, size.longest_edge, image_mean)
                pixel_values.append(image)  # (3, height, width)
                scales.append(scale)
                continue
            if do_resize:
                low, high = image.min(), image.max()
                image = self.resize(image, size, resample=resample, size_divisor=size_divisor)
                if image.is_floating_point():  # cubic filters overshoot; only 8-bit values are clipped anyway
                    image = image.clamp(low, high)
            image = self.rescale_and_normalize(image, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            pixel_values.append(image.to(torch.float32))  # (3, height, width)
        scale = {} if recipe is None else {"image_scale": torch.tensor(scales)}  # (batch_size,)
        if not do_pad or (do_resize and size.height):
            return BatchFeature({"pixel_values": pixel_values, **scale}, tensor_type=return_tensors)
        # each (3, height, width) and (height, width), with zeros: the mean colour after normalisation
        pixels, mask = self.pad(pixel_values, pad_size=pad_size, return_mask=True, disable_grouping=True)
        return BatchFeature({"pixel_values": pixels, "pixel_mask": mask, **scale}, tensor_type=return_tensors)


def published_pixels(
    image: torch.Tensor,  # (3, height, width): RGB, uint8 or float32 in grey levels of 0 to 255
    variant: str,
    shortest_edge: int,  # what the short side becomes, unless the long one exceeds `longest_edge`
    longest_edge: int,
    mean: Sequence[float],  # of blue, green and red, in grey levels
) -> tuple[torch.Tensor, float]:
    """The image for the detector `(3, new_height, new_width)`, blue first, float32, and its scale: new pixels per old.

    `"caffe"` subtracts the mean, then resizes floats bilinearly without smoothing, as OpenCV does when it is given a
    factor: sides are rounded, but pixels lie where the exact factor puts them. `"detectron2"` resizes 8-bit values
    with Pillow, which smooths and rounds, then subtracts the mean.
    """
    height, width = image.shape[1:]
    scale = shortest_edge / min(height, width)
    mean = torch.tensor(mean, dtype=torch.float32, device=image.device)[:, None, None]
    image = image.flip(0)
    if variant == "caffe":
        if round(scale * max(height, width)) > longest_edge:
            scale = longest_edge / max(height, width)
        size = [max(1, round(side * scale)) for side in (height, width)]  # halves to even, as OpenCV rounds
        image = (image.float() - mean)[None]  # (1, 3, height, width)
        # the one function that takes a size and a factor; `interpolate` takes either
        return torch.ops.aten.upsample_bilinear2d.default(image, size, False, scale, scale)[0], scale
    sides = [side * scale for side in (height, width)]
    if max(sides) > longest_edge:
        sides = [side * (longest_edge / max(sides)) for side in sides]
    size = [max(1, int(side + 0.5)) for side in sides]
    if image.dtype == torch.uint8:
        pixels = PIL.Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())
        resized = pixels.resize(size[::-1], PIL.Image.Resampling.BILINEAR)
        image = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(image.device)  # (3, new_height, new_width)
    else:
        image = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    return image.float() - mean, sides[0] / height


def _check_recipe(recipe: Any) -> None:
    if recipe not in PUBLISHED_SIZES:
        raise ValueError(f"recipe must be one of {', '.join(map(repr, PUBLISHED_SIZES))}, got {recipe!r}.")


def _size_within(height: int, width: int, size: SizeDict, size_divisor: int) -> tuple[int, int]:
    """Height and width scaled to `shortest_edge` as far as `longest_edge` allows, as multiples of `size_divisor`."""
    scale = min(size.shortest_edge / min(height, width), size.longest_edge / max(height, width))
    largest = size.longest_edge // size_divisor
    steps = [int(side * scale / size_divisor + 0.5) for side in (height, width)]
    return tuple(size_divisor * min(max(step, 1), largest) for step in steps)


__all__ = ["ButdImageProcessor"]
