"""Where detections go wrong: the confusion matrix, the best score threshold, the worst images.

Everything follows from one matching per image at IoU 0.5, COCO's: in order of score each detection takes the box of its
class that it overlaps most and that is still free; failing that, it is ignored when half of it lies in a crowd region
of its class. A higher score threshold only removes detections from the end of that order, so one matching serves all.

Legend: M boxes of an image, N its detections, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core.mask import iou
from numpy.typing import NDArray

from ..data.dataset import DetectionData, Record

IOU = 0.5
WRONG, IGNORED = -1, -2  # in place of a box's index

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Matched:
    """The detections of one image, best first. boxes [N, 4] xyxy; scores, labels [N]; truth [N]: the index of the box
    that each one found, or WRONG, or IGNORED."""

    record: Record
    boxes: _Floats
    scores: _Floats
    labels: _Ints
    truth: _Ints

    def above(self, threshold: float) -> Matched:
        """Those that score at least `threshold`."""
        keep = self.scores >= threshold
        return Matched(self.record, self.boxes[keep], self.scores[keep], self.labels[keep], self.truth[keep])

    @property
    def missed(self) -> NDArray[np.bool_]:
        """[M], the boxes that nothing found; crowd regions are never missed."""
        missed = ~self.record.crowd
        missed[self.truth[self.truth >= 0]] = False
        return missed


@dataclass(frozen=True, slots=True)
class Operating:
    """What one score threshold gives. Detections that score at least `threshold` count.

    Precision, recall and F1 are 0 where nothing is found, and the threshold is nan; all are nan without boxes.
    """

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class ImageError:
    """How wrong one image is: error = missed boxes + the summed scores of its wrong detections."""

    matched: Matched
    missed: int
    wrong: int
    error: float


def match(results: Sequence[dict[str, Any]], data: DetectionData) -> list[Matched]:
    """COCO result rows (checked by `coco.check_results`) against `data`: one entry per record, in order."""
    labels = {category: label for label, category in enumerate(data.category_ids)}
    by_image: dict[int, list[dict[str, Any]]] = {record.image_id: [] for record in data.records}
    for row in results:
        by_image[row["image_id"]].append(row)
    return [_match_image(record, by_image[record.image_id], labels) for record in data.records]


def _match_image(record: Record, rows: list[dict[str, Any]], label_of: dict[int, int]) -> Matched:
    rows = sorted(rows, key=lambda row: -row["score"])
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    labels = np.array([label_of[row["category_id"]] for row in rows], np.int64)
    scores = np.array([row["score"] for row in rows], np.float64)
    overlaps = _overlap(boxes, record)
    overlaps[labels[:, None] != record.labels[None]] = 0
    truth = _take_best(overlaps, np.arange(len(rows)), ~record.crowd)
    in_crowd = (overlaps[:, record.crowd] >= IOU).any(1)
    truth[(truth == WRONG) & in_crowd] = IGNORED
    return Matched(record, boxes, scores, labels, truth)


def _overlap(boxes: _Floats, record: Record) -> _Floats:
    """[N, M] IoU by COCO's program; for a crowd region the part of the detection that lies in it."""
    both = (boxes, record.boxes.astype(np.float64))
    found, truth = (np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1) for xyxy in both)
    return np.reshape(iou(found, truth, record.crowd.tolist()), (len(found), len(truth)))


def _take_best(overlaps: _Floats, order: _Ints, free: NDArray[np.bool_]) -> _Ints:
    """Greedy matching: [N] the column each row takes, in `order`, or WRONG. free: [M] the columns to be had."""
    taken = np.full(len(overlaps), WRONG, np.int64)
    left = np.where(free[None], overlaps, 0)
    for i in order[(left[order] >= IOU).any(1)] if left.size else ():
        best = left.shape[1] - 1 - int(left[i, ::-1].argmax())  # of equals the last one, as in COCO's program
        if left[i, best] >= IOU:
            taken[i] = best
            left[:, best] = 0
    return taken


def confusion_matrix(matches: Sequence[Matched], num_classes: int, threshold: float) -> _Ints:
    """[C + 1, C + 1] counts, true class by row and predicted class by column, the last being background.

    Boxes found by a detection of their class are on the diagonal. What is left of both is then matched whatever the
    class, again by score at IoU 0.5: those are the confusions. The rest are missed boxes (last column) and detections
    of nothing (last row). Crowd regions and detections in them do not count.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for every in matches:
        m = every.above(threshold)
        truth_labels, missed = m.record.labels, m.missed
        wrong = (m.truth == WRONG).nonzero()[0]
        confused = _take_best(_overlap(m.boxes, m.record), wrong, missed)
        pairs = np.where(m.truth >= 0, m.truth, confused)
        hit = pairs >= 0
        np.add.at(matrix, (truth_labels[pairs[hit]], m.labels[hit]), 1)
        missed[confused[confused >= 0]] = False
        np.add.at(matrix, (truth_labels[missed], num_classes), 1)
        np.add.at(matrix, (num_classes, m.labels[~hit & (m.truth == WRONG)]), 1)
    return matrix


def best_thresholds(matches: Sequence[Matched], num_classes: int) -> tuple[Operating, list[Operating]]:
    """The score threshold with the highest F1, of equals the highest: for all classes together, and for each."""
    nothing = [np.zeros(0)]
    scores = np.concatenate([m.scores for m in matches] or nothing)
    truth = np.concatenate([m.truth for m in matches] or nothing)
    labels = np.concatenate([m.labels for m in matches] or nothing)
    box_labels = np.concatenate([m.record.labels[~m.record.crowd] for m in matches] or nothing)
    counted = truth != IGNORED
    order = np.argsort(-scores[counted], kind="stable")
    scores, hits, labels = scores[counted][order], truth[counted][order] >= 0, labels[counted][order]
    per_class = [
        _best_threshold(scores[labels == k], hits[labels == k], int((box_labels == k).sum()))
        for k in range(num_classes)
    ]
    return _best_threshold(scores, hits, len(box_labels)), per_class


def _best_threshold(scores: _Floats, hits: NDArray[np.bool_], boxes: int) -> Operating:
    """scores: descending; hits: whether each found one of `boxes` boxes."""
    if not boxes:
        return Operating(*[float("nan")] * 4)
    found, counted = hits.cumsum(), np.arange(1, len(scores) + 1)
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # of equal scores all count or none
    f1 = np.where(last, 2 * found / (counted + boxes), 0.0)
    if not f1.any():
        return Operating(float("nan"), 0.0, 0.0, 0.0)
    best = int(f1.argmax())
    return Operating(*(float(v[best]) for v in (scores, found / counted, found / boxes, f1)))


def operating_point(matches: Sequence[Matched], threshold: float) -> Operating:
    """Precision, recall and F1 of all classes together at a given threshold; nan where nothing divides."""
    kept = [m.above(threshold) for m in matches]
    found = sum(int((m.truth >= 0).sum()) for m in kept)
    counted = sum(int((m.truth != IGNORED).sum()) for m in kept)
    boxes = sum(int((~m.record.crowd).sum()) for m in kept)
    precision, recall, f1 = (
        value / total if total else float("nan")
        for value, total in ((found, counted), (found, boxes), (2 * found, counted + boxes))
    )
    return Operating(threshold, precision, recall, f1)


def worst_images(matches: Sequence[Matched], threshold: float, count: int) -> list[ImageError]:
    """The `count` images with the largest error at `threshold`, worst first; images without an error are left out."""
    errors = []
    for every in matches:
        m = every.above(threshold)
        wrong = m.truth == WRONG
        missed = int(m.missed.sum())
        if missed or wrong.any():
            errors.append(ImageError(m, missed, int(wrong.sum()), missed + float(m.scores[wrong].sum())))
    return sorted(errors, key=lambda e: -e.error)[:count]
