"""Which detection continues which track: the assignment with the greatest sum."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[Any]


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
