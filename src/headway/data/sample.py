"""A picture with its boxes in memory: what a Dataset of your own gives, and what a `transform=` of your own changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..boxes import clip
from ..errors import DataError
from .image import image_size, read_image
from .pixels import to_pixels


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and the objects in it.

    image: the path of a picture file, or what `to_pixels` takes: a PIL picture (as it is, EXIF orientation not
        applied), an array [H, W, 3], or a tensor [3, H, W], in RGB.
    boxes: [M, 4] xyxy in pixels of the picture, M may be 0; an array, a tensor or a list. Boxes are clipped to the
        picture, and those without area left out.
    labels: [M] integers in 0..C-1. crowd: [M] booleans, true for a region that is neither an object nor background;
        None: no such region.

    Example: Sample(np.zeros((480, 640, 3), np.uint8), boxes=[[10, 20, 110, 90]], labels=[0])
    """

    image: Any
    boxes: Any
    labels: Any
    crowd: Any = None

    def to_tensors(self, where: str = "the sample", *, decode: bool = True) -> tuple[Sample, tuple[int, int]]:
        """The same with image [3, H, W] uint8, boxes [M, 4] float32, labels [M] int64 and crowd [M] bool; and the
        picture's (height, width).

        where: names the sample in messages. decode: False leaves a path as it is.

        Raises: DataError for a picture or boxes of another form.
        """
        try:
            boxes = tensor_of(self.boxes).float()
            boxes = boxes.reshape(-1, 4) if boxes.numel() == 0 else boxes
            labels = tensor_of(self.labels).reshape(-1)
            crowd = torch.zeros(len(boxes)) if self.crowd is None else tensor_of(self.crowd).reshape(-1)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: boxes, labels and crowd must be arrays of numbers, got {error}") from None
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not len(boxes) == len(labels) == len(crowd):
            raise DataError(
                f"{where}: expected boxes [M, 4] xyxy with M labels and M crowd marks, got boxes {tuple(boxes.shape)}, "
                f"{len(labels)} labels and {len(crowd)} crowd marks"
            )
        wrong = ~torch.isfinite(boxes).all(1) | (boxes[:, 2:] < boxes[:, :2]).any(1)
        if wrong.any():
            raise DataError(
                f"{where}: box {boxes[wrong][0].tolist()} is not x1 <= x2, y1 <= y2 in finite pixels; boxes are xyxy, "
                "not xywh"
            )
        if len(labels) and labels.is_floating_point():
            raise DataError(f"{where}: labels must be integers, got {labels.dtype}")
        image: Any = self.image
        if not isinstance(image, (str, Path)):
            image = to_pixels(image, where, exif=False)
        elif decode:
            image = read_image(image)
        size = image_size(image) if isinstance(image, (str, Path)) else (image.shape[1], image.shape[2])
        boxes = clip(boxes, torch.tensor(size))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Sample(image, boxes[kept], labels[kept].long(), crowd[kept].bool()), size


def tensor_of(values: Any) -> Tensor:
    """A copy on the CPU of a tensor, an array or a list."""
    return values.detach().cpu().clone() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
