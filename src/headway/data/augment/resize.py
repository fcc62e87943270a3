"""Scaling a picture to the network's input: the transform of evaluation and prediction, and the first of many presets.

`input_size` is always (short, long) in pixels: the picture is scaled, keeping its ratio, so that neither is exceeded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F
from torchvision.transforms.v2.functional import get_size


def fit_size(size: Sequence[int], input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a picture scaled to `input_size` (short, long), keeping the ratio, rounded half up as
    mmcv.rescale_size does (open-mmlab/mmcv, mmcv/image/geometric.py); at least 1 pixel."""
    height, width = size
    short, long = input_size
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_affine(original_size: Sequence[int], size: Sequence[int]) -> tuple[float, float, float, float]:
    """`Meta.affine` of a plain resize: the actual ratios, which rounding makes differ between the axes."""
    return size[1] / original_size[1], size[0] / original_size[0], 0.0, 0.0


class KeepRatioResize(v2.Transform):
    """Scale to `input_size`, keeping the ratio, by antialiased bilinear interpolation in uint8.

    shorts: several short sides to choose from at random (multi-scale training); the long side stays the limit.
    enlarge: False leaves pictures as they are that fit already.
    """

    def __init__(self, input_size: tuple[int, int], shorts: Sequence[int] = (), *, enlarge: bool = True) -> None:
        super().__init__()
        self.input_size = checked_size(input_size)
        self.shorts, self.enlarge = tuple(shorts), enlarge

    @property
    def fixed(self) -> bool:
        """Whether every call gives a picture the size `fit_size(size, input_size)`."""
        return self.enlarge and len(self.shorts) <= 1

    def forward(self, *inputs: Any) -> Any:
        """A picture alone, or (picture, target)."""
        if len(inputs) == 1 and isinstance(inputs[0], Tensor):  # v2's walk through nested samples costs 3% here
            return self.transform(inputs[0], self.make_params([inputs[0]]))
        return super().forward(*inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        short, long = self.input_size
        if self.shorts:
            short = self.shorts[int(torch.randint(len(self.shorts), ()))]
        size = picture_size(flat_inputs)
        fitted = fit_size(size, (short, long))
        return {"size": list(fitted if self.enlarge else min(fitted, size))}  # both axes shrink or both grow

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        resized = self._call_kernel(F.resize, value, params["size"], antialias=True)
        if isinstance(value, tv_tensors.BoundingBoxes):
            return F.clamp_bounding_boxes(resized)  # a coordinate on the edge may be rounded past it
        return resized


def eval_transform(input_size: tuple[int, int]) -> KeepRatioResize:
    """The transform of evaluation and prediction: `transform(image)` or `transform(image, target)`."""
    return KeepRatioResize(input_size)


def checked_size(input_size: tuple[int, int]) -> tuple[int, int]:
    short, long = input_size
    if not 0 < short <= long:
        raise ValueError(f"input_size must be (short, long) with 0 < short <= long, got {tuple(input_size)}")
    return short, long


def picture_size(flat_inputs: list[Any]) -> tuple[int, int]:
    """(height, width) of the picture among a transform's inputs."""
    images = [x for x in flat_inputs if isinstance(x, tv_tensors.Image)]
    height, width = get_size(images[0] if images else flat_inputs[0])
    return height, width
