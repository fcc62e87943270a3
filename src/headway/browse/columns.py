"""All that the page knows, as columns of whole numbers: a few arrays open faster than a million objects.

Every box of every picture is one row: a label, a detection of a run, a label that a run missed, or a label mistake. The
rows of picture i are start[i] to start[i + 1]. Coordinates count 10,000 for the longer side of the picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..data.dataset import Record
from ..drawing import class_colour
from ..evaluate.kinds import KINDS as ERRORS
from ..evaluate.kinds import MISSED, SIZES, Errors
from .judge import Judged
from .problems import Finding, meanings
from .runs import Joined, Run
from .suspects import KINDS as SUSPECTS
from .thumbnails import Thumbnail

LONG = 10_000
CROWD = "crowd"
FINDINGS = ("", *ERRORS, *SUSPECTS, CROWD)
COLUMNS = ("x1", "y1", "x2", "y2", "label", "layer", "size", "score", "finding", "other")
LABELS = 0  # the layer of the labels; the run of number r has layer r + 1, label mistakes the last one

Row = tuple[Sequence[float], int, int, float, float, str, int]  # box, label, layer, area, score, finding, other


def page_data(
    joined: Joined, runs: Sequence[Run], judged: Sequence[Judged], thumbnails: Sequence[Thumbnail],
    problems: Mapping[int, Sequence[Finding]], page: Path,
) -> dict[str, Any]:  # fmt: skip
    """What the page holds. problems: by the number of the record. page: the folder in which it lies."""
    data = joined.data
    boxes: dict[str, list[int]] = {name: [] for name in COLUMNS}
    start = [0]
    errors = [run.errors(data.class_names).errors for run in runs]
    by_image = [_by_image(found) for found in errors]
    for i, (record, thumbnail) in enumerate(zip(data.records, thumbnails)):
        size = thumbnail.size if thumbnail.size[0] else record.size or (LONG, LONG)
        looked = [r for r, run in enumerate(runs) if int(joined.split[i]) in run.covered]
        rows = [*_labels(record)]
        for r in looked:
            rows += _detections(runs[r], r + 1, i, errors[r], by_image[r].get(i, ()))
        rows += _mistakes(judged[i], record, len(runs) + 1)
        for row in rows:
            _append(boxes, row, LONG / max(size))
        start.append(len(boxes["x1"]))
    kinds = sorted({finding.kind for found in problems.values() for finding in found})
    return {
        "classes": list(data.class_names),
        "colours": ["#{:02x}{:02x}{:02x}".format(*class_colour(label)) for label in range(len(data.class_names))],
        "splits": list(joined.names), "sizes": [name for name, *_ in SIZES], "findings": list(FINDINGS),
        "errors": list(ERRORS), "suspects": list(SUSPECTS),
        "runs": [_run(run) for run in runs],
        "kinds": [[kind, *meanings().get(kind, ("error", "picture that cannot be shown"))] for kind in kinds],
        "problems": {
            str(i): [[kinds.index(finding.kind), finding.detail] for finding in found]
            for i, found in problems.items() if found
        },
        "pictures": _pictures(joined, runs, judged, thumbnails, page), "start": start, "boxes": boxes,
    }  # fmt: skip


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name, "threshold": round(run.threshold, 4), "sure": round(run.sure, 4),
        "splits": sorted(run.covered),
    }  # fmt: skip


def _pictures(
    joined: Joined, runs: Sequence[Run], judged: Sequence[Judged], thumbnails: Sequence[Thumbnail], page: Path
) -> dict[str, list[Any]]:
    """Columns of pictures. original: its address from the page, empty where a browser does not open it."""
    records = joined.data.records
    sizes = [thumbnail.size for thumbnail in thumbnails]
    return {
        "name": names_of(records, joined.data.root),
        "split": joined.split.tolist(),
        "height": [height for height, _ in sizes], "width": [width for _, width in sizes],
        "original": [_original(i, r, t, page) for i, (r, t) in enumerate(zip(records, thumbnails))],
        "cost": [[_rounded(j.costs.get(r)) for j in judged] for r in range(len(runs))],
        "loss": [None if run.losses is None else [_rounded(v) for v in run.losses.tolist()] for run in runs],
        "disagreement": [_rounded(j.disagreement) for j in judged],
    }  # fmt: skip


def names_of(records: Sequence[Record], root: Path) -> list[str]:
    """Each picture's path in the data set, in UTF-8."""
    folder = os.path.abspath(root if root.is_dir() else root.parent)
    found = []
    for record in records:
        path = os.path.abspath(record.path) if record.source is None else str(record.path)
        inside = path.removeprefix(folder).lstrip(os.sep) if path.startswith(folder + os.sep) else record.path.name
        found.append(inside.replace(os.sep, "/").encode(errors="surrogateescape").decode(errors="replace"))
    return found


def _original(number: int, record: Record, thumbnail: Thumbnail, page: Path) -> str:
    if not thumbnail.size[0]:
        return ""
    if thumbnail.large:
        return f"pictures/{number}-large.jpg"
    path = Path(os.path.abspath(record.path))
    try:
        return quote(os.fsencode(Path(os.path.relpath(path, page.resolve())).as_posix()))
    except ValueError:  # another drive
        return path.as_uri()


def _labels(record: Record) -> Iterator[Row]:
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.areas.tolist(), record.crowd.tolist())
    for box, label, area, crowd in rows:
        yield box, label, LABELS, area, 0.0, CROWD if crowd else "", -1


def _by_image(errors: Errors) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, image in enumerate(errors.image.tolist()):
        found.setdefault(image, []).append(number)
    return found


def _detections(run: Run, layer: int, image: int, errors: Errors, numbers: Sequence[int]) -> Iterator[Row]:
    """The detections of a picture that count, with the kind of error they are, and the labels that were missed."""
    m = run.kept[image]
    kinds, others = [""] * len(m.scores), [-1] * len(m.scores)
    for e in numbers:
        kind, d, truth = int(errors.kind[e]), int(errors.detection[e]), int(errors.truth[e])
        label = int(m.record.labels[truth]) if truth >= 0 else -1
        if kind == MISSED:
            yield m.record.boxes[truth].tolist(), label, layer, float(m.record.areas[truth]), 0.0, ERRORS[kind], -1
        elif not errors.crowd[e]:
            kinds[d], others[d] = ERRORS[kind], label
    for box, label, score, kind, other in zip(m.boxes.tolist(), m.labels.tolist(), m.scores.tolist(), kinds, others):
        yield box, label, layer, _area(box), score, kind, other if other != label else -1


def _mistakes(judged: Judged, record: Record, layer: int) -> Iterator[Row]:
    for suspect in judged.suspects:
        area = float(record.areas[suspect.truth]) if suspect.truth >= 0 else _area(suspect.box)
        yield suspect.box, suspect.label, layer, area, suspect.score, suspect.kind, suspect.other


def _append(boxes: dict[str, list[int]], row: Row, scale: float) -> None:
    box, label, layer, area, score, finding, other = row
    size = next((number for number, (_, low, high) in enumerate(SIZES) if low <= area < high), 0)
    sides = (round(min(max(v * scale, -LONG), 2 * LONG)) for v in box)  # a column has 32 bits
    values = (*sides, label, layer, size, round(score * 1000), FINDINGS.index(finding), other)
    for name, value in zip(COLUMNS, values):
        boxes[name].append(value)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if value is not None and math.isfinite(value) else None
