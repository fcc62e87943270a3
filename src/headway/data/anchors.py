"""Anchors from a data set's own boxes, by k-means, and how well anchors fit boxes.

An anchor can learn a box when neither side differs by more than a factor, 4 for YOLO; so sides are compared by their
ratio, and clustered by its logarithm.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from ..errors import DataError
from .augment.resize import fit_size
from .dataset import DetectionData
from .image import image_size

Sides = NDArray[np.float64]  # [N, 2] width and height in pixels

MOST_BOXES = 20_000  # that are clustered; more change the second digit of no anchor


class AnchorFit(NamedTuple):
    """How anchors fit boxes. A box's ratio to an anchor is the smaller side of each pair by the larger, along the worse
    axis, at most 1.

    recall: share of the boxes that some anchor can learn. best_ratio: mean over boxes of the ratio to the best anchor.
    matches: mean number of anchors that can learn a box. fitness: mean of the best ratio, 0 for a box that none can.
    """

    recall: float
    best_ratio: float
    matches: float
    fitness: float


def box_sides(data: DetectionData, input_size: tuple[int, int]) -> Sides:
    """Width and height of every box, but for crowd regions and boxes without area, in pixels of pictures scaled to
    `input_size` (short, long) [N, 2]."""
    sides = [np.zeros((0, 2))]
    for record in data.records:
        size = record.size or image_size(record.path)
        fitted = fit_size(size, input_size)
        boxes = record.boxes[~record.crowd].astype(np.float64)
        sides.append((boxes[:, 2:] - boxes[:, :2]) * (fitted[1] / size[1], fitted[0] / size[0]))
    found = np.concatenate(sides)
    return found[(found > 0).all(1)]


def anchor_fit(sides: Sides, anchors: Sides, limit: float = 4.0) -> AnchorFit:
    """sides [N, 2] and anchors [K, 2] in the same pixels; limit: the factor, not itself allowed.

    Raises: DataError without boxes.
    """
    if not len(sides):
        raise DataError("there is no box to compare anchors with; choose a split that has some")
    ratios = sides[:, None] / anchors
    ratios = np.minimum(ratios, 1 / ratios).min(2)
    best, fits = ratios.max(1), ratios > 1 / limit
    usable = fits.any(1)
    return AnchorFit(*(float(row.mean()) for row in (usable, best, fits.sum(1), np.where(usable, best, 0.0))))


def cluster_anchors(sides: Sides, count: int, *, limit: float = 4.0, seed: int = 0, restarts: int = 20) -> Sides:
    """`count` anchors [count, 2] for boxes of `sides` [N, 2], smallest area first: k-means (Lloyd, started by
    k-means++, Arthur and Vassilvitskii 2007) on the logarithms of the sides, the fittest of several starts.

    Raises: DataError for fewer different boxes than anchors.
    """
    different = len(np.unique(sides, axis=0))
    if different < count:
        raise DataError(f"{count} anchors need as many boxes of different sizes, got {different}: use the model's own")
    generator = np.random.default_rng(seed)
    some = sides if len(sides) <= MOST_BOXES else sides[generator.choice(len(sides), MOST_BOXES, replace=False)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # it keeps its centre
        starts = [kmeans2(np.log(some), count, iter=100, minit="++", seed=generator)[0] for _ in range(restarts)]
    found = [np.exp(centres) for centres in starts]
    best = max(found, key=lambda anchors: anchor_fit(some, anchors, limit).fitness)
    return best[np.argsort(best.prod(1))]


def by_level(anchors: Sides, levels: int) -> list[list[list[float]]]:
    """[K, 2] in rising order -> equally many per level, finest first, rounded to tenths of a pixel: the argument
    `anchors` of YOLO models."""
    return [[[round(float(v), 1) for v in pair] for pair in part] for part in np.split(anchors, levels)]


def flat(anchors: Sequence[Any]) -> Sides:
    """Anchors by level -> [K, 2]."""
    return np.array(anchors, np.float64).reshape(-1, 2)
