"""Boxes of COCO annotations: from `bbox`, turned where CVAT says so, from a polygon or mask where there is none, and
from corners in its place."""

import math
from itertools import accumulate
from typing import Any

from .losses import all_fit, coco_corners
from .raw import Box, RawSplit, box_around
from .text import number, numbers

_OUTSIDE = 0.02  # of a picture's side


def box_of(entry: dict[str, Any], size: tuple[int, int] | None) -> tuple[Box | None, str]:
    """(xyxy of an annotation of a picture (height, width), None where it has no box; what it is the enclosing box of,
    or "")."""
    values = entry.get("bbox")
    known = numbers(values) if isinstance(values, list) and len(values) == 4 else None
    if known is not None and any(known):
        x, y, width, height = known
        if degrees := rotation_of(entry):
            return box_around(x + width / 2, y + height / 2, width, height, math.radians(degrees)), "a rotated box"
        return (x, y, x + width, y + height), ""
    if known is None and values not in (None, []):
        return None, ""
    found = _of_segmentation(entry.get("segmentation"), size)
    if found is not None:
        return found, "the segmentation; there is no bbox"
    return (None if known is None else (0.0, 0.0, 0.0, 0.0)), ""


def rotation_of(entry: dict[str, Any]) -> float:
    """CVAT's attribute of a rotated rectangle, whose bbox it states before it is turned, with an empty segmentation; in
    degrees."""
    attributes = entry.get("attributes")
    if entry.get("segmentation") or not isinstance(attributes, dict):
        return 0.0
    degrees = number(attributes.get("rotation"))
    return degrees if degrees is not None and math.isfinite(degrees) else 0.0


def _of_segmentation(segmentation: Any, size: tuple[int, int] | None) -> Box | None:
    """The box around polygons [[x1, y1, x2, y2, ...], ...], without parts of fewer than three points, or around a mask
    {"size": [h, w], "counts": ...}."""
    if isinstance(segmentation, dict):
        return _of_mask(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = [segmentation] if _flat(segmentation) is not None else segmentation
    values: list[float] = []
    for polygon in polygons:
        known = _flat(polygon)
        if known is None or len(known) % 2:
            return None
        values += known if len(known) >= 6 else []  # a stray point or line is no polygon
    return (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])) if values else None


def _flat(polygon: Any) -> list[float] | None:
    """[x1, y1, x2, y2, ...] of a polygon that is written so, as pairs [[x1, y1], ...] or as [{"x": x1, "y": y1}, ...];
    None where it is none of these."""
    if not isinstance(polygon, list):
        return None
    points = [[point.get("x"), point.get("y")] if isinstance(point, dict) else point for point in polygon]
    if points and all(isinstance(point, list) and len(point) == 2 for point in points):
        points = [value for point in points for value in point]
    return numbers(points)


def _of_mask(mask: dict[str, Any]) -> Box | None:
    """Of run lengths, column by column, that begin with a run of background."""
    counts, stated = mask.get("counts"), mask.get("size")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    sides = numbers(stated) if isinstance(stated, list) and len(stated) == 2 else None
    if sides is None or not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        return None
    height = int(sides[0])
    ends = list(accumulate(runs))
    spans = [(start, end - 1) for start, end in zip(ends[::2], ends[1::2]) if end > start]
    if not spans or height < 1 or ends[-1] > height * sides[1]:
        return None
    tall = any(start // height != end // height for start, end in spans)  # one that goes on in the next column
    top = 0 if tall else min(start % height for start, _ in spans)
    bottom = height if tall else max(end % height for _, end in spans) + 1
    return float(spans[0][0] // height), float(top), float(spans[-1][1] // height + 1), float(bottom)


def _decompress(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed form: five bits a character from "0" on, the sixth says that more follow, and
    from the fourth run on the difference to the run two before."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 60:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def settle_corners(raw: RawSplit, where: str) -> None:
    """Read corners as corners where every `bbox` of the split can only be x1 y1 x2 y2: all of them are boxes of their
    pictures that way, and the stated areas are theirs, or most reach outside as x, y, width, height."""
    if not all_fit(raw, coco_corners):
        return
    boxes = [(box, image.size) for image, box in raw.boxes if box.box is not None and image.size is not None]
    by_area = outside = 0
    for box, (height, width) in boxes:
        assert box.box is not None
        x1, y1, x2, y2 = coco_corners(box.box, (height, width))
        own = (x2 - x1) * (y2 - y1)
        by_area += box.area is not None and abs(box.area - own) <= 0.02 * own + 1 < abs(box.area - x2 * y2)
        outside += box.box[2] > width * (1 + _OUTSIDE) or box.box[3] > height * (1 + _OUTSIDE)
    if by_area == len(boxes) or (outside > len(boxes) / 2 and outside > 4):
        for box, size in boxes:
            assert box.box is not None
            box.box = coco_corners(box.box, size)
        raw.report("corner_box", where, f"bbox of all {len(boxes)} boxes holds x1 y1 x2 y2")
