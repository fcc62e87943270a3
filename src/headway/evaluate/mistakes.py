"""Where detections go wrong: the confusion matrix, the best score threshold, the worst images.

Everything follows from one matching per image, see `matching`.

Legend: C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .matching import IGNORED, WRONG, Floats, Ints, Matched, take_best


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


def confusion_matrix(matches: Sequence[Matched], num_classes: int, threshold: float) -> Ints:
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
        confused = take_best(m.overlaps(), wrong, missed, m.iou)
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


def _best_threshold(scores: Floats, hits: NDArray[np.bool_], boxes: int) -> Operating:
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
