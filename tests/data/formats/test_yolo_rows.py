"""Rows of YOLO label files that fit two readings, and rows that fit none."""

import math

import builders as make
import pytest

from headway.data.formats.any_format import open_dataset
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.errors import DataError

SQUARES = ((0.4, 0.4, 0.6, 0.58), (0.5, 0.5, 0.7, 0.7), (0.6, 0.45, 0.8, 0.6))


def labelled(folder, rows):
    """One row a picture, behind the class 0."""
    names = [f"{number}.jpg" for number in range(len(rows))]
    make.pictures(folder / "images", names)
    (folder / "labels").mkdir()
    for number, row in enumerate(rows):
        line = row if isinstance(row, str) else "0 " + " ".join(f"{value:.4f}" for value in row)
        (folder / "labels" / f"{number}.txt").write_text(line + "\n")
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    return folder


def circle(cx, cy, radius, count):
    angles = [2 * math.pi * step / count for step in range(count)]
    return [value for a in angles for value in (cx + radius * math.cos(a), cy + radius * math.sin(a))]


def test_closed_rectangles_are_polygons(tmp_path):
    """Of alike objects below the middle; read as box and key points, centre (x1, y1) and size (x2, y1)."""
    folder = labelled(tmp_path, [(a, b, c, b, c, d, a, d, a, b) for a, b, c, d in SQUARES])
    data = open_dataset(folder)
    assert data.notes == []
    width, height = make.SIZE
    for record, (a, b, c, d) in zip(data.records, SQUARES):
        assert record.boxes[0].tolist() == pytest.approx([a * width, b * height, c * width, d * height], abs=0.01)


@pytest.mark.parametrize("count", [8, 32])
def test_outlines_that_may_be_poses_are_refused(tmp_path, count):
    circles = [circle(0.5, 0.5, 0.1, count), circle(0.4, 0.6, 0.08, count), circle(0.6, 0.6, 0.12, count)]
    folder = labelled(tmp_path / "data", circles)
    message = f"two readings.*outlines of {count} points, or a box and {count - 2} key points.*kpt_shape:"
    with pytest.raises(DataError, match=message):
        open_dataset(folder)
    assert [problem.where for problem in check(folder).by_kind()["two_readings"]] == ["train: labels/0.txt, line 1"]
    with pytest.raises(DataError, match="yours to decide"):
        fix(folder, tmp_path / "fixed")
    with (folder / "data.yaml").open("a") as stream:
        stream.write(f"kpt_shape: [{count - 2}, 2]\n")
    assert check(folder).ok
    closed = labelled(tmp_path / "closed", [[*row, *row[:2]] for row in circles])  # the other remedy
    assert open_dataset(closed).records[0].boxes[0].tolist() == pytest.approx([25.6, 19.2, 38.4, 28.8], abs=0.01)


def test_key_points_that_make_no_outline_stay_poses(tmp_path):
    """Two and four points in the box; the way through centre, size and points crosses itself."""
    for points in ([0.35, 0.4, 0.55, 0.7], [0.4, 0.4, 0.6, 0.6, 0.6, 0.4, 0.4, 0.6]):
        folder = labelled(tmp_path / str(len(points)), [[0.5, 0.5, 0.4, 0.6, *points]] * 3)
        data = open_dataset(folder)
        assert data.records[0].boxes[0].tolist() == pytest.approx([0.3 * 64, 0.2 * 48, 0.7 * 64, 0.8 * 48], abs=0.01)
        assert "key points" in data.notes[0]


def test_triangles_stay_polygons(tmp_path):
    rows = [(0.2, 0.2, 0.5, 0.3, 0.3, 0.6), (0.5, 0.5, 0.3, 0.25, 0.9, 1.0)]
    assert open_dataset(labelled(tmp_path, rows)).num_boxes == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.25 0.25 0.3 0.25 0.91 3", "confidence and track number.*leave the last two columns out"),
        ("0 0.25 0.25 0.3 0.25 1 1", "confidence and track number"),
        ("0 0.25 0.25 0.3 0.25 0.91", "confidence of a prediction; leave the last column out"),
        ("0,0.25,0.25,0.3,0.25", "separated by commas; expected spaces, as in 'class cx cy width height'"),
        ("0, 0.25, 0.25, 0.3, 0.25", "separated by commas; expected spaces, as in 'class cx cy width height'"),
        ("0 0,25 0,25 0,3 0,25", "decimal commas; write decimal points"),
        ("cat 0.25 0.25 0.3 0.25", "a name, 'cat', in place of the class number"),
        ("-1 0.25 0.25 0.3 0.25", "whole and 0 or more, got -1"),
        ("0 0.25 0.25 0.3", "expected 'class cx cy width height'"),
    ],
)
def test_rows_that_cannot_be_read_name_the_cause(tmp_path, row, message):
    with pytest.raises(DataError, match=rf"labels/0\.txt, line 1: .*{message}"):
        open_dataset(labelled(tmp_path, [row] * 3))
