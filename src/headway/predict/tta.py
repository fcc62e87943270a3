"""Test-time augmentation: further views of a picture, mirrored and at other scales, and how their boxes become one set.

Views of a dense head are merged before suppression: the candidates of all of them go through one NMS. The boxes of
other heads, two-stage and set heads and those without suppression, are few and final: they are merged by weighted box
fusion. numpy alone.

Legend: N boxes of all views, V views.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import HeadwayError
from ..overlap import iou_of

Array = NDArray[Any]

FUSED = 0.55  # IoU from which boxes are one object, the paper's
_SCALES = (0.1, 4.0)


class Variant(NamedTuple):
    """A view of a picture. scale: of the model's input size; flip: mirrored left-right."""

    scale: float = 1.0
    flip: bool = False


PLAIN = Variant()


def variants_of(tta: str | Iterable[str | float] | None) -> tuple[Variant, ...]:
    """The views that an option means, the plain one first: every scale, 1 always, and with "flip" each mirrored too.

    tta: as in "flip,0.83,1.17" or ["flip", 0.83, 1.17]; None or nothing: the plain view alone.
    Raises: HeadwayError for another word, or a scale outside 0.1..4.
    """
    words = tta.split(",") if isinstance(tta, str) else [*tta] if isinstance(tta, Iterable) else [tta]
    words = [] if tta is None else words
    words = [word.strip() if isinstance(word, str) else word for word in words]
    words = [word for word in words if word != ""]
    scales = [1.0]
    for word in words:
        if word == "flip":
            continue
        try:
            scale = float(word)
        except (TypeError, ValueError):
            scale = float("nan")
        if isinstance(word, bool) or not _SCALES[0] <= scale <= _SCALES[1]:
            low, high = _SCALES
            raise HeadwayError(
                f"tta is a list of 'flip' and of scales from {low:g} to {high:g}, as in flip,0.83,1.17; got {word!r}"
            )
        scales.append(scale)
    flips = (False, True) if "flip" in words else (False,)
    return tuple(Variant(scale, flip) for flip in flips for scale in dict.fromkeys(scales))


def check_exported(path: Any, tta: str | Iterable[str | float] | None) -> None:
    """Raises: HeadwayError where an exported file is asked for further views, and as `variants_of`."""
    if len(variants_of(tta)) > 1:
        raise HeadwayError(f"{path} is an exported file, which has suppressed its boxes: tta needs a checkpoint")


class Fused(NamedTuple):
    """boxes [K, 4], scores [K], best first; index [K]: the row of the best box of each cluster, for its label and
    extras."""

    boxes: Array
    scores: Array
    index: Array


def fuse_boxes(
    boxes: Array, scores: Array, labels: Array, view: Array, views: int, *, iou: float = FUSED, one_each: bool = False
) -> Fused:
    """Weighted box fusion (arXiv 1910.13302, section 3), per class.

    From the best box on, a box joins the cluster whose fused box it overlaps most, if by more than `iou`, else it
    begins one. A cluster's box is the mean of its T boxes weighted by their scores, its score their mean times
    min(T, V) / V: what few of the V views saw counts less.

    boxes: [N, 4]; scores, labels: [N]; view: [N] the view of each, 0..V-1; views: V.
    one_each: a cluster takes one box of each view, its best, as `predict` asks for: the two boxes that a view has of
        one place are then two as before, and one view alone is left as it is.
    """
    fused: list[tuple[float, Array, int]] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(-scores[rows], kind="stable")]
        means = np.zeros((len(rows), 4))  # of the first `count` clusters
        weights, totals, members = np.zeros(len(rows)), np.zeros((len(rows), 4)), np.zeros(len(rows), np.int64)
        taken = np.zeros((len(rows), views), bool)
        firsts: list[int] = []
        for row in rows:
            count = len(firsts)
            overlap = iou_of(boxes[[row]], means[:count])[0]
            if one_each:
                overlap[taken[:count, view[row]]] = 0
            best = int(overlap.argmax()) if count else 0
            if not count or not overlap[best] > iou:
                best = count
                firsts.append(int(row))
            weights[best] += scores[row]
            totals[best] += scores[row] * boxes[row]
            members[best] += 1
            taken[best, view[row]] = True
            means[best] = totals[best] / weights[best] if members[best] > 1 else boxes[row]
        for place, first in enumerate(firsts):
            mean = weights[place] / members[place]
            fused.append((mean * min(int(members[place]), views) / views, means[place], first))
    fused.sort(key=lambda cluster: (-cluster[0], cluster[2]))
    score, box, index = zip(*fused) if fused else ((), (), ())
    return Fused(np.array(box).reshape(-1, 4), np.array(score, np.float64), np.array(index, np.int64))
