"""COCO's average precision and recall of boxes, computed by faster-coco-eval.

Definitions: the COCO detection evaluation (arXiv 1405.0312 and its reference program): ten IoU thresholds from 0.50 to
0.95, precision sampled at 101 recalls, sizes split at 32^2 and 96^2 of the *annotated* area. A crowd region is neither
found nor missed, and a detection inside one is ignored.

Legend: T IoU thresholds, R recalls (101), C classes, S sizes (all, small, medium, large), D detection limits.
An average over nothing (a class without boxes, a size that does not occur) is undefined, where the reference program
says -1: here it is nan in attributes, and None in what `to_dict` and `summary` return, so that they are valid JSON.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from ..data.dataset import DetectionData
from ..errors import HeadwayError, check_number
from .matching import Matched, match
from .mistakes import Operating, best_thresholds

_Array = NDArray[np.float64]

NAN = float("nan")
_FAR = 1e9  # pixels, or a score: beyond it there is no box, and areas lose their meaning
RECALLS: tuple[float, ...] = tuple(np.linspace(0.0, 1.0, 101).tolist())
IOUS: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
_IOU_50, _IOU_75 = IOUS.index(0.5), IOUS.index(0.75)
_SIZES = ("all", "small", "medium", "large")
_HEADLINE = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_100")


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class. Values are in 0..1, nan where undefined.

    boxes: ground-truth boxes, crowd not counted; detections: rows of this class, at most `max_detections` an image.
    threshold: the score with its best F1 at IoU 0.5.
    precision50, precision75: precision at the recalls 0, 0.01, ..., 1 for IoU 0.5 and 0.75 (the curves); empty for a
        class without boxes.
    """

    name: str
    category_id: int
    boxes: int
    detections: int
    ap: float
    ap50: float
    ap75: float
    ar_100: float
    threshold: float
    precision50: tuple[float, ...]
    precision75: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """COCO's twelve numbers and the same by class. Values are in 0..1, nan where undefined.

    ap: mean over IoU 0.50:0.95 and classes, of the `max_detections` best of each image and class; ap_small and so on:
        by annotated area.
    ap_by_iou: mean over classes at each of `IOUS`.
    ar_1, ar_10, ar_100: average recall with at most so many detections per image and class (never more than
        `max_detections`); ar_small and so on: with `max_detections`.
    boxes: ground-truth boxes without crowd; crowd: crowd regions.
    best: the score threshold with the highest F1 at IoU 0.5 over all classes, and what it gives.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ap_by_iou: tuple[float, ...]
    ar_1: float
    ar_10: float
    ar_100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    images: int
    boxes: int
    crowd: int
    detections: int
    max_detections: int
    best: Operating
    per_class: tuple[ClassMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it: undefined is None."""
        return without_nan(asdict(self))

    def thresholds(self) -> tuple[float | None, ...]:
        """By label the score of its best F1, as a model card has it; undefined is None."""
        return tuple(without_nan(c.threshold) for c in self.per_class)

    def summary(self) -> dict[str, float | None]:
        """ap, ap50, ap75, ap_small, ap_medium, ap_large, ar_100, and the threshold of `best`; undefined is None."""
        headline = {name: getattr(self, name) for name in _HEADLINE} | {"threshold": self.best.threshold}
        return {name: without_nan(value) for name, value in headline.items()}


def evaluate(
    results: Sequence[dict[str, Any]],
    data: DetectionData,
    *,
    max_detections: int = 100,
    matches: Sequence[Matched] | None = None,
) -> Metrics:
    """COCO metrics of detections against the boxes of `data`.

    results: COCO result rows {"image_id", "category_id", "bbox": xywh in original pixels, "score"}; may be empty, and
        is left as it is.
    max_detections: of each image and class, the best so many count.
    matches: of `matching.match`, where they are made already.

    Raises: HeadwayError for a row with an unknown image or category, a box that is not four finite numbers, or a
        score that is not finite; and for a data set that uses an image or category id twice.
    """
    check_number("max_detections", max_detections, 1, whole=True)
    _check_ids(data)
    rows = check_results(results, data)
    limits = sorted({min(n, max_detections) for n in (1, 10, 100, max_detections)})
    if data.records and data.category_ids:
        precision, recall = _run(rows, data, limits)
    else:
        shape = (len(data.category_ids), len(_SIZES), len(limits))
        precision, recall = np.full((10, len(RECALLS), *shape), -1.0), np.full((10, *shape), -1.0)
    best, of_classes = best_thresholds(match(rows, data) if matches is None else matches, len(data.class_names))
    return _metrics(precision, recall, limits, rows, data, best, of_classes)


def check_results(results: Sequence[dict[str, Any]], data: DetectionData) -> list[dict[str, Any]]:
    """Copies of the result rows with nothing but the four COCO entries, as plain numbers.

    Raises: HeadwayError as `evaluate`.
    """
    images = {record.image_id for record in data.records}
    categories = set(data.category_ids)
    rows = []
    for i, row in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in row]
        if missing:
            raise HeadwayError(f"result {i} lacks {missing}; expected COCO rows as Detections.to_coco makes them")
        where = f"result {i} (image {row['image_id']!r})"
        if not isinstance(row["image_id"], Hashable) or row["image_id"] not in images:
            raise HeadwayError(f"{where}: no such image in {data.name!r}; were these detections made on another split?")
        if not isinstance(row["category_id"], Hashable) or row["category_id"] not in categories:
            raise HeadwayError(
                f"{where}: category {row['category_id']!r} is not one of {sorted(categories)} of {data.name!r}; pass "
                "the data set's category_ids to Detections.to_coco"
            )
        box, score = _numbers_of(row["bbox"]), _numbers_of([row["score"]])
        if len(box) != 4 or not score or not all(abs(v) < _FAR for v in (*box, *score)):
            raise HeadwayError(
                f"{where}: expected a finite score and a bbox of 4 numbers (x, y, width, height in pixels, below "
                f"{_FAR:g}), got {row['score']!r} and {row['bbox']!r}"[:500]
            )
        rows.append({"image_id": row["image_id"], "category_id": row["category_id"], "bbox": box, "score": score[0]})
    return rows


def _numbers_of(values: Any) -> list[float]:
    """Empty where these are no numbers."""
    try:
        return [] if isinstance(values, (str, Mapping)) else [float(v) for v in values]
    except (TypeError, ValueError, OverflowError):
        return []


def _numbers(data: DetectionData) -> tuple[dict[Any, int], dict[int, int]]:
    """Our own number for each image id, in their order, and each category id, by label. The program holds ids of 64
    bits, and a data set may have longer ones."""
    images = {image: number for number, image in enumerate(sorted(record.image_id for record in data.records), 1)}
    return images, {category: number for number, category in enumerate(data.category_ids, 1)}


def _ground_truth(data: DetectionData, image_numbers: dict[Any, int]) -> dict[str, Any]:
    """The boxes of `data` as a COCO annotation dictionary (numbers of `_numbers`, areas as annotated)."""
    annotations: list[dict[str, Any]] = []
    for record in data.records:
        rows = zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), record.areas.tolist())
        for (x1, y1, x2, y2), label, crowd, area in rows:
            where = {"image_id": image_numbers[record.image_id], "category_id": label + 1}
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, **where, **box})
    images = [{"id": image_numbers[record.image_id], "file_name": record.path.name} for record in data.records]
    categories = [{"id": label, "name": name} for label, name in enumerate(data.class_names, 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def _check_ids(data: DetectionData) -> None:
    for what, ids in (("image id", [r.image_id for r in data.records]), ("category id", data.category_ids)):
        twice = [value for value, count in Counter(ids).items() if count > 1]
        if twice:
            raise HeadwayError(f"{data.name!r} uses {what} {twice[0]!r} more than once; run `headway data check`")


def _run(rows: list[dict[str, Any]], data: DetectionData, limits: list[int]) -> tuple[_Array, _Array]:
    """Precision [T, R, C, S, D] and recall [T, C, S, D], classes in label order, -1 where undefined."""

    def silent(*_: object) -> None:
        """faster-coco-eval reports its progress through this."""

    images, categories = _numbers(data)
    truth = COCO(_ground_truth(data, images), print_function=silent)
    found = [
        {**row, "image_id": images[row["image_id"]], "category_id": categories[row["category_id"]]} for row in rows
    ]
    evaluator = COCOeval_faster(truth, truth.loadRes(found), "bbox", print_function=silent)
    # Stated here, not left to the library's defaults: the sizes of COCO's reference program.
    edges = [[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]]
    evaluator.params.areaRng, evaluator.params.areaRngLbl = edges, list(_SIZES)
    evaluator.params.maxDets = limits
    evaluator.evaluate()
    evaluator.accumulate()
    return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])


def _mean(values: _Array) -> float:
    """The mean of what is defined."""
    values = values[values > -1]
    return float(values.mean()) if values.size else NAN


def _metrics(
    precision: _Array, recall: _Array, limits: list[int], rows: list[dict[str, Any]], data: DetectionData,
    operating: Operating, of_classes: Sequence[Operating],
) -> Metrics:  # fmt: skip
    """Averages of precision [T, R, C, S, D] and recall [T, C, S, D]."""
    best = len(limits) - 1
    at = {n: limits.index(min(n, limits[-1])) for n in (1, 10, 100)}
    crowd = np.concatenate([r.crowd for r in data.records] or [np.zeros(0, bool)])
    labels = np.concatenate([r.labels for r in data.records] or [np.zeros(0, np.int64)])
    boxes = np.bincount(labels[~crowd], minlength=len(data.category_ids))
    found = _count_detections(rows, limits[-1])
    per_class = []
    for k, (name, category) in enumerate(zip(data.class_names, data.category_ids)):
        curves = precision[:, :, k, 0, best]
        p50, p75 = (tuple(curves[t].tolist()) if curves[t].max() > -1 else () for t in (_IOU_50, _IOU_75))
        ap, ap50, ap75 = _mean(curves), _mean(curves[_IOU_50]), _mean(curves[_IOU_75])
        ar, counts = _mean(recall[:, k, 0, at[100]]), (int(boxes[k]), found[category])
        per_class.append(ClassMetrics(name, category, *counts, ap, ap50, ap75, ar, of_classes[k].threshold, p50, p75))
    sizes = {f"ap_{size}": _mean(precision[:, :, :, s, best]) for s, size in enumerate(_SIZES) if s}
    sizes |= {f"ar_{size}": _mean(recall[:, :, s, best]) for s, size in enumerate(_SIZES) if s}
    return Metrics(
        ap=_mean(precision[:, :, :, 0, best]),
        ap50=_mean(precision[_IOU_50, :, :, 0, best]),
        ap75=_mean(precision[_IOU_75, :, :, 0, best]),
        ap_by_iou=tuple(_mean(at_iou[:, :, 0, best]) for at_iou in precision),
        **sizes,
        **{f"ar_{n}": _mean(recall[:, :, 0, d]) for n, d in at.items()},
        images=len(data),
        boxes=int((~crowd).sum()),
        crowd=int(crowd.sum()),
        detections=sum(found.values()),
        max_detections=limits[-1],
        best=operating,
        per_class=tuple(per_class),
    )


def _count_detections(rows: list[dict[str, Any]], limit: int) -> Counter[int]:
    """Rows that count, by category: at most `limit` of each image and class."""
    counts: Counter[int] = Counter()
    for (_, category), n in Counter((row["image_id"], row["category_id"]) for row in rows).items():
        counts[category] += min(n, limit)
    return counts


def without_nan(value: Any) -> Any:
    """The same nested dicts, lists and tuples with None for nan."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
