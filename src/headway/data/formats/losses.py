"""Boxes that are lost or misread by the data set, not one by one: all of a split or a class, or more than a tenth.

Training on what is left would be silent damage, so that is an error, and it names the cause.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable

from .problem_kinds import KINDS, Problem
from .raw import Box, RawBox, RawImage, RawSplit, judge

_SHARE = 0.1  # of the boxes of a split that may be left out for one cause, each for itself
_SLACK = 0.02  # of a picture's side, by which a box may reach outside and still be one that was meant to lie inside
_FAR = 0.05  # of a picture's side: a box that reaches so far outside was not drawn in this picture


def mark_losses(raw: RawSplit) -> None:
    """Report "boxes_lost" ahead of the split's other problems, where boxes are lost to one cause."""
    boxes = [(image, box, image.size) for image, box in raw.boxes if image.size is not None and not box.crowd]
    unlisted = [problem for problem in raw.problems if problem.kind == "unknown_image"]
    total = len(boxes) + len(unlisted)
    lost: dict[str, list[tuple[RawImage, RawBox]]] = defaultdict(list)
    far = 0
    for image, box, size in boxes:
        clipped, kind = judge(box.box, size)
        if clipped is None and kind:
            lost[kind].append((image, box))
        elif box.box is not None:
            far += _reach(box.box, size) > _FAR
    if reason := _misread(raw):
        raw.problems.insert(0, Problem("boxes_lost", _place(raw), f"{total} boxes: {reason}"))
        return
    found = []
    for kind, cases in lost.items():
        classes = _whole_classes(boxes, cases, raw)
        if _too_many(len(cases), total) or classes:
            of = f", all of class {', '.join(classes[:5])}" if classes and len(cases) < total else ""
            found.append(f"{len(cases)} of {total} boxes{of}: {KINDS[kind].meaning}{_cause(raw, kind, cases)}")
    if _too_many(len(unlisted), total):
        found.append(f"{len(unlisted)} of {total} boxes: {KINDS['unknown_image'].meaning}, {unlisted[0].detail}")
    if not found and (far > len(boxes) / 2 or (far > _SHARE * total and total > 2 and _are_corners(raw))):
        found.append(f"{far} of {total} boxes reach far outside their pictures{_shape_cause(raw)}")
    raw.problems[:0] = [Problem("boxes_lost", _place(raw), detail) for detail in found]


def _place(raw: RawSplit) -> str:
    return "annotations" if raw.format == "coco" else "labels"


def _too_many(lost: int, total: int) -> bool:
    return 0 < lost == total or (lost > 1 and lost > _SHARE * total)


def _whole_classes(
    boxes: list[tuple[RawImage, RawBox, tuple[int, int]]], cases: list[tuple[RawImage, RawBox]], raw: RawSplit
) -> list[str]:
    """Names of the classes that lose all boxes, of several."""
    have = Counter(box.label for _, box, _ in boxes)
    lose = Counter(box.label for _, box in cases)
    return [raw.categories[label][1] for label, n in lose.items() if label >= 0 and 1 < n == have[label]]


def _cause(raw: RawSplit, kind: str, cases: list[tuple[RawImage, RawBox]]) -> str:
    """What explains boxes of one fault, with the first case."""
    image, box = cases[0]
    first = f"; first {image.where}, {box.mark}"
    if kind == "box_malformed":
        return f"{first}; expected {_EXPECTED[raw.format]}"
    return f"{_shape_cause(raw)}{first}" if kind in ("box_off_image", "box_outside") else first


_EXPECTED = {
    "coco": "bbox [x, y, width, height] in pixels, or a polygon in 'segmentation'",
    "voc": "xmin, ymin, xmax, ymax in pixels",
    "yolo": "'class cx cy width height' in fractions of the picture's sides, 0..1",
    "tar": "bbox [x, y, width, height] in pixels, or rows in fractions of the picture's sides",
}


def _shape_cause(raw: RawSplit) -> str:
    """Why boxes lie outside."""
    if raw.format == "yolo":
        top = max((value for value in _stated_values(raw) if math.isfinite(value)), default=0.0)
        if top > 1.5:
            return f": values up to {top:g} look like pixels or per cent; expected {_EXPECTED['yolo']}"
    if _are_corners(raw):
        return f": they look like corners, x1 y1 x2 y2; expected {_EXPECTED[raw.format]}"
    return f": the boxes belong to pictures of another size; expected {_EXPECTED[raw.format]}"


def _are_corners(raw: RawSplit) -> bool:
    """Whether each box, taken as x1 y1 x2 y2 where the format states a size, lies in its picture."""
    return raw.format != "voc" and all_fit(raw, yolo_corners if raw.format == "yolo" else coco_corners)


def _stated_values(raw: RawSplit) -> list[float]:
    """The numbers of YOLO's rows."""
    values = []
    for image, box in raw.boxes:
        if box.box is not None and image.size is not None:
            x1, y1, x2, y2 = box.box
            height, width = image.size
            values += [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return values


def _misread(raw: RawSplit) -> str:
    """A convention that would make boxes of this split that are all usable, but wrong."""
    boxes = [box.box for _, box in raw.boxes if box.box is not None]
    swapped = sum(x2 <= x1 or y2 <= y1 for x1, y1, x2, y2 in boxes)
    if raw.format == "voc" and swapped > max(1, _SHARE * len(boxes)) and all_fit(raw, _voc_sizes):
        return f"xmax and ymax look like width and height; expected {_EXPECTED['voc']}"
    known = [image.size for image in raw.images if image.size is not None and image.boxes]
    if raw.format != "yolo" and boxes and max(map(max, boxes)) <= 1.01 and min(map(min, known), default=0) > 4:
        return f"all coordinates are at most 1, which looks like fractions; expected {_EXPECTED[raw.format]}"
    return ""


def _reach(box: Box, size: tuple[int, int]) -> float:
    """How far a box reaches outside, in sides of its picture."""
    height, width = size
    return max(-box[0] / width, -box[1] / height, box[2] / width - 1, box[3] / height - 1)


def all_fit(raw: RawSplit, convert: Callable[[Box, tuple[int, int]], Box]) -> bool:
    """Whether each box of the split, read the other way, has an area and lies in its picture; of two boxes or more."""
    count = 0
    for image, box in raw.boxes:
        if box.box is None or image.size is None:
            continue
        other = convert(box.box, image.size)
        if not (other[0] < other[2] and other[1] < other[3] and _reach(other, image.size) <= _SLACK):
            return False
        count += 1
    return count > 1


def coco_corners(box: Box, size: tuple[int, int]) -> Box:
    """x1 y1 x2 y2 that were read as x, y, width, height."""
    x, y, right, bottom = box
    return x, y, right - x, bottom - y


def yolo_corners(box: Box, size: tuple[int, int]) -> Box:
    """x1 y1 x2 y2 that were read as centre and size."""
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _voc_sizes(box: Box, size: tuple[int, int]) -> Box:
    """x, y, width, height that were read as corners."""
    x, y, width, height = box
    return x, y, x + width, y + height
