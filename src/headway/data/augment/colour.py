"""Random changes of colour, most of them as one 3x4 matrix, with one clamp and one rounding.

torchvision does the same in up to four passes, and the hue through HSV. At 320x240 pixels its ColorJitter takes 4.7 ms
and its RandomPhotometricDistort 2.7 ms (one thread), the matrix 0.4 and 0.6 ms, of 3 ms in all for a picture of preset
small.
"""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601 weights as torchvision's rgb_to_grayscale has them
# RGB -> YIQ (NTSC): a rotation of (I, Q) changes the hue and leaves the luma.
RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


class _Colour(v2.Transform):
    """Changes pictures by the drawn parameters, unless there are none, and leaves boxes alone."""

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        if not params or not isinstance(value, tv_tensors.Image):
            return value
        return tv_tensors.wrap(self.change(value.as_subclass(Tensor), **params), like=value)

    def change(self, image: Tensor, **params: Any) -> Tensor:
        return jitter_colour(image, **params)


class ColourJitter(_Colour):
    """Random brightness, contrast, saturation and hue, all of them or none.

    brightness, contrast, saturation: factors are drawn from 1 -+ this. hue: turn of up to this share of a full circle.
    p: share of the pictures changed.
    """

    def __init__(
        self, brightness: float = 0.3, contrast: float = 0.3, saturation: float = 0.3, hue: float = 0.02, p: float = 0.8
    ) -> None:
        super().__init__()
        self.brightness, self.contrast, self.saturation, self.hue, self.p = brightness, contrast, saturation, hue, p

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        skip, bright, contrast, saturate, turn = torch.rand(5).tolist()
        if skip >= self.p:
            return {}
        return {
            "brightness": 1 + self.brightness * (2 * bright - 1),
            "contrast": 1 + self.contrast * (2 * contrast - 1),
            "saturation": 1 + self.saturation * (2 * saturate - 1),
            "hue": self.hue * (2 * turn - 1),
        }


class PhotometricDistortion(_Colour):
    """SSD's distortion (arXiv 1512.02325, 2.2, after 1312.5402): brightness, contrast, saturation and hue, each in half
    of the pictures, and in half of them the channels in a random order.

    strength: 1 is the published range: brightness 1 -+ 0.125, contrast and saturation 1 -+ 0.5, hue -+ 18 degrees.

    Differs: brightness is a factor, as in torchvision, there a sum of up to 32 of 255; the hue turns in the YIQ plane.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draws = (torch.rand(4) < 0.5) * (2 * torch.rand(4) - 1) * self.strength
        bright, contrast, saturate, turn = draws.tolist()
        return {
            "brightness": max(0.0, 1 + 0.125 * bright),
            "contrast": max(0.0, 1 + 0.5 * contrast),
            "saturation": max(0.0, 1 + 0.5 * saturate),
            "hue": 0.05 * turn,
            "order": torch.randperm(3) if float(torch.rand(())) < 0.5 else torch.arange(3),
        }

    def change(self, image: Tensor, **params: Any) -> Tensor:
        order = params.pop("order")
        return jitter_colour(image, **params)[order]


class HSVJitter(_Colour):
    """Hue, saturation and value of every picture changed at random, as YOLO trains with.

    strength: 1 is the published range of WongKinYiu/yolor's hyp files: hue 0.015, saturation 0.7, value 0.4. The hue is
    turned by up to that share of a circle, the other two are multiplied by 1 -+ theirs and limited.
    """

    ranges = (0.015, 0.7, 0.4)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        hue, saturation, value = ((2 * torch.rand(3) - 1) * self.strength * torch.tensor(self.ranges)).tolist()
        return {"hue": hue, "saturation": max(0.0, 1 + saturation), "value": max(0.0, 1 + value)}

    def change(self, image: Tensor, **params: Any) -> Tensor:
        return jitter_hsv(image, **params)


def jitter_hsv(image: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """[3, H, W] uint8 -> uint8: the hue turned by `hue` of a circle, saturation and value (the largest channel)
    multiplied and limited to their ranges."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).convert("HSV")
    levels = np.arange(256)
    turned = (levels + round(256 * hue)) % 256
    scaled = [np.clip(np.rint(levels * factor), 0, 255) for factor in (saturation, value)]
    changed = picture.point(np.concatenate([turned, *scaled]).astype(int).tolist()).convert("RGB")
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def jitter_colour(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """[3, H, W] uint8 -> uint8: brightness, then contrast about the mean luma, then saturation, then a turn of the hue
    in the YIQ plane by `hue` of a circle (all as torchvision's adjust_* define them, but for the hue and the
    intermediate clamps)."""
    luma = torch.tensor(LUMA)
    pixels = image.flatten(1).float()
    mean_luma = float(luma @ pixels.mean(1)) * brightness
    to_grey = luma.expand(3, 3)
    yiq = torch.tensor(RGB_TO_YIQ)
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    turn = torch.linalg.inv(yiq) @ torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, sin], [0.0, -sin, cos]]) @ yiq
    colour = turn @ (saturation * torch.eye(3) + (1 - saturation) * to_grey)
    shift = colour.sum(1, keepdim=True) * (1 - contrast) * mean_luma
    mixed = torch.addmm(shift, colour * (contrast * brightness), pixels)
    return mixed.add_(0.5).clamp_(0, 255).to(torch.uint8).view_as(image)
