"""Boxes with identities over the frames of one video."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..detections import Detections

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tracks:
    """R boxes of one video.

    frames: [R] number of the frame, from 1 on. ids: [R] identity from 0 on (the tracker begins with 1), -1 for a box
    without one. boxes: [R, 4] xyxy pixels, continuous, (0, 0) is the corner of the picture. scores: [R], 1 in
    annotations. labels: [R], 0 where a file has no classes.
    """

    frames: Array
    ids: Array
    boxes: Array
    scores: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, rows: Array) -> Tracks:
        """Some of the boxes: their numbers or a mask."""
        return Tracks(self.frames[rows], self.ids[rows], self.boxes[rows], self.scores[rows], self.labels[rows])

    @property
    def known(self) -> Tracks:
        """Those with an identity."""
        return self.at(self.ids >= 0)

    @classmethod
    def of_rows(cls, rows: Iterable[tuple[float, ...]]) -> Tracks:
        """From (frame, id, x1, y1, x2, y2, score, label) of each box."""
        return cls.of_table(np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, 8))

    @classmethod
    def of_table(cls, table: Array) -> Tracks:
        """`of_rows` of [R, 8] float64."""
        frames, ids, labels = (table[:, column].astype(np.int64) for column in (0, 1, 7))
        return cls(frames, ids, table[:, 2:6], table[:, 6], labels)

    def settled(self) -> Tracks:
        """The same with one class for each identity, the one with the greatest sum of scores."""
        labels, known = self.labels.copy(), self.ids >= 0
        if known.any():
            ids, track = np.unique(self.ids[known], return_inverse=True)
            pairs, pair = np.unique(np.stack([track, labels[known]], 1), axis=0, return_inverse=True)
            sums = np.bincount(pair.reshape(-1), self.scores[known])
            best = np.zeros(len(ids), np.int64)
            order = np.lexsort((-pairs[:, 1], sums))  # of equal sums the first class
            best[pairs[order, 0]] = pairs[order, 1]  # the last one stays
            labels[known] = best[track]
        return Tracks(self.frames, self.ids, self.boxes, self.scores, labels)


def rows_of(number: int, found: Detections) -> list[tuple[float, ...]]:
    """What `Tracks.of_rows` takes, of what the tracker gave of one frame. number: of the frame, from 1 on."""
    tracks, boxes = found.extras["track"].tolist(), found.boxes.tolist()
    return [
        (number, track, *box, score, label)
        for track, box, score, label in zip(tracks, boxes, found.scores.tolist(), found.labels.tolist())
    ]
