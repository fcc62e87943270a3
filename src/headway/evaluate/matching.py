"""Which box each detection finds: the one matching that every figure of the evaluation follows from.

Per image at one IoU, COCO's: in order of score each detection takes the box of its class that it overlaps most and that
is still free; failing that, it is ignored when half of it lies in a crowd region of its class. A higher score threshold
and a limit of detections only remove detections from the end of that order, so one matching serves all.

Legend: M boxes of an image, N its detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from faster_coco_eval.core.mask import iou as coco_iou
from numpy.typing import NDArray

from ..data.dataset import DetectionData, Record

IOU = 0.5
WRONG, IGNORED = -1, -2  # in place of a box's index

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matched:
    """The detections of one image, best first.

    boxes: [N, 4] xyxy; scores, labels: [N]. truth: [N], the index of the box that each one found, or WRONG, or IGNORED.
    iou: from which a detection finds a box.
    """

    record: Record
    boxes: Floats
    scores: Floats
    labels: Ints
    truth: Ints
    iou: float = IOU

    def above(self, threshold: float) -> Matched:
        """Those that score at least `threshold`."""
        return self.best(int((self.scores >= threshold).sum()))

    def best(self, count: int) -> Matched:
        """The `count` best."""
        kept = {name: getattr(self, name)[:count] for name in ("boxes", "scores", "labels", "truth")}
        return replace(self, **kept)

    def overlaps(self) -> Floats:
        """[N, M] IoU by COCO's program, whatever the class; for a crowd region the part of the detection in it."""
        return _overlap(self.boxes, self.record)

    @property
    def missed(self) -> NDArray[np.bool_]:
        """[M], the boxes that nothing found; crowd regions are never missed."""
        missed = ~self.record.crowd
        missed[self.truth[self.truth >= 0]] = False
        return missed


def match(results: Sequence[dict[str, Any]], data: DetectionData, iou: float = IOU) -> list[Matched]:
    """COCO result rows (checked by `coco.check_results`) against `data`: one entry per record, in order."""
    labels = {category: label for label, category in enumerate(data.category_ids)}
    by_image: dict[int, list[dict[str, Any]]] = {record.image_id: [] for record in data.records}
    for row in results:
        by_image[row["image_id"]].append(row)
    return [_match_image(record, by_image[record.image_id], labels, iou) for record in data.records]


def _match_image(record: Record, rows: list[dict[str, Any]], label_of: dict[int, int], iou: float) -> Matched:
    rows = sorted(rows, key=lambda row: -row["score"])
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([label_of[row["category_id"]] for row in rows], np.int64)
    scores = np.array([row["score"] for row in rows], np.float64)
    overlaps = _overlap(boxes, record)
    overlaps[labels[:, None] != record.labels[None]] = 0
    truth = take_best(overlaps, np.arange(len(rows)), ~record.crowd, iou)
    in_crowd = (overlaps[:, record.crowd] >= iou).any(1)
    truth[(truth == WRONG) & in_crowd] = IGNORED
    return Matched(record, boxes, scores, labels, truth, iou)


def _overlap(boxes: Floats, record: Record) -> Floats:
    both = (boxes, record.boxes.astype(np.float64))
    found, truth = (np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1) for xyxy in both)
    return np.reshape(coco_iou(found, truth, record.crowd.tolist()), (len(found), len(truth)))


def take_best(overlaps: Floats, order: Ints, free: NDArray[np.bool_], iou: float) -> Ints:
    """Greedy matching: [N] the column each row takes, in `order`, or WRONG.

    overlaps: [N, M]; free: [M] the columns to be had; iou: the least overlap.
    """
    taken = np.full(len(overlaps), WRONG, np.int64)
    left = np.where(free[None], overlaps, 0)
    for i in order[(left[order] >= iou).any(1)] if left.size else ():
        best = left.shape[1] - 1 - int(left[i, ::-1].argmax())  # of equals the last one, as in COCO's program
        if left[i, best] >= iou:
            taken[i] = best
            left[:, best] = 0
    return taken
