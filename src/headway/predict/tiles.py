"""Tiles of a picture, and how what was found in each becomes what is in the picture. numpy alone.

A picture larger than a tile is looked at in evenly spread tiles and once as a whole, scaled down. An object on the
inner border of a tile is seen in part there; the neighbour, or the whole picture, sees more of it. `join` has four
rules:

1. A box that ends at an inner border of its tile is *cut*. Where another view has an uncut box that, clipped to this
   tile, coincides with the cut one (IoU of at least `SAME`) and scores at least half as much, that is the object: the
   cut box goes.
2. Of what is left, cut boxes of two tiles that coincide where the tiles overlap are parts of one object, which is then
   larger than the overlap: they become their hull.
3. Of two boxes of a class from different views with an IoU above `REPEATED` the better one is kept.
4. A box of the whole picture goes where a tile has a better one of another class: of what is small there, the class is
   often wrong.

No rule compares a box with the smaller of two areas, as SAHI does: a small object in front of a large one of its class
stays, and so do neighbours that touch. `benchmarks/tiles.py` measures each rule.

Legend: N boxes of all views, V views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.windows import OVERLAP, Window, windows_of
from ..overlap import iou_of

Array = NDArray[Any]

SAME = 0.5  # IoU of a cut box with what its tile would show of the whole one
SURE = 0.5  # share of a cut box's score that the whole one must have
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
    """What is in a picture, from what was found in each of its views, by the four rules above.

    boxes: of each view [n, 4] xyxy in pixels of the picture; scores, labels: [n]. The last view is the whole picture.
    """
    every = np.concatenate([*boxes]).astype(np.float64).reshape(-1, 4)
    score, label = np.concatenate([*scores]).astype(np.float64), np.concatenate([*labels])
    view = np.repeat(np.arange(len(views)), [len(part) for part in boxes])
    windows = np.array(views, np.float64)
    cut, meet = _cut(every, windows[view], windows[-1]), _meeting(windows)
    left = _not_outdone(every, score, label, view == len(views) - 1)
    kept = []
    for each in np.unique(label):
        rows = np.flatnonzero((label == each) & left)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        seen = _Seen(every[rows], score[rows], view[rows], windows, cut[rows].any(1), meet)
        _explain(seen)
        _unite(seen)
        kept.append(rows[_without_repeats(seen)])
        every[rows], score[rows] = seen.boxes, seen.scores
    index = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    index = index[np.argsort(-score[index], kind="stable")]
    return Joined(every[index], score[index], index)


@dataclass
class _Seen:
    """Boxes of one class in all views, best first; the rules change them. boxes [N, 4]; scores [N]; view [N]; windows
    [V, 4]; cut [N] whether a box is part of an object; meet [V, V] whether views share pixels or touch."""

    boxes: Array
    scores: Array
    view: Array
    windows: Array
    cut: Array
    meet: Array

    def __post_init__(self) -> None:
        self.kept = np.ones(len(self.boxes), bool)
        self.near = [np.flatnonzero(self.meet[v, self.view]) for v in range(len(self.windows))]

    def others(self, view: int, chosen: Array) -> Array:
        """The chosen rows [N] of other views that meet this one."""
        rows = self.near[view]
        return rows[chosen[rows] & (self.view[rows] != view)]


def _cut(boxes: Array, windows: Array, whole: Array) -> Array:
    """[N, 4] bool: which sides of a box end at an inner border of its window [N, 4]."""
    sides = np.tile(windows[:, 2:] - windows[:, :2], 2)
    inner = windows != whole
    return inner & (np.abs(boxes - windows) <= np.maximum(EDGE * sides, 1.0))


def _not_outdone(boxes: Array, scores: Array, labels: Array, whole: Array) -> Array:
    """Rule 4: [N] bool, which boxes stay. whole: [N] whether they are of the whole picture."""
    stays = np.ones(len(boxes), bool)
    for row in np.flatnonzero(whole):  # one at a time: a large picture has very many boxes in its tiles
        better = boxes[~whole & (scores > scores[row]) & (labels != labels[row])]
        stays[row] = not (iou_of(boxes[[row]], better) > REPEATED).any()
    return stays


def _meeting(windows: Array) -> Array:
    low, high = np.maximum(windows[:, None, :2], windows[:, :2]), np.minimum(windows[:, None, 2:], windows[:, 2:])
    return (low <= high).all(2)


def _explain(seen: _Seen) -> None:
    """Rule 1."""
    for view in np.unique(seen.view[seen.cut]):
        parts = np.flatnonzero(seen.cut & (seen.view == view))
        others = seen.others(view, ~seen.cut)
        same = iou_of(seen.boxes[parts], clipped(seen.boxes[others], seen.windows[view])) >= SAME
        sure = seen.scores[others] >= SURE * seen.scores[parts][:, None]
        seen.kept[parts] = ~(same & sure).any(1)


def _unite(seen: _Seen) -> None:
    """Rule 2. From the best cut box on, each takes at most one part of every other view."""
    left = seen.cut & seen.kept
    for first in np.flatnonzero(left):
        if not left[first]:
            continue
        left[first] = False
        parts, views = [first], {seen.view[first]}
        for part in parts:  # which grows
            others = seen.others(seen.view[part], left)
            agree = _agreement(seen, part, others)
            for place in np.argsort(-agree, kind="stable"):
                other = others[place]
                if agree[place] >= SAME and seen.view[other] not in views:
                    parts.append(other)
                    views.add(seen.view[other])
                    left[other] = False
        seen.kept[parts[1:]] = False
        seen.boxes[first] = [*seen.boxes[parts, :2].min(0), *seen.boxes[parts, 2:].max(0)]


def _agreement(seen: _Seen, part: int, others: Array) -> Array:
    """How well a cut box and others agree where their windows overlap: per axis the IoU of the two intervals there, and
    of both axes the lesser, [n]. Along an axis on which the windows only touch, boxes agree that reach each other."""
    window, windows, box, boxes = (values[rows] for values, rows in (
        (seen.windows, seen.view[part]), (seen.windows, seen.view[others]), (seen.boxes, part), (seen.boxes, others),
    ))  # fmt: skip
    low, high = np.maximum(window[:2], windows[:, :2]), np.minimum(window[2:], windows[:, 2:])  # [n, 2]
    first = np.clip(box[:2], low, high), np.clip(box[2:], low, high)
    second = np.clip(boxes[:, :2], low, high), np.clip(boxes[:, 2:], low, high)
    shared = np.minimum(first[1], second[1]) - np.maximum(first[0], second[0])
    union = np.maximum(first[1], second[1]) - np.minimum(first[0], second[0])
    reach = (box[2:] >= boxes[:, :2] - 1) & (box[:2] <= boxes[:, 2:] + 1)
    per_axis = np.where(high - low < 1, reach, shared.clip(0) / np.maximum(union, 1e-9))
    return per_axis.min(1, initial=1.0)


def _without_repeats(seen: _Seen) -> Array:
    """Rule 3: the rows that stay, from the best box on."""
    left, chosen = seen.kept.copy(), []
    for row in np.argsort(-seen.scores, kind="stable"):
        if left[row]:
            chosen.append(row)
            others = seen.others(seen.view[row], left)
            left[others[iou_of(seen.boxes[[row]], seen.boxes[others])[0] > REPEATED]] = False
    return np.array(chosen, np.int64)


def clipped(boxes: Array, window: Array) -> Array:
    """[n, 4] to a window."""
    return np.concatenate([np.clip(boxes[:, i : i + 2], window[:2], window[2:]) for i in (0, 2)], 1)
