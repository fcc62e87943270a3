"""What augmentation works on: a picture with its boxes, and what joins several of them into one.

A `LabelledImage` is `(image, target)`: a `tv_tensors.Image` uint8 and a dict with `boxes` (tv_tensors.BoundingBoxes),
`labels`, `crowd`, `area` and, where the data has them, `ids`. Pixels stay uint8 to the end.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torchvision import tv_tensors

from ...boxes import area

LabelledImage = tuple[Tensor, dict[str, Any]]
ImageTransform = Callable[[Tensor, dict[str, Any]], LabelledImage]

GREY = (124.0, 116.0, 104.0)  # ImageNet's mean colour, zero after the usual normalisation

ALIGNED = ("labels", "crowd", "ids")  # what is filtered together with the boxes


class Join(Protocol):
    """Makes one training picture of several, transforms included.

    takes_resized: whether the pictures may come scaled to the input size already, from a cache.
    """

    takes_resized: bool

    def __call__(self, first: LabelledImage, another: Callable[[], LabelledImage]) -> LabelledImage:
        """another: gives a picture of the data set at random, as often as it is called."""
        ...


def aligned_with_boxes(inputs: Any) -> tuple[Tensor, ...]:
    """`labels_getter` for SanitizeBoundingBoxes, which by itself would filter `labels` only and leave crowd and ids
    long. At module level, so that a spawned worker can unpickle it."""
    target = inputs[1]
    return tuple(target[key] for key in ALIGNED if key in target)


def joined(image: Tensor, boxes: Tensor, parts: Sequence[dict[str, Any]]) -> LabelledImage:
    """One picture of several: image [3, H, W]; boxes [M, 4] in it, in the order of what `parts` hold of `ALIGNED`."""
    target: dict[str, Any] = {key: torch.cat([part[key] for part in parts]) for key in ALIGNED if key in parts[0]}
    height, width = image.shape[-2:]
    target["boxes"] = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))
    return tv_tensors.Image(image), target


def empty_hidden(
    moved: tv_tensors.BoundingBoxes, before: tv_tensors.BoundingBoxes, area_scale: float, min_visible: float
) -> tv_tensors.BoundingBoxes:
    """`moved` [M, 4], with boxes set to zero of which a crop left less than `min_visible` of their area.

    before: the same boxes before the crop; area_scale: the factor by which the move alone changes areas.
    """
    left, whole = area(moved.as_subclass(Tensor)), area(before.as_subclass(Tensor))
    hidden = left < min_visible * area_scale * whole
    return tv_tensors.wrap(moved.masked_fill(hidden[:, None], 0.0), like=moved)
