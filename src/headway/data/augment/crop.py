"""The crop of DETR's augmentation."""

from __future__ import annotations

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class SizeCrop(v2.Transform):
    """A window anywhere in the picture, each side drawn from `low` to `high` pixels, or to the picture's where that is
    less; a side below `low` stays whole. Boxes are cut to the window.

    Source: facebookresearch/detr (commit 29901c5, Apache-2.0), datasets/transforms.py, RandomSizeCrop.
    """

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(f"a crop needs sides (low, high) with 0 < low <= high, got {(low, high)}")
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(x for x in flat_inputs if isinstance(x, tv_tensors.Image))
        start, sides = [], []
        for side in F.get_size(image):
            sides.append(int(torch.randint(min(self.low, side), min(self.high, side) + 1, ())))
            start.append(int(torch.randint(side - sides[-1] + 1, ())))
        return {"window": [*start, *sides]}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(F.crop, value, *params["window"])
