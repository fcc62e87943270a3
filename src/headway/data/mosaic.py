"""Four pictures joined into one (arXiv 2004.10934, section 3.3): more objects and contexts per step on small data sets.

Differs: the seam lies in the middle quarter of the canvas instead of anywhere, the tiles keep their ratio and are cut,
not squeezed; the zoom that follows (`transforms.ZoomCrop`) chooses how much of the mosaic is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from .transforms import ALIGNED, GREY, empty_hidden, fit_size

Sample = tuple[Tensor, dict[str, Any]]


def join(
    samples: Sequence[Sample], input_size: tuple[int, int], fill: Sequence[float] = GREY, min_visible: float = 0.3
) -> Sample:
    """Four samples (top left, top right, bottom left, bottom right) around one random seam.

    Each is first scaled to `input_size` (short, long); the canvas is twice the size that the first then has. A tile
    touches the seam with its inner corner and is cut at the canvas' border, its boxes with it; boxes of which less
    than `min_visible` remains become empty (SanitizeBoundingBoxes removes them).
    Draws from torch's global generator.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic is made of 4 samples, got {len(samples)}")
    high, wide = fit_size(samples[0][0].shape[-2:], input_size)
    seam_y, seam_x = (int((0.75 + 0.5 * draw) * side) for draw, side in zip(torch.rand(2).tolist(), (high, wide)))
    canvas = torch.tensor(fill).round().to(torch.uint8).view(3, 1, 1).repeat(1, 2 * high, 2 * wide)
    moved = []
    for number, (image, target) in enumerate(samples):
        size = list(fit_size(image.shape[-2:], input_size))
        tile = F.resize(image.as_subclass(Tensor), size, antialias=True)
        boxes = F.resize(target["boxes"], size)
        # Where the tile's corner would lie if the canvas had no border.
        top = seam_y if number >= 2 else seam_y - size[0]
        left = seam_x if number % 2 else seam_x - size[1]
        rows = slice(max(top, 0), min(top + size[0], 2 * high))
        columns = slice(max(left, 0), min(left + size[1], 2 * wide))
        canvas[:, rows, columns] = tile[
            :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        cut = F.crop(boxes, -top, -left, 2 * high, 2 * wide)
        moved.append(empty_hidden(cut, boxes, 1.0, min_visible).as_subclass(Tensor))
    keys = [key for key in ALIGNED if key in samples[0][1]]
    joined: dict[str, Any] = {key: torch.cat([target[key] for _, target in samples]) for key in keys}
    joined["boxes"] = tv_tensors.BoundingBoxes(torch.cat(moved), format="XYXY", canvas_size=(2 * high, 2 * wide))
    return tv_tensors.Image(canvas), joined
