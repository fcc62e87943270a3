"""What preset "yolo" makes of several pictures: mosaics of four or nine, warped, and perhaps two of them blended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from .labelled import ALIGNED, LabelledImage
from .mosaic import join_anywhere, join_nine
from .warp import canvas_size


class YoloMosaics:
    """The `Join` of preset "yolo": four to eighteen pictures make one training picture.

    single: the preset's steps for one picture, of which the first, fitting to `input_size`, is the tiles' and the rest
    are done to the mosaic: the warp, and behind MixUp the others.
    nine: share of the mosaics of nine pictures. mixup: probability that a second mosaic is blended in.
    """

    takes_resized = True  # it fits every tile to the input size first

    def __init__(
        self, single: v2.Compose, input_size: tuple[int, int], fill: Sequence[float], nine: float, mixup: float
    ) -> None:
        _, self.warp, *rest = single.transforms
        self.finish = v2.Compose(rest)
        self.input_size, self.fill, self.nine, self.mixup = input_size, fill, nine, mixup

    def __call__(self, first: LabelledImage, another: Callable[[], LabelledImage]) -> LabelledImage:
        canvas = canvas_size(first[0].shape[-2:], self.input_size)
        sample = self._mosaic(first, another, canvas)
        if self.mixup and float(torch.rand(())) < self.mixup:
            sample = mix_up(sample, self._mosaic(another(), another, canvas))
        return self.finish(*sample)

    def _mosaic(
        self, first: LabelledImage, another: Callable[[], LabelledImage], canvas: tuple[int, int]
    ) -> LabelledImage:
        nine = bool(self.nine) and float(torch.rand(())) < self.nine
        samples = [first, *(another() for _ in range(8 if nine else 3))]
        join = join_nine if nine else join_anywhere
        return self.warp(*join(samples, self.input_size, canvas, self.fill))


def mix_up(first: LabelledImage, second: LabelledImage, beta: float = 8.0) -> LabelledImage:
    """Two samples of one size blended, with the boxes of both (arXiv 1710.09412; for detection 1902.04103, whose
    weights by share YOLO leaves out).

    The first's share is drawn from Beta(beta, beta); 8 keeps it near a half. Draws from torch's global generator.
    """
    (image, target), (other, added) = first, second
    if image.shape != other.shape:
        raise ValueError(f"pictures to blend must have one size, got {tuple(image.shape)} and {tuple(other.shape)}")
    share = float(torch.distributions.Beta(beta, beta).sample())
    pixels = image.as_subclass(Tensor).float().lerp_(other.as_subclass(Tensor).float(), 1 - share)
    mixed: dict[str, Any] = {key: torch.cat([target[key], added[key]]) for key in ALIGNED if key in target}
    boxes = torch.cat([target["boxes"].as_subclass(Tensor), added["boxes"].as_subclass(Tensor)])
    mixed["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=target["boxes"].canvas_size)
    return tv_tensors.Image(pixels.round_().to(torch.uint8)), mixed
