"""Errors by kind: scenes of one or two boxes by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from headway.data.dataset import DetectionData, Record
from headway.evaluate.kinds import KINDS, _Table, average_precisions, tide
from headway.evaluate.matching import match

NAMES = ("a", "b")
BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]  # 10 x 10


def record(boxes, labels, crowd=(), image_id=1):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    flags, areas = np.isin(np.arange(len(boxes)), crowd), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Record(image_id, Path("x.jpg"), None, boxes, np.asarray(labels, np.int64), flags, areas)


def found(label, box, score, image_id=1):
    x1, y1, x2, y2 = box
    return {
        "image_id": image_id,
        "category_id": label + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": score,
    }


def analyse(records, rows, iou=0.5, **options):
    data = DetectionData("val", Path("."), "coco", records, NAMES, (1, 2))
    return tide(match(rows, data, iou), NAMES, **options)


def counts(result):
    return {kind: n for kind, n in result.all.counts.items() if n}


# One box of class a at BOX. [0, 0, 10, h] overlaps it by h / 10.
@pytest.mark.parametrize(
    ("label", "box", "kind"),
    [
        (1, BOX, {"classification": 1}),
        (1, [0, 0, 10, 5], {"classification": 1}),  # exactly 0.5
        (0, [0, 0, 10, 4], {"localisation": 1}),
        (0, [0, 0, 10, 1], {"localisation": 1}),  # exactly 0.1
        (1, [0, 0, 10, 4], {"both": 1, "missed": 1}),
        (1, [0, 0, 10, 1], {"background": 1, "missed": 1}),  # exactly 0.1
        (0, FAR, {"background": 1, "missed": 1}),
        (0, BOX, {}),
        (0, [0, 0, 10, 5], {}),  # exactly 0.5
    ],
)
def test_one_detection_and_one_box(label, box, kind):
    assert counts(analyse([record([BOX], [0])], [found(label, box, 0.9)])) == kind


def test_a_second_detection_is_a_duplicate():
    """The better one is a hit: AP is 1 before and after, for the duplicate comes behind full recall."""
    result = analyse([record([BOX], [0])], [found(0, BOX, 0.8), found(0, [0, 0, 10, 9], 0.9)])
    assert counts(result) == {"duplicate": 1}
    assert result.errors.detection.tolist() == [1]
    assert (result.all.ap, result.all.gains["duplicate"]) == (1, 0)


def test_without_boxes_all_is_background():
    result = analyse([record([], []), record([BOX], [0], image_id=2)], [found(0, BOX, 0.9), found(1, FAR, 0.8)])
    assert counts(result) == {"background": 2, "missed": 1}


def test_crowd_is_neither_found_nor_missed():
    """A crowd is no box to be near: both detections are of nothing. That of a, in a crowd of a, costs no AP: with b's
    AP 1, precision is 1 although it scores more than the hit of FAR."""
    rows = [found(0, BOX, 0.9), found(1, BOX, 0.8), found(0, FAR, 0.7)]
    result = analyse([record([[0, 0, 40, 40], FAR], [0, 0], crowd=[0])], rows)
    assert counts(result) == {"background": 2}
    assert result.errors.crowd.tolist() == [True, False]
    assert (result.all.boxes, result.all.ap, result.all.gains["background"]) == (1, 1, 0)


def test_gains_by_hand():
    """Two boxes of a. Scores 0.9 background, 0.8 hit, 0.7 localisation of the second box.
    AP: precision 1/2 up to recall 1/2, recalls 0 to 0.5 of 101: 51 / 2 / 101.
    Without background: precision 1 there: 51 / 101. With the box moved: precisions 0, 1/2, 2/3, so 2/3 at all recalls.
    Without false positives 51 / 101, without false negatives (one box is enough): 1/2 at all recalls.
    """
    rows = [found(0, [80, 80, 90, 90], 0.9), found(0, BOX, 0.8), found(0, [50, 50, 60, 54], 0.7)]
    all_ = analyse([record([BOX, FAR], [0, 0])], rows).all
    base = 51 / 2 / 101
    assert all_.ap == pytest.approx(base)
    expected = {"background": base, "localisation": 2 / 3 - base}
    expected |= {"false positives": base, "false negatives": 0.5 - base}
    expected |= dict.fromkeys(("classification", "both", "duplicate", "missed"), 0)
    assert all_.gains == pytest.approx(expected)


def test_of_errors_about_one_box_the_best_is_mended():
    """Two of b on one box of a: the better becomes the hit. With one of a beside the box at 0.95, that one is to have
    the box: mending the classes only removes, and AP stays 0."""
    rows = [found(1, BOX, 0.9), found(1, BOX, 0.8)]
    mended = analyse([record([BOX], [0])], rows).all
    assert (counts(analyse([record([BOX], [0])], rows)), mended.ap) == ({"classification": 2}, 0)
    assert mended.gains["classification"] == 1
    beside = analyse([record([BOX], [0])], [*rows, found(0, [0, 0, 10, 4], 0.95)]).all
    assert beside.gains["classification"] == 0
    assert beside.gains["localisation"] == 1


def test_missed_boxes_are_not_asked_for():
    """Of two boxes one is found: AP 51 / 101, and 1 when the other is not asked for."""
    all_ = analyse([record([BOX, FAR], [0, 0])], [found(0, BOX, 0.9)]).all
    assert all_.gains["missed"] == pytest.approx(1 - 51 / 101)


def test_a_class_without_boxes_does_not_count():
    """COCO's AP: b is nowhere, so a detection of b costs nothing."""
    result = analyse([record([BOX], [0])], [found(0, BOX, 0.9), found(1, FAR, 0.95)])
    assert result.all.ap == 1
    assert [row.counts["background"] for row in result.classes] == [0, 1]
    assert math.isnan(result.classes[1].ap)


def test_by_class_and_by_size():
    """A small box of a is found, a large one of b is called a, and a speck of nothing is called b."""
    big = [100, 100, 300, 300]
    rows = [found(0, BOX, 0.9), found(0, big, 0.8), found(1, FAR, 0.7)]
    result = analyse([record([BOX, big], [0, 1])], rows)
    by_class = [{k: n for k, n in row.counts.items() if n} for row in result.classes]
    assert by_class == [{"classification": 1}, {"background": 1}]
    by_size = {row.name: (row.boxes, {k: n for k, n in row.counts.items() if n}) for row in result.sizes}
    assert by_size == {"small": (1, {"background": 1}), "medium": (0, {}), "large": (1, {"classification": 1})}
    assert [row.ap for row in result.classes] == [1, 0]
    assert result.sizes[2].gains["classification"] == 1


def test_only_the_best_of_a_picture_count():
    rows = [found(0, FAR, 0.9), found(0, BOX, 0.8)]
    assert counts(analyse([record([BOX], [0])], rows, max_detections=1)) == {"background": 1, "missed": 1}


def test_other_thresholds():
    """IoU 0.6 is a hit at 0.5, and a wrong place at 0.75. IoU 0.4 of another class is of nothing up to 0.4."""
    row = found(0, [0, 0, 10, 6], 0.9)
    assert counts(analyse([record([BOX], [0])], [row], iou=0.75)) == {"localisation": 1}
    other = [found(1, [0, 0, 10, 4], 0.9)]
    assert counts(analyse([record([BOX], [0])], other, background=0.4)) == {"background": 1, "missed": 1}


def test_every_false_detection_has_one_kind():
    """Random scenes with crowd: what is no hit is an error of one kind, and so by class and by size."""
    rng = np.random.default_rng(0)
    records, rows = [], []
    for i in range(1, 21):
        corner = rng.uniform(0, 60, (int(rng.integers(0, 9)), 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 40, corner.shape)], 1)
        labels = rng.integers(0, 2, len(boxes))
        records.append(record(boxes, labels, crowd=[0] if i % 3 == 0 else (), image_id=i))
        for box in boxes.tolist() * 3:
            x1, y1, x2, y2 = (np.asarray(box) + rng.normal(0, 5, 4)).tolist()
            label = int(rng.integers(0, 2))
            rows.append(found(label, [x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)], float(rng.random()), i))
    data = DetectionData("val", Path("."), "coco", records, NAMES, (1, 2))
    matches = match(rows, data)
    result = tide(matches, NAMES)
    all_repaired(matches)
    wrong = sum(int((m.truth < 0).sum()) for m in matches)
    assert sum(n for kind, n in result.all.counts.items() if kind != "missed") == wrong > 50
    assert min(result.all.counts.values()) > 0
    assert np.bincount(result.errors.kind, minlength=6).tolist() == [result.all.counts[kind] for kind in KINDS]
    for kind in KINDS:
        assert sum(row.counts[kind] for row in result.classes) == result.all.counts[kind]
        assert sum(row.counts[kind] for row in result.sizes) == result.all.counts[kind]


def all_repaired(matches):
    """With every kind repaired at once, AP is 1: as many hits as boxes that are still asked for, and nothing else."""
    table = _Table.of(matches, 0.1)
    kept = (table.kind == -1) | table.chosen
    labels = np.sort(table.box_label[table.target[kept]])
    assert labels.tolist() == np.sort(table.box_label[~table.missed]).tolist()
    assert len(np.unique(table.target[kept])) == kept.sum()
    positives = np.bincount(labels, minlength=2)
    assert average_precisions(table.box_label[table.target[kept]], np.ones(kept.sum(), bool), positives).tolist() == [
        1,
        1,
    ]


@pytest.mark.parametrize("records", [[], [record([], [])]])
def test_nothing_at_all(records):
    result = analyse(records, [])
    assert counts(result) == {}
    assert math.isnan(result.all.ap)
    assert result.errors.kind.tolist() == []
