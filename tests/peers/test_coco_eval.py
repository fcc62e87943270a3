"""COCO metrics against pycocotools, COCO's reference program, on random and on awkward inputs."""

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from headway.data.dataset import DetectionData, Record
from headway.evaluate import evaluate

NAMES = ("cat", "dog", "tree", "gnu")
CATEGORIES = (7, 3, 90, 1)  # not in order, with gaps
TWELVE = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def record(image_id, boxes, labels, crowd=None, areas=None):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Record(
        image_id=image_id,
        path=Path(f"{image_id}.jpg"),
        size=(500, 500),
        boxes=boxes,
        labels=np.asarray(labels, np.int64),
        crowd=np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool),
        areas=np.asarray(own if areas is None else areas, np.float32),
    )


def dataset(records):
    return DetectionData("val", Path("."), "coco", records, NAMES, CATEGORIES)


def row(image_id, label, box, score):
    x1, y1, x2, y2 = (float(v) for v in box)
    return {"image_id": image_id, "category_id": CATEGORIES[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}


def reference(results, data):
    """pycocotools' twelve numbers and, by class, AP and AP50; its annotations are built here from the records."""
    truth, annotations = COCO(), []
    for r in data.records:
        for box, label, crowd, area in zip(r.boxes.astype(float), r.labels, r.crowd, r.areas):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": r.image_id, "category_id": data.category_ids[label],
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(area), "iscrowd": int(crowd)}
            )  # fmt: skip
    truth.dataset = {
        "info": {}, "images": [{"id": r.image_id} for r in data.records], "annotations": annotations,
        "categories": [{"id": i, "name": n} for i, n in zip(data.category_ids, data.class_names)],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        if results:
            found = truth.loadRes([dict(r) for r in results])
        else:  # pycocotools refuses an empty list; the same object with nothing in it
            found = COCO()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        run = COCOeval(truth, found, "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    by_class = {}
    for k, category in enumerate(run.params.catIds):
        precision = run.eval["precision"][:, :, k, 0, -1]
        by_class[category] = [float(p[p > -1].mean()) if (p > -1).any() else -1.0 for p in (precision, precision[0])]
    return dict(zip(TWELVE, run.stats.tolist())), by_class, run.eval["precision"]


def assert_same(results, data):
    metrics = evaluate(results, data)
    twelve, by_class, precision = reference(results, data)
    for name, expected in twelve.items():
        got = getattr(metrics, name)
        if expected == -1:
            assert math.isnan(got), name
            assert metrics.to_dict()[name] is None
        else:
            assert got == pytest.approx(expected, abs=1e-6), name
    for got, at_iou in zip(metrics.ap_by_iou, precision[..., 0, -1], strict=True):
        defined = at_iou[at_iou > -1]
        assert got == pytest.approx(defined.mean(), abs=1e-6) if defined.size else math.isnan(got)
    order = sorted(data.category_ids)
    for c in metrics.per_class:
        expected = by_class[c.category_id]
        for got, value in zip((c.ap, c.ap50), expected):
            assert math.isnan(got) if value == -1 else got == pytest.approx(value, abs=1e-6)
        for curve, t in ((c.precision50, 0), (c.precision75, 5)):
            theirs = precision[t, :, order.index(c.category_id), 0, -1]
            if theirs.max() == -1:
                assert curve == ()
            else:
                np.testing.assert_allclose(curve, theirs, atol=1e-6)
    return metrics


def random_case(seed, images=6, crowd=0.1, ties=False):
    """Boxes of all three sizes; detections near them, beside them, twice, and with the wrong class."""
    rng = np.random.default_rng(seed)
    records, results = [], []
    for i in rng.permutation(np.arange(100, 100 + images)).tolist():
        m = int(rng.integers(0, 9))
        corner, size = rng.uniform(0, 250, (m, 2)), np.exp(rng.uniform(np.log(6), np.log(220), (m, 2)))
        boxes, labels = np.concatenate([corner, corner + size], 1), rng.integers(0, 3, m)  # "gnu" never occurs
        areas = size.prod(1) * rng.uniform(0.3, 1.0, m)
        records.append(record(i, boxes, labels, rng.random(m) < crowd, areas))
        for box, label in zip(boxes, labels):
            for _ in range(int(rng.integers(0, 4))):
                moved = box + rng.normal(0, 0.08, 4) * np.tile(box[2:] - box[:2], 2)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                score = float(rng.choice([0.3, 0.5, 0.9]) if ties else rng.random())
                results.append(row(i, int(label if rng.random() < 0.85 else rng.integers(0, 4)), moved, score))
        for _ in range(int(rng.integers(0, 4))):
            x, y, w, h = rng.uniform(1, 200, 4)
            results.append(row(i, int(rng.integers(0, 4)), (x, y, x + w, y + h), float(rng.random())))
    return results, dataset(records)


@pytest.mark.parametrize("seed", range(25))
def test_random_data(seed):
    assert_same(*random_case(seed))


@pytest.mark.parametrize("seed", range(5))
def test_equal_scores_within_and_across_images(seed):
    assert_same(*random_case(1000 + seed, ties=True))


@pytest.mark.parametrize("seed", range(5))
def test_much_crowd(seed):
    results, data = random_case(2000 + seed, crowd=0.6)
    metrics = assert_same(results, data)
    assert metrics.crowd == sum(int(r.crowd.sum()) for r in data.records)
    assert metrics.boxes == data.num_boxes - metrics.crowd


def test_crowd_only():
    data = dataset([record(1, [[0, 0, 100, 100]], [0], [True])])
    metrics = assert_same([row(1, 0, (10, 10, 50, 50), 0.9)], data)
    assert math.isnan(metrics.ap)


def test_no_detections():
    """Boxes and nothing found: precision and recall are defined, and zero."""
    metrics = assert_same([], random_case(1)[1])
    assert metrics.ap == 0
    assert metrics.detections == 0


def test_no_ground_truth():
    data = dataset([record(1, [], []), record(2, [], [])])
    metrics = assert_same([row(1, 0, (0, 0, 10, 10), 0.5)], data)
    assert math.isnan(metrics.ap)
    assert set(metrics.summary().values()) == {None}


def test_neither_boxes_nor_detections():
    assert_same([], dataset([record(1, [], [])]))


def test_no_images_and_no_classes():
    assert math.isnan(evaluate([], dataset([])).ap)
    empty = DetectionData("val", Path("."), "coco", [record(1, [], [])], (), ())
    assert math.isnan(evaluate([], empty).ar_100)
    assert len(evaluate([], dataset([])).per_class) == 4


def test_the_same_detection_many_times():
    """One true positive and 6 duplicates of it, which are false positives behind it: AP 1."""
    data = dataset([record(1, [[10, 10, 60, 60]], [1])])
    metrics = assert_same([row(1, 1, (10, 10, 60, 60), 0.9)] * 7, data)
    assert metrics.ap == pytest.approx(1.0)


def test_more_than_a_hundred_detections_in_an_image():
    """The one right detection of class 0 is the 151st best, that of class 1 the 51st: only the latter counts."""
    data = dataset([record(1, [[0, 0, 50, 50], [100, 100, 150, 150]], [0, 1])])
    wrong = [(300 + i % 7, 300, 340, 340) for i in range(150)]
    results = [row(1, 0, box, 0.9 - i * 1e-3) for i, box in enumerate(wrong)] + [row(1, 0, (0, 0, 50, 50), 0.1)]
    results += [row(1, 1, box, 0.9 - i * 1e-3) for i, box in enumerate(wrong[:50])]
    results += [row(1, 1, (100, 100, 150, 150), 0.1)]
    metrics = assert_same(results, data)
    assert metrics.per_class[0].ap == 0
    assert metrics.per_class[1].ap > 0
    assert metrics.per_class[0].detections == 100
    assert evaluate(results, data, max_detections=200).per_class[0].ap > 0
    assert evaluate(results, data, max_detections=20).per_class[1].ap == 0


def test_recall_limits_follow_the_number_of_detections():
    """Three boxes of one class, the third found by the third best detection: recall 2/3 of two, 1 of three."""
    boxes = [[0, 0, 50, 50], [100, 100, 150, 150], [200, 200, 250, 250]]
    data = dataset([record(1, boxes, [0, 0, 0])])
    results = [row(1, 0, box, 0.9 - 0.1 * i) for i, box in enumerate(boxes)]
    metrics = evaluate(results, data, max_detections=2)
    assert (metrics.ar_1, metrics.ar_10, metrics.ar_100) == pytest.approx((1 / 3, 2 / 3, 2 / 3))
    assert evaluate(results, data, max_detections=300).ar_100 == pytest.approx(1)
    assert evaluate(results, data, max_detections=1).ar_10 == pytest.approx(1 / 3)


def test_sizes_go_by_the_annotated_area():
    """A 100 x 100 box (large by its sides) whose segment covers 500 pixels is a small object."""
    data = dataset([record(1, [[0, 0, 100, 100]], [0], areas=[500])])
    metrics = assert_same([row(1, 0, (0, 0, 100, 100), 0.9)], data)
    assert metrics.ap_small == pytest.approx(1.0)
    assert math.isnan(metrics.ap_large)


def test_results_are_left_as_they_are_and_nothing_is_printed(capsys):
    results, data = random_case(3)
    before = [dict(r) for r in results]
    evaluate(results, data)
    assert results == before
    assert capsys.readouterr() == ("", "")


def test_ids_of_any_length_count_the_same():
    """Failed before: the ids of a data set that hashes its names do not fit into 64 bits."""
    boxes = [[10, 10, 40, 50], [60, 20, 90, 80]]
    records = [record(image_id, boxes, [0, 1]) for image_id in (2**70, 5)]
    data = DetectionData("val", Path(), "coco", records, ("a", "b"), (2**80 + 1, 2**64))
    rows = [
        {"image_id": r.image_id, "category_id": data.category_ids[k], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for r in records
        for k, (x1, y1, x2, y2) in enumerate(boxes)
    ]
    metrics = evaluate(rows, data)
    assert metrics.ap == 1
    assert [c.category_id for c in metrics.per_class] == [2**80 + 1, 2**64]
