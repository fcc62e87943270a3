"""Annotations as tools and people write them: read as they are meant, or refused with the cause."""

import json

import builders as make
import pytest

from headway.data.formats.any_format import open_dataset
from headway.data.formats.fix import fix


def coco_boxes(folder, rows, **more):
    """What is read of annotations of a.jpg."""
    content = {**make.coco_content(), **more}
    content["annotations"] = [{"id": i + 1, "image_id": 1, "category_id": 1, **row} for i, row in enumerate(rows)]
    return open_dataset(make.coco(folder, content))


def test_rotated_rectangles_of_cvat_are_enclosed(tmp_path):
    """CVAT's COCO 1.0 states a rectangle before it is turned about its centre: 20 x 8 at (30, 20), by 90 degrees
    20 high and 8 wide; by 45 degrees 28 / sqrt(2) = 19.799 both ways."""
    rows = [
        {"bbox": [20, 16, 20, 8], "segmentation": [], "attributes": {"occluded": False, "rotation": degrees}}
        for degrees in (90.0, 45.0, 0.0)
    ]
    data = coco_boxes(tmp_path / "in", rows)
    expected = [[26, 10, 34, 30], [20.1005, 10.1005, 39.8995, 29.8995], [20, 16, 40, 24]]
    for box, true in zip(data.records[0].boxes.tolist(), expected, strict=True):
        assert box == pytest.approx(true, abs=1e-3)
    assert any("rotated box" in note for note in data.notes)


def test_a_written_copy_does_not_turn_twice(tmp_path):
    row = {"bbox": [20, 16, 20, 8], "segmentation": [], "attributes": {"occluded": True, "rotation": 90}}
    coco_boxes(tmp_path / "in", [row])
    fix(tmp_path / "in", tmp_path / "out")
    assert open_dataset(tmp_path / "out").records[0].boxes.tolist() == [[26, 10, 34, 30]]
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert written["annotations"][0]["attributes"] == {"occluded": True}


def test_a_polygon_that_states_a_rotation_is_not_turned(tmp_path):
    outline = [[20, 16, 40, 16, 40, 24, 20, 24]]
    data = coco_boxes(tmp_path, [{"bbox": [20, 16, 20, 8], "segmentation": outline, "attributes": {"rotation": 90}}])
    assert data.records[0].boxes.tolist() == [[20, 16, 40, 24]]


def edit_xml(folder, *changes):
    for file in (folder / "Annotations").iterdir():
        text = file.read_text()
        for old, new in changes:
            text = text.replace(old, new)
        file.write_text(text)
    return folder


MIXED = [(f"{slash}{tag}", f"{slash}{tag.title()}") for tag in ("object>", "bndbox>", "annotation>") for slash in "</"]


@pytest.mark.parametrize(
    "changes",
    [
        MIXED,
        [("xmin>", "XMIN>"), ("filename>", "fileName>")],
        [("<annotation>", '<annotation xmlns="http://example.org/voc">')],
        [("<annotation>", '<v:annotation xmlns:v="http://example.org/voc">'), ("</annotation>", "</v:annotation>")],
    ],
    ids=["mixed", "upper", "namespace", "prefix"],
)
def test_tags_of_any_case_and_namespace(tmp_path, changes):
    """<Object> and <BndBox> used to be pictures without boxes, a namespace no data set."""
    assert make.truth(open_dataset(edit_xml(make.voc(tmp_path), *changes))) == make.EXPECTED


def test_every_bndbox_of_an_object_is_read(tmp_path):
    folder = make.voc(tmp_path / "in")
    frame = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
    edit_xml(folder, ("</bndbox></object>", f"</bndbox>{frame}</object>"))
    more = {"a.jpg": [((1, 2, 9, 8), "cat"), ((1, 2, 9, 8), "dog")], "b.jpg": [((1, 2, 9, 8), "dog")], "c.jpg": []}
    expected = {name: sorted(boxes + more[name]) for name, boxes in make.EXPECTED.items()}
    assert make.truth(open_dataset(folder)) == expected
    fix(folder, tmp_path / "out")
    assert make.truth(open_dataset(tmp_path / "out")) == expected
