"""The matching against pycocotools' and the confusion matrix against supervision's."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from headway.data.dataset import DetectionData, Record
from headway.evaluate.matching import IGNORED, match
from headway.evaluate.mistakes import best_thresholds, confusion_matrix

CATEGORIES = (4, 2, 9)


def crowded_case(seed, crowd=0.15, images=5):
    """Overlapping boxes in a small picture, so that several detections compete for several boxes."""
    rng = np.random.default_rng(seed)
    records, results = [], []
    for i in range(1, images + 1):
        m = int(rng.integers(0, 12))
        corner, size = rng.uniform(0, 60, (m, 2)), rng.uniform(15, 50, (m, 2))
        boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
        labels = rng.integers(0, 3, m)
        areas = (size.prod(1)).astype(np.float32)
        records.append(Record(i, Path(f"{i}.jpg"), None, boxes, labels, rng.random(m) < crowd, areas))
        for box, label in zip(boxes.astype(float), labels):
            for _ in range(int(rng.integers(0, 5))):
                x1, y1, x2, y2 = box + rng.normal(0, 4, 4)
                bbox = [x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)]
                score = round(float(rng.random()), 1)  # many ties
                results.append({"image_id": i, "category_id": CATEGORIES[label], "bbox": bbox, "score": score})
    return results, DetectionData("val", Path("."), "coco", records, ("a", "b", "c"), CATEGORIES)


def pycocotools_flags(results, data):
    """(score, found, ignored) of every detection by (image, category), in pycocotools' order, at IoU 0.5."""
    truth, annotations = COCO(), []
    for r in data.records:
        for (x1, y1, x2, y2), label, crowd in zip(r.boxes.astype(float).tolist(), r.labels, r.crowd):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": r.image_id, "category_id": CATEGORIES[label],
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(crowd)}
            )  # fmt: skip
    truth.dataset = {
        "info": {}, "images": [{"id": r.image_id} for r in data.records], "annotations": annotations,
        "categories": [{"id": i} for i in CATEGORIES],
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes([dict(r) for r in results]), "bbox")
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
        run.evaluate()
    flags = {}
    for entry in filter(None, run.evalImgs):
        found = (entry["dtMatches"][0] > 0) & ~entry["dtIgnore"][0]
        rows = zip(entry["dtScores"], found.tolist(), entry["dtIgnore"][0].tolist())
        flags[entry["image_id"], entry["category_id"]] = list(rows)
    return flags


@pytest.mark.parametrize("seed", range(20))
def test_matching_is_pycocotools(seed):
    results, data = crowded_case(seed)
    expected = pycocotools_flags(results, data)
    for m in match(results, data):
        for label, category in enumerate(CATEGORIES):
            of_class = m.labels == label
            rows = zip(m.scores[of_class].tolist(), m.truth[of_class].tolist())
            got = [(score, truth >= 0, truth == IGNORED) for score, truth in rows]
            assert got == expected.get((m.record.image_id, category), [])


@pytest.mark.parametrize("seed", range(5))
def test_best_threshold_is_the_best_of_all_thresholds(seed):
    """F1 at every threshold in turn, from pycocotools' own flags."""
    results, data = crowded_case(100 + seed)
    flags = pycocotools_flags(results, data)
    _, of_classes = best_thresholds(match(results, data), 3)
    for best, label, category in zip(of_classes, range(3), CATEGORIES):
        rows = [row for (_, c), rows in flags.items() if c == category for row in rows if not row[2]]
        boxes = sum(int(((r.labels == label) & ~r.crowd).sum()) for r in data.records)
        f1 = {}
        for t in np.unique([score for score, _, _ in rows]).tolist():
            kept = [found for score, found, _ in rows if score >= t]
            f1[t] = 2 * sum(kept) / (len(kept) + boxes)
        assert best.f1 == pytest.approx(max(f1.values()))
        assert best.threshold == max(t for t, value in f1.items() if value == pytest.approx(max(f1.values())))


@pytest.mark.parametrize("seed", range(10))
def test_confusion_matrix_is_supervisions(seed):
    """Objects far apart, each found or not, under its name or another, and detections of nothing: there greedy and
    supervision's matching must agree. (Where boxes compete they may not: supervision prefers the higher IoU.)"""
    supervision = pytest.importorskip("supervision")
    rng = np.random.default_rng(seed)
    records, results, predictions, targets = [], [], [], []
    for i in range(1, 5):
        corners = 100.0 * np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2)
        boxes = np.concatenate([corners, corners + rng.uniform(40, 80, (16, 2))], 1).astype(np.float32)
        labels, real = rng.integers(0, 3, 16), rng.random(16) < 0.7  # the others are places for false positives
        seen = rng.random(16) < 0.7
        guess = np.where(rng.random(16) < 0.7, labels, rng.integers(0, 3, 16))
        scores = rng.random(16)
        moved = boxes + rng.uniform(-2, 2, (16, 4)).astype(np.float32)
        crowd = np.zeros(int(real.sum()), bool)
        records.append(
            Record(i, Path("x.jpg"), None, boxes[real], labels[real], crowd, np.ones(len(crowd), np.float32))
        )
        targets.append(supervision.Detections(xyxy=boxes[real], class_id=labels[real]))
        predictions.append(
            supervision.Detections(xyxy=moved[seen], class_id=guess[seen], confidence=scores[seen].astype(np.float32))
        )
        for (x1, y1, x2, y2), label, score in zip(moved[seen].tolist(), guess[seen], scores[seen].tolist()):
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": i, "category_id": CATEGORIES[label], "bbox": bbox, "score": score})
    data = DetectionData("val", Path("."), "coco", records, ("a", "b", "c"), CATEGORIES)
    theirs = supervision.ConfusionMatrix.from_detections(
        predictions=predictions, targets=targets, classes=["a", "b", "c"], conf_threshold=0.3, iou_threshold=0.5
    )
    ours = confusion_matrix(match(results, data), 3, 0.3)
    np.testing.assert_array_equal(ours, theirs.matrix.astype(int))
    assert ours[:3, :3].sum() > np.trace(ours[:3, :3]) > 0
