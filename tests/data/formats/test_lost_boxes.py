"""Boxes that a whole split, a class or more than a tenth loses to one cause: an error that names it, or read right."""

import builders as make
import numpy as np
import pytest

from headway.commands.data import Check
from headway.data.formats.any_format import open_dataset, open_splits
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.errors import DataError


def spoiled(folder, change):
    """A COCO data set of which every annotation is changed."""
    content = make.coco_content()
    for row in content["annotations"]:
        change(row, content)
    return make.coco(folder, content)


def corners(row, _):
    x, y, width, height = row["bbox"]
    row["bbox"] = [x, y, x + width, y + height]


def as_text(row, content):
    for key in ("id", "image_id", "category_id"):
        row[key] = str(row[key])
    row["bbox"] = [str(value) for value in row["bbox"]]


def as_fractions(row, content):
    """As pandas writes a column of integers that once held an empty cell."""
    row |= {key: float(row[key]) for key in ("id", "image_id", "category_id")}


def by_file_name(row, content):
    row["image_id"] = content["images"][row["image_id"] - 1]["file_name"]


def by_class_name(row, _):
    row["category_id"] = make.NAMES[row["category_id"] - 1]


def polygon(row, _):
    x, y, width, height = row.pop("bbox")
    row["segmentation"] = [[x, y, x + width, y, x + width, y + height], [x, y + height, x, y, x + 1, y]]


def polygon_and_zeros(row, content):
    polygon(row, content)
    row["bbox"] = [0, 0, 0, 0]


def mask(row, _):
    """Run lengths by hand: the columns of a picture 48 high, from the top."""
    x, y, width, height = row.pop("bbox")
    runs = [x * 48 + y] + [height, 48 - height] * (width - 1) + [height]
    row["segmentation"] = {"size": [48, 64], "counts": [*runs, 64 * 48 - sum(runs)]}


def compressed(row, _):
    from pycocotools import mask as masks

    x, y, width, height = row.pop("bbox")
    pixels = np.zeros((48, 64), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    row["segmentation"] = {"size": [48, 64], "counts": masks.encode(pixels)["counts"].decode()}


READ_RIGHT = {
    "id_type": [as_text, as_fractions, by_file_name, by_class_name],
    "corner_box": [corners],
    "enclosing_box": [polygon, polygon_and_zeros, mask, compressed],
}


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind, cs in READ_RIGHT.items() for change in cs])
def test_what_is_certain_is_read_right(tmp_path, kind, change):
    folder = spoiled(tmp_path / "data", change)
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    report = check(folder)
    assert report.ok
    assert {problem.kind for problem in report.problems} <= {kind, "no_boxes"}
    fix(folder, tmp_path / "fixed")
    assert make.truth(open_dataset(tmp_path / "fixed")) == make.EXPECTED


def test_ids_that_are_text_in_images_and_categories(tmp_path):
    content = make.coco_content()
    for entry in content["images"] + content["categories"]:
        entry["id"] = f"{entry['id']}"
    data = open_dataset(make.coco(tmp_path, content))
    assert make.truth(data) == make.EXPECTED
    assert [record.image_id for record in data.records] == [1, 2, 3]
    assert data.category_ids == (1, 2)


def test_ids_that_are_no_numbers_are_numbered(tmp_path):
    content = make.coco_content()
    for entry in content["images"]:
        entry["id"] = f"img-{entry['id']}"
    for row in content["annotations"]:
        row["image_id"] = f"img-{row['image_id']}"
    data = open_dataset(make.coco(tmp_path, content))
    assert make.truth(data) == make.EXPECTED
    assert [record.image_id for record in data.records] == [1, 2, 3]


def test_corners_without_areas_are_read_where_most_boxes_lie_outside_otherwise(tmp_path):
    """Six boxes in the lower right: as x, y, width, height all reach outside, as corners all lie inside."""
    content = make.coco_content()
    del content["annotations"][3:]
    content["annotations"] = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": [30 + i, 20 + i, 50 + i, 40 + i]} for i in range(6)
    ]
    data = open_dataset(make.coco(tmp_path, content))
    assert data.records[0].boxes.tolist() == [[30 + i, 20 + i, 50 + i, 40 + i] for i in range(6)]


def fractions(row, _):
    x, y, width, height = row["bbox"]
    row["bbox"] = [x / 64, y / 48, width / 64, height / 48]


def other_ids(row, _):
    row["image_id"] += 100


def without_box(row, _):
    del row["bbox"]


def corners_without_area(row, content):
    corners(row, content)
    del row["area"]


def rewrite_rows(to_words):
    def spoil(folder):
        for name, boxes in make.TRUTH.items():
            lines = [" ".join(map(str, (label, *to_words(*box)))) for box, label in boxes]
            (folder / "labels" / "train" / name.replace(".jpg", ".txt")).write_text("\n".join(lines))

    return "yolo", spoil


def rewrite_xml(to_corners):
    def spoil(folder):
        for name, boxes in make.TRUTH.items():
            text = make.xml(name, [(to_corners(*box), label) for box, label in boxes])
            (folder / "Annotations" / name.replace(".jpg", ".xml")).write_text(text)

    return "voc", spoil


def in_json(change):
    def spoil(folder):
        content = make.coco_content()
        for row in content["annotations"]:
            change(row, content)
        make.dump(folder / "annotations" / "train.json", content)

    return "coco", spoil


LOST = [
    (*in_json(other_ids), "image_id 101 is not listed; ids of images are 1, 2, 3"),
    (*in_json(without_box), "not four numbers.*or a polygon"),
    (*in_json(fractions), "look.* like fractions"),
    (*in_json(corners_without_area), "look like corners"),
    (*rewrite_rows(lambda a, b, c, d: ((a + c) / 2, (b + d) / 2, c - a, d - b)), "values up to 45 look like pixels"),
    (*rewrite_rows(lambda a, b, c, d: (a / 0.64, b / 0.48, c / 0.64, d / 0.48)), "pixels or per cent"),
    (*rewrite_rows(lambda a, b, c, d: (a / 64, b / 48, c / 64, d / 48)), "look like corners"),
    (*rewrite_xml(lambda a, b, c, d: (a, b, c - a, d - b)), "xmax and ymax look like width and height"),
    (*rewrite_xml(lambda a, b, c, d: (a / 64, b / 48, c / 64, d / 48)), "fractions"),
    (*rewrite_xml(lambda a, b, c, d: (a + 64, b, c + 64, d)), "3 of 3 boxes.*pictures of another size"),
]


@pytest.mark.parametrize(("format", "spoil", "message"), LOST, ids=range(len(LOST)))
def test_what_loses_all_boxes_is_an_error_named_first(tmp_path, capsys, format, spoil, message):
    folder = make.BUILDERS[format](tmp_path / "data")
    spoil(folder)
    with pytest.raises(DataError, match=f"^boxes lost to one cause: .*{message}"):
        open_splits(folder)
    report = check(folder)
    assert not report.ok
    assert next(iter(report.by_kind())) == "boxes_lost"
    assert Check(path=folder).run() == 1
    out = capsys.readouterr().out
    assert out.index("boxes lost to one cause") < min([out.find(word) for word in ("warning", "info") if word in out])


def test_a_copy_without_boxes_is_not_written(tmp_path):
    folder = spoiled(tmp_path / "data", other_ids)
    with pytest.raises(DataError, match=r"no box of split 'train' is left.*image_id 101.*no copy is written"):
        Check(path=folder, fix=True).run()
    assert not (tmp_path / "data-fixed").exists()


def test_a_copy_of_rows_that_cannot_be_parsed_is_not_written(tmp_path):
    folder = make.yolo(tmp_path / "data")
    rewrite_rows(lambda *box: (*make.rows([(box, 0)]).split()[1:], 0.9))[1](folder)  # with a score, as predictions
    with pytest.raises(DataError, match=r"no box of split 'train' is left.*cannot be parsed"):
        fix(folder, tmp_path / "fixed")
    assert not (tmp_path / "fixed").exists()


def test_a_copy_without_a_split_says_so(tmp_path, caplog):
    folder = make.coco(make.coco(tmp_path / "data"), split="val")
    (folder / "annotations" / "val.json").write_text('{"images": [')
    assert list(fix(folder, tmp_path / "fixed").images) == ["train"]
    assert "split val is left out of the copy" in caplog.text


def with_bad(folder, bad, good=20, label=1):
    """Twenty usable boxes of two classes, and `bad` of zero width of class `label`."""
    content = make.coco_content()
    row = {"image_id": 1, "bbox": [1, 2, 9, 9]}
    content["annotations"] = [{**row, "id": i, "category_id": 1 + i % 2, "bbox": [i, 2, 9, 9]} for i in range(good)]
    content["annotations"] += [{**row, "id": 100 + i, "category_id": label, "bbox": [1, i, 0, 9]} for i in range(bad)]
    content["categories"].append({"id": 3, "name": "eel"})
    return make.coco(folder, content)


def test_a_tenth_may_be_left_out_and_not_more(tmp_path):
    """2 of 22 are less than a tenth, 3 of 23 more; a cleaned copy leaves them out and says so."""
    assert open_dataset(with_bad(tmp_path / "few", 2)).num_boxes == 20
    folder = with_bad(tmp_path / "many", 3)
    with pytest.raises(DataError, match=r"3 of 23 boxes: box of zero area; first train\.json, image 1"):
        open_dataset(folder)
    assert fix(folder, tmp_path / "fixed").boxes == {"train": (20, 3)}
    assert open_dataset(tmp_path / "fixed").num_boxes == 20


def test_a_class_that_loses_all_boxes_is_an_error(tmp_path):
    with pytest.raises(DataError, match="2 of 42 boxes, all of class eel: box of zero area"):
        open_dataset(with_bad(tmp_path, 2, good=40, label=3))


def test_swapped_corners_are_put_in_order(tmp_path):
    folder = make.voc(tmp_path / "data")
    rewrite_xml(lambda a, b, c, d: (c, b, a, d))[1](folder)
    data = open_dataset(folder)
    assert make.truth(data) == make.EXPECTED
    assert data.notes[0].startswith("3 x box with its corners swapped")


def test_rows_of_key_points_are_boxes_without_kpt_shape(tmp_path):
    """Two points with a visibility, one of them not marked (0, 0, 0); two and three points without one."""
    folder = make.yolo(tmp_path / "data")
    for tail in ("0.3 0.4 2 0 0 0", "0.3 0.4 1.000000 0.31 0.5 2.000000 0.6 0.6 0.000000"):
        rewrite_rows(lambda *box, tail=tail: (*make.rows([(box, 0)]).split()[1:], tail))[1](folder)
        assert make.truth(open_dataset(folder)) == make.EXPECTED

    def three_points(*box):
        _, cx, cy, width, height = map(float, make.rows([(box, 0)]).split())
        return cx, cy, width, height, cx, cy, cx + width / 3, cy, cx - width / 3, cy + height / 3

    rewrite_rows(three_points)[1](folder)
    data = open_dataset(folder)
    assert make.truth(data) == make.EXPECTED
    assert "key points" in data.notes[0]


def test_polygons_and_rotated_boxes_stay_polygons(tmp_path):
    """Nine numbers are the four corners of a rotated box; five corners and more an outline, also of a large object."""
    folder = make.yolo(tmp_path / "data")
    for names in ("ab cb cd ad", "ab cb cd ad ab", "ab cb cd ad ab cb"):

        def outline(a, b, c, d, names=names):
            values = {"a": a / 64, "c": c / 64, "b": b / 48, "d": d / 48}
            return [values[name] for pair in names.split() for name in pair]

        rewrite_rows(outline)[1](folder)
        assert make.truth(open_dataset(folder)) == make.EXPECTED
