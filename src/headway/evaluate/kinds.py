"""Errors by kind, and what AP would be without each: TIDE (arXiv 2008.08115, sections 2.1 to 2.3).

A detection that found no box is tested in this order, by its IoU with the boxes of its picture that are no crowd:

background      there are no boxes
localisation    the best of its class lies in [background, foreground]
classification  the best of another class is at least foreground
duplicate       the best of its class that another detection found is at least foreground
background      the best of any class is at most background
both            the rest: a wrong class and a wrong place

A box is missed when no detection found it and no localisation or classification error is about it.

A repair mends the errors of one kind alone. Of the classification and localisation errors about one box that nothing
found, the best scored one becomes a hit, if it is of the repaired kind; the others of the kind are removed, as all
duplicate, background and both errors are. Missed boxes are no longer asked for. What AP gains by the repairs of each
kind does not add up to what is missing to 1: an error may hide behind another. A gain is never below 0.

As in tidecv 1.0.1, the authors' program: a detection in a crowd region costs no AP, but counts as an error of its kind
and may become a hit. Differs from it: a class without boxes has no AP, as in COCO (there its AP is 0).

Legend: N detections, E errors, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .matching import IGNORED, IOU, Floats, Ints, Matched

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(6)
REPAIRS = (*KINDS, "false positives", "false negatives")
SIZES = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, math.inf))
RECALLS = np.arange(101) / 100
_HIT = -1  # in place of a kind

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The errors of all classes together, of one class, or of one size.

    boxes: without crowd. ap: at the foreground IoU, 0..1, nan where undefined.
    counts: errors by kind. gains: what AP gains when all errors of a kind, all false positives or all false negatives
    are repaired; nan where undefined.
    """

    name: str
    boxes: int
    ap: float
    counts: dict[str, int]
    gains: dict[str, float]


@dataclass(frozen=True, slots=True)
class Errors:
    """Every error, [E]. image: the place in `matches`; kind: an index of KINDS; detection: the place in its `Matched`,
    -1 for a missed box; truth: the box it is about, -1 for none; crowd: whether it is in a crowd region of its class.
    """

    image: Ints
    kind: Ints
    detection: Ints
    truth: Ints
    crowd: Bools


@dataclass(frozen=True, slots=True)
class Tide:
    """Errors by kind. iou, background: the foreground and the background IoU. classes: by label; sizes: SIZES.

    A class: a detection counts for the class it names, a missed box for its own. A size: a detection that found no box
    counts by its own area, a box by its annotated one.
    """

    iou: float
    background: float
    all: Breakdown
    classes: tuple[Breakdown, ...]
    sizes: tuple[Breakdown, ...]
    errors: Errors

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single errors, nan for undefined."""
        rows = {"all": self.all, "classes": self.classes, "sizes": self.sizes}
        return {"iou": self.iou, "background": self.background, **{name: _plain(row) for name, row in rows.items()}}


def _plain(rows: Breakdown | tuple[Breakdown, ...]) -> Any:
    if isinstance(rows, tuple):
        return [_plain(row) for row in rows]
    return {name: getattr(rows, name) for name in Breakdown.__slots__}


def tide(
    matches: Sequence[Matched], class_names: Sequence[str], *, background: float = 0.1, max_detections: int = 100
) -> Tide:
    """The errors of `matches` by kind.

    matches: of `matching.match`, whose IoU is the foreground's. background: IoU up to which a detection is of nothing.
    max_detections: of each picture, whatever the class, the best so many count.
    """
    matches = [m.best(max_detections) for m in matches]
    table = _Table.of(matches, background)
    names = ("all", *(name for name, *_ in SIZES))
    ranges = ((0.0, math.inf), *((low, high) for _, low, high in SIZES))
    everything, *sizes = [
        table.breakdowns(name, low, high, class_names if name == "all" else ())
        for name, (low, high) in zip(names, ranges)
    ]
    return Tide(
        matches[0].iou if matches else IOU, background, everything[0], tuple(everything[1:]),
        tuple(size[0] for size in sizes), table.errors(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Table:
    """All detections that count, best first, and all boxes that are no crowd.

    Of a detection, [N]: image, place, label, score, area; kind, an index of KINDS or _HIT; target, the number of the
    box it found or is about, or -1; crowd, whether it costs no AP; chosen, whether it is the error that becomes a hit
    of its target. Of a box, [M]: image, place, label, area, missed, found.
    """

    image: Ints
    place: Ints
    label: Ints
    score: Floats
    area: Floats
    kind: Ints
    target: Ints
    crowd: Bools
    chosen: Bools
    box_image: Ints
    box_place: Ints
    box_label: Ints
    box_area: Floats
    missed: Bools
    found: Bools

    @classmethod
    def of(cls, matches: Sequence[Matched], background: float) -> _Table:
        real = [(~m.record.crowd).nonzero()[0] for m in matches]
        starts = np.cumsum([0, *map(len, real)])
        parts = [
            _detections(i, m, place, int(start), background)
            for i, (m, place, start) in enumerate(zip(matches, real, starts))
        ]
        columns = [_joined([part[c] for part in parts]) for c in range(8)]
        order = np.argsort(-columns[3], kind="stable")
        image, place, label, score, area, kind, target, crowd = (column[order] for column in columns)
        found = np.zeros(int(starts[-1]), bool)
        found[target[kind == _HIT]] = True
        open_to = ((kind == CLASSIFICATION) | (kind == LOCALISATION)) & (target >= 0)
        open_to[open_to] = ~found[target[open_to]]
        first = open_to.nonzero()[0][np.unique(target[open_to], return_index=True)[1]]
        chosen = np.zeros(len(kind), bool)
        chosen[first] = True
        missed = ~found
        missed[target[open_to]] = False
        return cls(
            image, place, label, score, area, kind, target, crowd.astype(bool), chosen,
            _joined([np.full(len(r), i) for i, r in enumerate(real)]), _joined(real),
            _joined([m.record.labels[r] for m, r in zip(matches, real)]),
            _joined([m.record.areas[r].astype(np.float64) for m, r in zip(matches, real)]).astype(np.float64),
            missed, found,
        )  # fmt: skip

    def errors(self) -> Errors:
        """Every error, those of detections first, best scored first."""
        wrong = (self.kind != _HIT).nonzero()[0]
        missed = self.missed.nonzero()[0]
        target = self.target[wrong]
        place = np.where(target >= 0, np.append(self.box_place, -1)[target], -1)
        return Errors(
            np.concatenate([self.image[wrong], self.box_image[missed]]),
            np.concatenate([self.kind[wrong], np.full(len(missed), MISSED)]),
            np.concatenate([self.place[wrong], np.full(len(missed), -1)]),
            np.concatenate([place, self.box_place[missed]]),
            np.concatenate([self.crowd[wrong], np.zeros(len(missed), bool)]),
        )

    def breakdowns(self, name: str, low: float, high: float, class_names: Sequence[str]) -> list[Breakdown]:
        """That of all classes, then that of each of `class_names`, for areas in [low, high)."""
        boxes_in = (self.box_area >= low) & (self.box_area < high)
        found_in = (self.area >= low) & (self.area < high)
        classes = int(max(self.label.max(initial=-1), self.box_label.max(initial=-1), len(class_names) - 1)) + 1
        positives = np.bincount(self.box_label[boxes_in], minlength=classes)
        there = positives > 0
        inside = np.where(self.kind == _HIT, np.append(boxes_in, False)[self.target], found_in)
        costs = inside & ~self.crowd
        before = np.where(there, average_precisions(self.label[costs], self.kind[costs] == _HIT, positives), np.nan)
        after = {r: np.where(there, self._repaired(r, costs, boxes_in, positives), np.nan) for r in REPAIRS}
        counts = np.stack([
            *(np.bincount(self.label[inside & (self.kind == kind)], minlength=classes) for kind in range(MISSED)),
            np.bincount(self.box_label[self.missed & boxes_in], minlength=classes),
        ])  # fmt: skip

        def row(name: str, chosen: slice) -> Breakdown:
            ap = _mean(before[chosen])
            gains = {r: _gain(_mean(values[chosen]), ap) for r, values in after.items()}
            return Breakdown(
                name, int(positives[chosen].sum()), ap, dict(zip(KINDS, counts[:, chosen].sum(1).tolist())), gains
            )

        return [row(name, slice(None)), *(row(each, slice(k, k + 1)) for k, each in enumerate(class_names))]

    def _repaired(self, repair: str, costs: Bools, boxes_in: Bools, positives: Ints) -> Floats:
        """[C] AP after one repair. costs: [N], the detections that AP counts; boxes_in: [M], the boxes."""
        hit = self.kind == _HIT
        if repair == "missed":
            gone = np.bincount(self.box_label[self.missed & boxes_in], minlength=len(positives))
            return average_precisions(self.label[costs], hit[costs], positives - gone)
        if repair == "false negatives":
            found = np.bincount(self.box_label[self.found & boxes_in], minlength=len(positives))
            return average_precisions(self.label[costs], hit[costs], found)
        if repair == "false positives":
            return average_precisions(self.label[costs & hit], hit[costs & hit], positives)
        kind = KINDS.index(repair)
        mended = (self.kind == kind) & self.chosen
        kept = np.where(mended, np.append(boxes_in, False)[self.target], costs & (self.kind != kind))
        label = np.where(mended, np.append(self.box_label, -1)[self.target], self.label)
        return average_precisions(label[kept], (hit | mended)[kept], positives)


def _detections(image: int, m: Matched, real: Ints, start: int, background: float) -> tuple[NDArray[Any], ...]:
    """The columns image, place, label, score, area, kind, target and crowd of `_Table`.

    real: the boxes that are no crowd, which have the numbers from `start` on.
    """
    kind, target = np.full(len(m.truth), BACKGROUND), np.full(len(m.truth), -1)
    hits = m.truth >= 0
    kind[hits], target[hits] = _HIT, start + np.searchsorted(real, m.truth[hits])
    wrong = (~hits).nonzero()[0]
    if len(real) and len(wrong):
        overlap = m.overlaps()[np.ix_(wrong, real)]
        of_class = m.labels[wrong, None] == m.record.labels[real]
        own, other = np.where(of_class, overlap, 0), np.where(of_class, 0, overlap)
        found = np.where(~m.missed[real], own, 0)
        best = own.max(1)
        tests = [
            (best >= background) & (best <= m.iou), other.max(1) >= m.iou, found.max(1) >= m.iou,
            overlap.max(1) <= background,
        ]  # fmt: skip
        kind[wrong] = np.select(tests, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
        about = np.select(tests, [own.argmax(1), other.argmax(1), found.argmax(1), -1], overlap.argmax(1))
        target[wrong] = np.where(about >= 0, about + start, -1)
    areas = (m.boxes[:, 2:] - m.boxes[:, :2]).prod(1)
    images, places = np.full(len(kind), image), np.arange(len(kind))
    return images, places, m.labels, m.scores, areas, kind, target, m.truth == IGNORED


def average_precisions(labels: Ints, hits: Bools, positives: Ints) -> Floats:
    """[C] COCO's AP at 101 recalls of each class.

    labels, hits: [N], of detections with the best score first. positives: [C] the boxes of each class.
    A class without boxes has 0 where something was found, and nan where nothing was.
    """
    order = np.argsort(labels, kind="stable")
    hits, ends = hits[order], np.cumsum(np.bincount(labels, minlength=len(positives)))
    result = np.full(len(positives), np.nan)
    for k, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist())):
        if end == start or not positives[k]:
            result[k] = 0.0 if end > start or positives[k] else np.nan
            continue
        found = hits[start:end].cumsum()
        precision = found / np.arange(1, end - start + 1)
        precision = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        result[k] = precision[np.searchsorted(found / positives[k], RECALLS)].mean()
    return result


def _mean(values: Floats) -> float:
    """The mean of what is defined."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def _gain(after: float, before: float) -> float:
    return 0.0 if after < before else after - before


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) else np.zeros(0, np.int64)
