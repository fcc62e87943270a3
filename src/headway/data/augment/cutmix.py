"""CutMix for detection: a rectangle of a second picture replaces what the first has there (arXiv 1905.04899, 3.1).

The paper mixes two labels by area. Boxes are not mixed: an object is there or it is not, so each is kept or left out
whole, by how much of it can be seen.

Differs: in PaddleDetection, whose PAFNet lists CutMix (ppdet/data/transform/operators.py, 2.0 and 2.1), the boxes of
both pictures stay, hidden or not, with the areas' shares as scores that TTFNet's targets ignore.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ...boxes import area
from .labelled import ALIGNED, ImageTransform, LabelledImage, joined
from .resize import fit_size


class CutMix:
    """The `Join` that puts a rectangle of another picture into this share of the pictures, before `transform`.

    input_size: (short, long) that pictures are scaled to, see `cut_mix`.
    """

    takes_resized = False

    def __init__(self, transform: ImageTransform, share: float, input_size: tuple[int, int]) -> None:
        self.transform, self.share, self.input_size = transform, share, input_size

    def __call__(self, first: LabelledImage, another: Callable[[], LabelledImage]) -> LabelledImage:
        if float(torch.rand(())) < self.share:
            first = cut_mix(first, another(), self.input_size)
        return self.transform(*first)


def cut_mix(
    first: LabelledImage,
    second: LabelledImage,
    input_size: tuple[int, int],
    *,
    beta: float = 1.5,
    min_visible: float = 0.3,
) -> LabelledImage:
    """The first sample with a rectangle of the second.

    The rectangle's sides are sqrt(1 - share) of the first picture's, with share from Beta(beta, beta) (PAFNet's 1.5,
    the paper's 1). Its centre lies anywhere in the picture, and it is clipped to the picture.

    The second picture is scaled as it would be by itself: by what fitting it to `input_size` (short, long) does,
    relative to the first. Along each axis it lies at a random place inside the first, or covers the first where it is
    the longer one; the rectangle is clipped to it. Two pictures of one size coincide, as in the paper.

    Boxes of the second are clipped to the rectangle. A box of the first shrinks only where the rectangle covers one end
    of it across its whole width or height. Of both, a box is dropped when less than `min_visible` of its area can be
    seen. Example: a rectangle over the left 40% of a box leaves the right 60%; one over 80% of it drops the box.

    Samples from torch's global generator.
    """
    image, target = first
    height, width = image.shape[-2:]
    pasted, moved = _scaled(second, (height, width), input_size)
    rows, top = _span(height, pasted.shape[-2])
    columns, left = _span(width, pasted.shape[-1])
    share = float(torch.distributions.Beta(beta, beta).sample())
    y1, y2 = _stretch(height, share, rows)
    x1, x2 = _stretch(width, share, columns)
    if y2 <= y1 or x2 <= x1:
        return first
    mixed = image.as_subclass(Tensor).clone()
    mixed[:, y1:y2, x1:x2] = pasted[:, y1 - top : y2 - top, x1 - left : x2 - left]
    window = torch.tensor([x1, y1, x2, y2], dtype=torch.float32)
    seen, kept = visible_outside(target["boxes"].as_subclass(Tensor), window, min_visible)
    shifted = moved["boxes"].as_subclass(Tensor) + torch.tensor([left, top] * 2)
    cut = _inside(shifted, window)
    added = area(cut) >= min_visible * area(shifted)
    added &= area(cut) > 0
    parts = [
        {key: part[key][rows] for key in ALIGNED if key in part} for part, rows in ((target, kept), (moved, added))
    ]
    return joined(mixed, torch.cat([seen[kept], cut[added]]), parts)


def _inside(boxes: Tensor, window: Tensor) -> Tensor:
    """What of each box [M, 4] lies in the window [4]; inverted for a box outside."""
    return torch.cat([boxes[:, :2].maximum(window[:2]), boxes[:, 2:].minimum(window[2:])], 1)


def visible_outside(boxes: Tensor, window: Tensor, min_visible: float) -> tuple[Tensor, Tensor]:
    """boxes [M, 4], window [4], both xyxy -> the boxes around what the window leaves of them [M, 4], and which of them
    keep `min_visible` of their area [M] bool. A box without area is not kept."""
    covered = _inside(boxes, window)
    hidden = area(covered)
    seen = boxes.clone()
    for low, other in ((0, 1), (1, 0)):  # along x the window must reach over all of y, and the other way round
        across = (covered[:, other] == boxes[:, other]) & (covered[:, other + 2] == boxes[:, other + 2]) & (hidden > 0)
        start = across & (covered[:, low] == boxes[:, low])
        end = across & (covered[:, low + 2] == boxes[:, low + 2])
        seen[:, low] = torch.where(start & ~end, covered[:, low + 2], seen[:, low])
        seen[:, low + 2] = torch.where(end & ~start, covered[:, low], seen[:, low + 2])
    whole = area(boxes)
    return seen, (whole > 0) & (whole - hidden >= min_visible * whole)


def _scaled(sample: LabelledImage, size: tuple[int, int], input_size: tuple[int, int]) -> LabelledImage:
    """`sample` at the scale at which a picture of `size` is seen that is not resized."""
    image, target = sample
    fitted, reference = fit_size(image.shape[-2:], input_size), fit_size(size, input_size)
    # Two pixels at least: torch's uint8 resize fails for a single one (num_channels == unpacked_output.size(0)).
    scaled = [max(2, round(side * old / new)) for side, old, new in zip(fitted, size, reference)]
    if scaled == list(image.shape[-2:]):
        return image.as_subclass(Tensor), target
    boxes = F.resize(target["boxes"], scaled)
    return F.resize(image.as_subclass(Tensor), scaled, antialias=True), {**target, "boxes": boxes}


def _span(length: int, other: int) -> tuple[tuple[int, int], int]:
    """Where a stretch of `other` pixels lies over one of `length`: the (start, end) they share, and its own start."""
    place = float(torch.rand(()))
    slack = length - other
    start = int(place * (slack + 1)) if slack >= 0 else -int(place * (1 - slack))
    return (max(start, 0), min(start + other, length)), start


def _stretch(length: int, share: float, limits: Sequence[int]) -> tuple[int, int]:
    """One side of the rectangle: (start, end), cut to `limits`."""
    centre, half = float(torch.rand(())) * length, (1 - share) ** 0.5 * length / 2
    return max(round(centre - half), limits[0]), min(round(centre + half), limits[1])
