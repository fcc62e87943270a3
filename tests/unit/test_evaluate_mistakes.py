"""Confusion, thresholds and worst images by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from headway.data.dataset import DetectionData, Record
from headway.evaluate.matching import IGNORED, WRONG, match
from headway.evaluate.mistakes import best_thresholds, confusion_matrix, operating_point, worst_images

LEFT, RIGHT, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def record(image_id, boxes, labels, crowd=()):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    flags = np.isin(np.arange(len(boxes)), crowd)
    return Record(image_id, Path("x.jpg"), None, boxes, np.asarray(labels, np.int64), flags, np.ones(len(boxes), "f4"))


def row(image_id, label, box, score):
    x1, y1, x2, y2 = box
    return {"image_id": image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}


def dataset(*records):
    return DetectionData("val", Path("."), "coco", list(records), ("a", "b"), (1, 2))


def test_a_better_detection_takes_the_box_first():
    """Two detections on LEFT: the better scored gets it though the other overlaps more (IoU 0.8 against 1)."""
    data = dataset(record(1, [LEFT, RIGHT], [0, 0]))
    [m] = match([row(1, 0, LEFT, 0.5), row(1, 0, [0, 0, 10, 8], 0.9), row(1, 0, FAR, 0.7)], data)
    assert m.scores.tolist() == [0.9, 0.7, 0.5]
    assert m.truth.tolist() == [0, WRONG, WRONG]
    assert m.missed.tolist() == [False, True]


def test_half_an_overlap_is_enough_and_less_is_not():
    """IoU 50 / 100 = 0.5 counts; 49 / 100 does not."""
    data = dataset(record(1, [LEFT, RIGHT], [0, 0]))
    [m] = match([row(1, 0, [0, 0, 10, 5], 0.9), row(1, 0, [20, 0, 30, 4.9], 0.8)], data)
    assert m.truth.tolist() == [0, WRONG]


def test_confusion_by_hand():
    """Image 1: LEFT is `a` and called b (a confusion), RIGHT is `b` and found, FAR nothing; image 2: `a` missed."""
    data = dataset(record(1, [LEFT, RIGHT], [0, 1]), record(2, [LEFT], [0]))
    results = [row(1, 1, LEFT, 0.9), row(1, 1, RIGHT, 0.8), row(1, 0, FAR, 0.7), row(2, 0, LEFT, 0.2)]
    matrix = confusion_matrix(match(results, data), 2, 0.5)
    assert matrix.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    assert confusion_matrix(match(results, data), 2, 0.1)[0].tolist() == [1, 1, 0]


def test_the_right_class_comes_before_a_better_scored_wrong_one():
    """On one box of `a`: b at 0.9 and a at 0.6. The box is found; b is a detection of nothing."""
    data = dataset(record(1, [LEFT], [0]))
    matrix = confusion_matrix(match([row(1, 1, LEFT, 0.9), row(1, 0, LEFT, 0.6)], data), 2, 0.5)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_crowd_is_neither_missed_nor_wrong():
    """Two detections inside a crowd region of their class are ignored, one of another class is wrong."""
    data = dataset(record(1, [[0, 0, 40, 40]], [0], crowd=[0]))
    matches = match([row(1, 0, LEFT, 0.9), row(1, 0, RIGHT, 0.8), row(1, 1, LEFT, 0.7)], data)
    assert matches[0].truth.tolist() == [IGNORED, IGNORED, WRONG]
    assert confusion_matrix(matches, 2, 0.0).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    [worst] = worst_images(matches, 0.0, 5)
    assert (worst.missed, worst.wrong) == (0, 1)


def test_best_threshold_by_hand():
    """Scores 0.9 hit, 0.8 wrong, 0.7 hit, 0.6 wrong; 3 boxes. F1 = 2 tp / (n + 3): 2/4, 2/5, 4/6, 4/7: best at 0.7,
    where precision is 2/3 and recall 2/3."""
    data = dataset(record(1, [LEFT, RIGHT, [0, 80, 9, 90]], [0, 0, 0]))
    results = [row(1, 0, LEFT, 0.9), row(1, 0, FAR, 0.8), row(1, 0, RIGHT, 0.7), row(1, 0, FAR, 0.6)]
    _, [best, other] = best_thresholds(match(results, data), 2)
    assert math.isnan(other.f1)
    assert (best.threshold, best.precision, best.recall, best.f1) == pytest.approx((0.7, 2 / 3, 2 / 3, 2 / 3))
    assert operating_point(match(results, data), 0.7) == best


def test_equal_scores_count_together():
    """A hit and two wrong ones, all at 0.5: there is no threshold between them. F1 = 2 / (3 + 1)."""
    data = dataset(record(1, [LEFT], [0]))
    rows = [row(1, 0, LEFT, 0.5), row(1, 0, FAR, 0.5), row(1, 0, RIGHT, 0.5)]
    best, _ = best_thresholds(match(rows, data), 2)
    assert (best.threshold, best.f1) == (0.5, 0.5)


def test_best_threshold_over_all_classes():
    """A hit of `a` at 0.9 and of `b` at 0.6, of three boxes, between them a wrong `b`: F1 is 2/4, 2/5, 4/6."""
    data = dataset(record(1, [LEFT, RIGHT, [0, 80, 9, 90]], [0, 1, 1]))
    rows = [row(1, 0, LEFT, 0.9), row(1, 1, FAR, 0.7), row(1, 1, RIGHT, 0.6)]
    best, [of_a, of_b] = best_thresholds(match(rows, data), 2)
    assert (best.threshold, best.f1) == pytest.approx((0.6, 2 / 3))
    assert (of_a.threshold, of_b.threshold) == (0.9, 0.6)


def test_best_threshold_of_nothing():
    found_nothing, [of_a, of_b] = best_thresholds(match([row(1, 1, FAR, 0.5)], dataset(record(1, [LEFT], [0]))), 2)
    assert math.isnan(found_nothing.threshold)
    assert found_nothing.f1 == of_a.f1 == 0
    assert math.isnan(of_b.f1)
    assert math.isnan(best_thresholds([], 0)[0].f1)


def test_worst_images_by_hand():
    """Image 1: perfect. 2: one box missed, error 1. 3: wrong at 0.9 and 0.8, error 1.7. 4: wrong at 0.3, below 0.5."""
    data = dataset(*(record(i, [LEFT], [0]) for i in (1, 2, 3, 4)))
    found = [row(i, 0, LEFT, 0.95) for i in (1, 3, 4)]
    wrong = [row(3, 0, FAR, 0.9), row(3, 1, RIGHT, 0.8), row(4, 0, FAR, 0.3)]
    worst = worst_images(match(found + wrong, data), 0.5, 10)
    assert [(w.matched.record.image_id, w.missed, w.wrong) for w in worst] == [(3, 0, 2), (2, 1, 0)]
    assert [w.error for w in worst] == pytest.approx([1.7, 1.0])
    assert len(worst_images(match(found + wrong, data), 0.5, 1)) == 1
