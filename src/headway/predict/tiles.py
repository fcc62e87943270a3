"""Tiles of a picture, and how what was found in each becomes what is in the picture. numpy alone.

A picture larger than a tile is looked at in evenly spread tiles and once as a whole, scaled down. An object on the
inner border of a tile is seen in part there; the neighbour, or the whole picture, sees more of it. `join` has three
rules:

1. A box that ends at an inner border of its tile is *cut*. Where another view has an uncut box that, clipped to this
   tile, coincides with the cut one (IoU of at least `SAME`), that is the object: the cut box goes.
2. Of what is left, cut boxes of two tiles that coincide where the tiles overlap are parts of one object, which is then
   larger than the overlap: they become their hull.
3. Of two boxes of a class from different views with an IoU above `REPEATED` the better one is kept.

No rule compares a box with the smaller of two areas, as SAHI does: a small object in front of a large one of its class
stays, and so do neighbours that touch.

Legend: N boxes of all views, V views.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.windows import OVERLAP, Window, windows_of

Array = NDArray[Any]

SAME = 0.5  # IoU of a cut box with what its tile would show of the whole one
REPEATED = 0.5  # IoU of two boxes of one object from different views
EDGE = 0.01  # of a tile's side: a box that ends so near an inner border is cut


class Joined(NamedTuple):
    """boxes [K, 4] xyxy in pixels of the picture, scores [K], best first; index [K]: the row of all views' boxes, one
    after the other, that gives label and extras."""

    boxes: Array
    scores: Array
    index: Array


def views_of(
    size: Sequence[int],
    tiles: int | bool | tuple[int, int] | None,
    overlap: float = OVERLAP,
    input_size: Sequence[int] = (0, 0),
) -> list[Window]:
    """The windows in which a picture of `size` (height, width) is looked at: its tiles, and last the whole of it; the
    whole alone where it fits into a tile.

    tiles: the side of a tile in pixels, or its (height, width); True: the model's `input_size` (short, long), lying as
        the picture lies, which is then neither enlarged nor shrunk; None or False: no tiles.
    """
    whole = Window(0, 0, int(size[1]), int(size[0]))
    if tiles is None or tiles is False:
        return [whole]
    if tiles is True:
        short, long = sorted(input_size)
        tiles = (short, long) if size[1] >= size[0] else (long, short)
    found = windows_of(size, tiles if isinstance(tiles, tuple) else (tiles, tiles), overlap)
    return [*found, whole] if len(found) > 1 else [whole]


def join(views: Sequence[Window], boxes: Sequence[Array], scores: Sequence[Array], labels: Sequence[Array]) -> Joined:
    """What is in a picture, from what was found in each of its views, by the three rules above.

    boxes: of each view [n, 4] xyxy in pixels of the picture; scores, labels: [n]. The last view is the whole picture.
    """
    every = np.concatenate([*boxes]).astype(np.float64).reshape(-1, 4)
    score, label = np.concatenate([*scores]).astype(np.float64), np.concatenate([*labels])
    view = np.repeat(np.arange(len(views)), [len(part) for part in boxes])
    windows = np.array(views, np.float64)
    cut = _cut(every, windows[view], windows[-1])
    score, kept = _explain(every, score, label, view, windows, cut)
    every, score, view, kept = _unite(every, score, label, view, windows, cut & kept[:, None], kept)
    return _without_repeats(every, score, label, view, kept)


def _cut(boxes: Array, windows: Array, whole: Array) -> Array:
    """[N, 4] bool: which sides of a box end at an inner border of its window [N, 4]."""
    sides = np.tile(windows[:, 2:] - windows[:, :2], 2)
    inner = windows != whole
    return inner & (np.abs(boxes - windows) <= np.maximum(EDGE * sides, 1.0))


def _explain(
    boxes: Array, scores: Array, labels: Array, view: Array, windows: Array, cut: Array
) -> tuple[Array, Array]:
    """Rule 1. New scores [N], where an uncut box takes the score of a better cut one; kept [N]."""
    scores, kept = scores.copy(), np.ones(len(boxes), bool)
    partial = cut.any(1)
    whole = np.flatnonzero(~partial)
    for i in _best_first(scores, np.flatnonzero(partial)):
        window = windows[view[i]]
        others = whole[(labels[whole] == labels[i]) & (view[whole] != view[i])]
        others = others[_overlaps(boxes[others], boxes[i])]
        if not len(others):
            continue
        overlap = iou_with(clipped(boxes[others], window), boxes[i])
        best = int(overlap.argmax())
        if overlap[best] >= SAME:
            kept[i] = False
            scores[others[best]] = max(scores[others[best]], scores[i])
    return scores, kept


def _unite(
    boxes: Array, scores: Array, labels: Array, view: Array, windows: Array, cut: Array, kept: Array
) -> tuple[Array, Array, Array, Array]:
    """Rule 2. From the best cut box on, each takes at most one part of every other view; hulls are views of their own.
    Returns boxes, scores, view and kept anew."""
    boxes, view, kept = boxes.copy(), view.copy(), kept.copy()
    open_ = cut.any(1)
    for i in _best_first(scores, np.flatnonzero(open_)):
        if not open_[i]:
            continue
        open_[i] = False
        parts, seen = [i], {view[i]}
        for part in parts:  # grows while parts are found
            others = np.flatnonzero(open_ & (labels == labels[i]) & ~np.isin(view, [*seen]))
            agree = _agreement(boxes[part], windows[view[part]], boxes[others], windows[view[others]])
            for place in np.argsort(-agree, kind="stable"):
                j = others[place]
                if agree[place] >= SAME and view[j] not in seen:
                    parts.append(j)
                    seen.add(view[j])
                    open_[j] = False
        if len(parts) > 1:
            kept[parts[1:]] = False
            boxes[i] = [*boxes[parts, :2].min(0), *boxes[parts, 2:].max(0)]
            view[i] = len(windows) + i
    return boxes, scores, view, kept


def _agreement(box: Array, window: Array, others: Array, windows: Array) -> Array:
    """How well a box of one window and those of others agree where the windows overlap: per axis the IoU of the two
    intervals there, and of both axes the lesser, [n]. Where windows only touch, that axis agrees; where they are
    apart, nothing does."""
    low, high = np.maximum(window[:2], windows[:, :2]), np.minimum(window[2:], windows[:, 2:])  # [n, 2]
    first = np.clip(box[:2], low, high), np.clip(box[2:], low, high)
    second = np.clip(others[:, :2], low, high), np.clip(others[:, 2:], low, high)
    shared = np.minimum(first[1], second[1]) - np.maximum(first[0], second[0])
    union = np.maximum(first[1], second[1]) - np.minimum(first[0], second[0])
    touching = np.abs(high - low) < 1
    meets = (box[2:] >= others[:, :2] - 1) & (box[:2] <= others[:, 2:] + 1)
    per_axis = np.where(touching, meets, shared.clip(0) / np.maximum(union, 1e-9))
    return np.where((high - low > -1).all(1), per_axis.min(1, initial=1.0), 0.0)


def _without_repeats(boxes: Array, scores: Array, labels: Array, view: Array, kept: Array) -> Joined:
    """Rule 3, per class from the best box on."""
    chosen = []
    for label in np.unique(labels[kept]):
        left = _best_first(scores, np.flatnonzero(kept & (labels == label)))
        while len(left):
            first, left = left[0], left[1:]
            chosen.append(first)
            again = (view[left] != view[first]) & (iou_with(boxes[left], boxes[first]) > REPEATED)
            left = left[~again]
    index = _best_first(scores, np.sort(np.array(chosen, np.int64)))
    return Joined(boxes[index], scores[index], index)


def _best_first(scores: Array, index: Array) -> Array:
    """`index` in the order of falling scores, equal ones in their given order."""
    return index[np.argsort(-scores[index], kind="stable")]


def _overlaps(boxes: Array, box: Array) -> Array:
    """Whether they share area."""
    return (np.minimum(boxes[:, 2:], box[2:]) > np.maximum(boxes[:, :2], box[:2])).all(1)


def clipped(boxes: Array, window: Array) -> Array:
    """[n, 4] to a window."""
    return np.concatenate([np.clip(boxes[:, i : i + 2], window[:2], window[2:]) for i in (0, 2)], 1)


def iou_with(boxes: Array, box: Array) -> Array:
    """Intersection over union [n] of each of boxes [n, 4] with one box [4]; 0 where neither has area."""
    sides = (np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])).clip(0)
    shared = sides.prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - shared
    return shared / np.maximum(union, 1e-9)
