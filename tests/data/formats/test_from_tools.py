"""Annotations as tools and people write them: read as they are meant, or refused with the cause."""

import json

import builders as make
import pytest

from headway.data.formats.any_format import open_dataset, open_splits
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.errors import DataError


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


def points(outline, form):
    """An outline of (x, y), as tools write it."""
    return {
        "numbers": [[value for point in outline for value in point]],
        "flat": [value for point in outline for value in point],
        "pairs": [[list(point) for point in outline]],
        "flat pairs": [list(point) for point in outline],
        "objects": [[{"x": x, "y": y} for x, y in outline]],
        "stray point": [[value for point in outline for value in point], [60, 40]],
        "stray line": [[1, 1, 60, 40], [value for point in outline for value in point]],
    }[form]


@pytest.mark.parametrize("form", ["numbers", "flat", "pairs", "flat pairs", "objects", "stray point", "stray line"])
@pytest.mark.parametrize("outline", [[(10, 12), (30, 12), (30, 20)], [(10, 12), (30, 12), (30, 20), (10, 20)]])
def test_polygons_without_a_bbox_in_any_form(tmp_path, form, outline):
    data = coco_boxes(tmp_path, [{"segmentation": points(outline, form)}])
    assert data.records[0].boxes.tolist() == [[10, 12, 30, 20]]


@pytest.mark.parametrize("segmentation", [[[1, 2, 30, 40]], [[1, 2]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[]], [3]])
def test_what_is_no_polygon_has_no_box(tmp_path, segmentation):
    data = coco_boxes(tmp_path, [{"bbox": [1, 2, 30, 40]}, {"segmentation": segmentation}])
    assert data.records[0].boxes.tolist() == [[1, 2, 31, 42]]


def test_key_points_of_cvat_have_boxes(tmp_path):
    """COCO Keypoints 1.0; read alone, and passed over where the boxes have a file of their own."""
    make.pictures(tmp_path / "images" / "default")
    content = make.coco_content()
    make.dump(tmp_path / "annotations" / "person_keypoints_default.json", content)
    assert make.truth(open_dataset(tmp_path)) == make.EXPECTED
    assert make.truth(open_dataset(tmp_path / "annotations" / "person_keypoints_default.json")) == make.EXPECTED
    make.dump(
        tmp_path / "annotations" / "instances_default.json", {**content, "annotations": content["annotations"][:1]}
    )
    assert sum(map(len, make.truth(open_dataset(tmp_path)).values())) == 1


@pytest.mark.parametrize("images", ["images/default", "images", "."])
def test_exports_of_cvat_that_are_unpacked_per_split(tmp_path, images):
    for split in ("train", "val"):
        make.pictures(tmp_path / split / images)
        make.dump(tmp_path / split / "annotations" / "instances_default.json", make.coco_content())
    splits = open_splits(tmp_path)
    assert list(splits) == ["train", "val"]
    for name, data in splits.items():
        assert make.truth(data) == make.EXPECTED
        assert all(record.path.is_relative_to(tmp_path / name) for record in data.records)
    assert list(open_splits(tmp_path / "train")) == ["all"]


def test_ids_of_classes_may_be_text(tmp_path):
    """They used to be refused; the numbers follow the alphabet, so that splits agree."""
    content = make.coco_content()
    ids = {1: "b-cat", 2: "a-dog"}
    for entry in content["annotations"]:
        entry["category_id"] = ids[entry["category_id"]]
    for entry in content["categories"]:
        entry |= {"id": ids[entry["id"]], "supercategory": "pet"}
    make.coco(tmp_path / "in", content)
    make.coco(tmp_path / "in", {**content, "categories": content["categories"][::-1]}, "val")
    for data in open_splits(tmp_path / "in").values():
        assert (data.class_names, data.category_ids) == (("dog", "cat"), (1, 2))
        assert make.truth(data) == make.EXPECTED
    fix(tmp_path / "in", tmp_path / "out")
    assert make.truth(open_splits(tmp_path / "out")["train"]) == make.EXPECTED
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert [category["supercategory"] for category in written["categories"]] == ["pet", "pet"]


def test_a_repeated_class_is_settled_over_all_splits(tmp_path):
    """Roboflow's class of the project's name, which has boxes in one split: the other one used to keep another id."""
    content = make.coco_content()
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(("dog", "dog", "cat"))]
    for entry in content["annotations"]:
        entry["category_id"] = {1: 2, 2: 0}[entry["category_id"]]
    make.coco(tmp_path, content)
    cats = [entry for entry in content["annotations"] if entry["category_id"] == 2]
    make.coco(tmp_path, {**content, "annotations": cats}, "val")
    splits = open_splits(tmp_path)
    assert {(data.class_names, data.category_ids) for data in splits.values()} == {(("dog", "cat"), (0, 2))}
    assert make.truth(splits["train"]) == make.EXPECTED
    assert make.truth(splits["val"])["a.jpg"] == make.EXPECTED["a.jpg"][:1]
    assert check(tmp_path).ok


@pytest.mark.parametrize("names", ["apart", "alike"])
def test_xml_beside_the_pictures_of_several_folders(tmp_path, names):
    """As labelImg leaves them; folders with the same names too."""
    for number in (1, 2):
        base = tmp_path / f"seq{number}"
        for position, (name, boxes) in enumerate(make.TRUTH.items()):
            own = f"{number}{name}" if names == "apart" else name
            make.picture(base / own, number * 5 + position)
            (base / own).with_suffix(".xml").write_text(make.xml(own, boxes))
    make.picture(tmp_path / "seq1" / "later.jpg", 20)
    data = open_dataset(tmp_path)
    assert len(data.records) == 6
    for record in data.records:
        assert len(record.boxes) == len(make.TRUTH[record.path.name.lstrip("12")])
    assert {record.path.parent.name for record in data.records} == {"seq1", "seq2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": ["cat", "dog"]}, r"'categories' to be .*\"name\": \"cat\"}, got str 'cat' in it; correct it"),
        ({"categories": {"1": "cat"}}, r"'categories' to be a list of objects, .*, got dict; correct it"),
        ({"images": [{"id": 1, "filename": "a.jpg"}]}, r"no image has a 'file_name', .* has 'id', 'filename': rename"),
        ({"images": []}, r"image_id 1 is not listed; 'images' lists none that can be read"),
    ],
)
def test_files_that_are_almost_coco_say_what_to_change(tmp_path, change, message):
    """Images without a `file_name` used to be boxes that are lost to ids."""
    with pytest.raises(DataError, match=message):
        open_dataset(make.coco(tmp_path, {**make.coco_content(), **change}))
