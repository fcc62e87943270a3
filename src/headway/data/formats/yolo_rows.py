"""The rows of YOLO label files: boxes, polygons and poses, told apart by all rows of a split.

Nothing in a row says which of them it is. What fits none, or two, is refused with its cause.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from .raw import Box, RawBox, RawImage, RawSplit
from .text import number, numbers, read_text

_EXPECTED = "'class cx cy width height', or a polygon 'class x1 y1 x2 y2 x3 y3 ...'"
_MOST = 0.8  # of the rows that have to fit a reading
_RINGS = 200  # rows whose outlines are examined for crossings


class Row(NamedTuple):
    image: RawImage
    mark: str
    label: int
    words: list[str]  # behind the class


def read_rows(file: Path, image: RawImage, raw: RawSplit) -> list[Row]:
    """The rows of a label file that have a class and four numbers or more; the others go to `problems`."""
    try:
        lines = read_text(file, raw.report).splitlines()
    except DataError as error:
        raw.report("unreadable_annotation", image.where, str(error))
        return []
    found = []
    for position, line in enumerate(lines):
        words = line.split()
        if not words:
            continue
        mark = f"line {position + 1}"
        label = number(words[0])
        if cause := _fault(words, label):
            _refuse(raw, image, mark, words, cause)
        else:
            assert label is not None
            found.append(Row(image, mark, int(label), words[1:]))
    return found


def _fault(words: list[str], label: float | None) -> str:
    """What is wrong with a row as such and what to do, or ""."""
    values = words[1:]
    if len(values) > 3 and all(re.fullmatch(r"-?\d*,\d+", word) for word in values):
        return "decimal commas; write decimal points, 0.25"
    line = " ".join(words)
    if re.search(r"[,;]", line) and numbers(re.split(r"[,;\s]+", line.strip(",; "))) is not None:
        return f"values separated by commas; expected spaces, as in {_EXPECTED}"
    if len(values) > 3 and label is None and numbers(words[-4:]) is not None:
        return f"a name, {words[0][:30]!r}, in place of the class number; write its number in the list of names, from 0"
    if len(values) < 4 or label is None:
        return f"expected {_EXPECTED}"
    if label == label // 1 and 0 <= label <= 1e6:
        return ""
    return f"the class number must be whole and 0 or more, got {words[0][:30]}; expected {_EXPECTED}"


def _refuse(raw: RawSplit, image: RawImage, mark: str, words: list[str], cause: str) -> None:
    raw.report("unreadable_annotation", f"{image.where}, {mark}", f"{' '.join(words)[:60]!r}: {cause}")


def add_boxes(rows: list[Row], raw: RawSplit, *, keypoints: bool) -> None:
    """Rows to boxes of their pictures; whether longer ones are polygons or poses is decided by all of them.

    keypoints: they are poses, data.yaml says so.
    """
    long = [known for row in rows if len(row.words) > 4 and (known := numbers(row.words)) is not None]
    tracks = not keypoints and _are_tracks(long)
    poses = keypoints or (not tracks and _are_poses(long))
    first = next((row for row in rows if len(row.words) > 4), None)
    unsure = poses and not keypoints and _are_outlines(long)
    if first and poses and not keypoints:
        if unsure:
            raw.report("two_readings", f"{first.image.where}, {first.mark}", _both(long))
        else:
            raw.report("pose_row", first.image.where, f"{len(long)} rows of a box and key points")
    for row in rows:
        assert row.image.size is not None
        polygon = len(row.words) > 4 and not poses
        if polygon and (cause := _no_polygon(row.words, tracks)):
            _refuse(raw, row.image, row.mark, [str(row.label), *row.words], cause)
        elif len(row.words) == 4 or not unsure:
            box = _to_pixels(row.words if polygon else row.words[:4], row.image.size, polygon)
            row.image.boxes.append(RawBox(box, row.label, row.mark))


def _both(rows: list[list[float]]) -> str:
    """The two readings of rows and what tells them apart."""
    count = len(rows[0])
    return (
        f"{len(rows)} rows of {count} numbers behind the class are outlines of {count // 2} points, or a box and "
        f"{count // 2 - 2} key points; for poses state kpt_shape: [{count // 2 - 2}, 2] in data.yaml, for outlines "
        "repeat the first point at the end of each row, or export boxes"
    )


def _no_polygon(words: list[str], tracks: bool) -> str:
    """Why a row that is no pose is no polygon either, and what to do; or ""."""
    if tracks:
        return "a box with confidence and track number, as a tracker writes; leave the last two columns out"
    if len(words) == 5 and numbers(words) is not None:
        return "one number more than a box, such as the confidence of a prediction; leave the last column out"
    return f"expected {_EXPECTED}" if len(words) % 2 or len(words) < 6 else ""


def _are_tracks(rows: list[list[float]]) -> bool:
    """Whether all rows are a box in the picture, a confidence and the whole number of a track, in either order. As a
    triangle each would have its last corner on the picture's border, or far outside."""
    if not rows or {len(row) for row in rows} != {6}:
        return False
    inside = all(size / 2 <= min(centre, 1 - centre) + 0.02 for row in rows for centre, size in zip(row[:2], row[2:4]))
    orders = ((4, 5), (5, 4))
    return inside and any(all(0 <= row[c] <= 1 and row[t] % 1 == 0 for row in rows) for c, t in orders)


def _are_poses(rows: list[list[float]]) -> bool:
    """Whether rows without their class can be a box and key points, all alike: either each third number behind the box
    is a visibility of 0, 1 or 2; or all points lie in the box, and it is little larger than they spread.

    The first two corners of a polygon seldom say that in row after row, but those of alike objects in one place do: see
    `_are_outlines`. Rows that end where they begin are polygons.
    """
    counts = {len(row) - 4 for row in rows}
    if len(counts) != 1:
        return False
    count = counts.pop()
    if count % 3 == 0 and count > 3 and _have_visibility(rows):
        return True
    if count % 2 or count < 4 or len(rows) < 2 or sum(row[:2] == row[-2:] for row in rows) >= _MOST * len(rows):
        return False
    framed = sum(map(_frames, rows)) >= _MOST * len(rows)
    return framed and (count > 4 or not _are_outlines(rows))  # eight numbers are usually a rotated box


def _have_visibility(rows: list[list[float]]) -> bool:
    count = len(rows[0]) - 4
    marks = {mark for row in rows for mark in row[6::3]}
    return count % 3 == 0 and marks <= {0.0, 1.0, 2.0} and (2.0 in marks or count % 2 == 1 or count > 6)


def _frames(row: list[float]) -> bool:
    """Whether a box (centre, size) holds all points x, y behind it, and is at most five times as large as they spread;
    points that are not marked are 0, 0."""
    points = [point for point in zip(row[4::2], row[5::2]) if any(point)]
    if len(points) < 2:
        return not points
    return all(
        max(abs(value - centre) for value in values) <= side / 2 + 0.01 and side <= 5 * (max(values) - min(values))
        for centre, side, values in zip(row[:2], row[2:4], zip(*points))
    )


def _are_outlines(rows: list[list[float]]) -> bool:
    """Whether rows can be polygons: most do not cross themselves, as the ring through the centre of a box, its size and
    key points in their order would."""
    if not rows or len(rows[0]) % 2 or _have_visibility(rows):
        return False
    some = rows[:: -(-len(rows) // _RINGS)]
    return sum(map(_is_ring, some)) >= _MOST * len(some)


def _is_ring(row: list[float]) -> bool:
    """Whether the outline through points x, y passes no point twice and crosses no edge of its own."""
    points = np.array(row, np.float64).reshape(-1, 2)
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    if len(np.unique(points, axis=0)) < max(len(points), 3):
        return False
    ends = np.roll(points, -1, axis=0)
    edges = ends - points

    def sides(others: np.ndarray) -> np.ndarray:
        """[i, j]: on which side of edge i the point j lies."""
        offsets = others[None] - points[:, None]
        return edges[:, None, 0] * offsets[..., 1] - edges[:, None, 1] * offsets[..., 0]

    straddles = sides(points) * sides(ends) < 0
    return not np.any(straddles & straddles.T)


def _to_pixels(values: list[str], size: tuple[int, int], polygon: bool) -> Box | None:
    known = numbers(values)
    if known is None:
        return None
    height, width = size
    if polygon:
        xs, ys = known[0::2], known[1::2]
        return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height
    cx, cy, w, h = known
    return (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height
