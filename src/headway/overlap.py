"""Overlaps of boxes in numpy, for what must not import torch: exported files in tiles, and tracks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def iou_of(boxes: Array, others: Array) -> Array:
    """[N, M] intersection over union of boxes [N, 4] and [M, 4] xyxy; 0 where both have no area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(min=0).prod(2)
    area, other_area = ((b[:, 2:] - b[:, :2]).clip(min=0).prod(1) for b in (boxes, others))
    union = area[:, None] + other_area - common
    result: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result
