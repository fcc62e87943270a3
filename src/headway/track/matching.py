"""Which detection continues which track: overlaps, and the assignment with the greatest sum."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[Any]


def iou(boxes: Array, others: Array) -> Array:
    """[N, M] intersection over union of boxes [N, 4] and [M, 4] xyxy; 0 where both have no area."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(min=0).prod(2)
    area, other_area = ((b[:, 2:] - b[:, :2]).clip(min=0).prod(1) for b in (boxes, others))
    union = area[:, None] + other_area - common
    result: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return result


def assign(similarity: Array, least: float) -> tuple[Array, Array]:
    """(rows, columns) of the pairs with the greatest sum of `similarity - least`, each row and column at most once.

    similarity: [N, M]. Only pairs above `least` are made.
    """
    if not similarity.size:
        none = np.zeros(0, np.int64)
        return none, none
    gain = (similarity - least).clip(min=0)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    made = gain[rows, columns] > 0
    return rows[made], columns[made]
