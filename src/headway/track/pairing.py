"""The truth and the tracks of one video side by side, as the metrics need them."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..overlap import iou_of
from .tracks import Tracks

Array = NDArray[Any]


class Paired(NamedTuple):
    """objects, tracks: how many identities there are. frames: of each frame with anything in it, in order, the numbers
    of its objects [g] and tracks [t], from 0 on, and the overlaps [g, t] of their boxes."""

    objects: int
    tracks: int
    frames: list[tuple[Array, Array, Array]]


def pair_up(truth: Tracks, found: Tracks) -> Paired:
    """Boxes without an identity are left out."""
    truth, found = truth.known, found.known
    ids, objects = np.unique(truth.ids, return_inverse=True)
    track_ids, tracks = np.unique(found.ids, return_inverse=True)
    frames = []
    rows, columns = _by_frame(truth.frames), _by_frame(found.frames)
    none = np.zeros(0, np.int64)
    for frame in sorted({*rows, *columns}):
        row, column = rows.get(frame, none), columns.get(frame, none)
        frames.append((objects[row], tracks[column], iou_of(truth.boxes[row], found.boxes[column])))
    return Paired(len(ids), len(track_ids), frames)


def _by_frame(frames: Array) -> dict[int, Array]:
    """The rows of each frame, in their order."""
    order = np.argsort(frames, kind="stable")
    numbers, starts = np.unique(frames[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]))) if len(order) else {}
