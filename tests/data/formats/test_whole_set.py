"""What only all splits together show: pictures and lists that are in none, and a data set without a box."""

import logging

import builders as make
import pytest

from headway.data.formats.any_format import open_splits
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.errors import DataError


def lists(folder, **names):
    """ImageSets/Main/NAME.txt of a VOC data set."""
    make.voc(folder)
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for name, text in names.items():
        (main / f"{name}.txt").write_text(text)
    return folder


def told(report, kind):
    return [f"{problem.where}: {problem.detail}" for problem in report.by_kind().get(kind, [])]


def names(splits):
    return {split: [record.path.name for record in data.records] for split, data in splits.items()}


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_pictures_that_no_annotation_lists_are_told(tmp_path, format, caplog):
    """They used to be passed over with "No problems found."."""
    folder = make.BUILDERS[format](tmp_path / "in")
    base = {"coco": "train", "voc": "JPEGImages"}[format]
    make.pictures(folder / base, ["d.jpg", "e.jpg"], first=8)
    (problem,) = told(check(folder), "no_split")
    assert problem.startswith(f"{base}: 2 of 5 pictures, first d.jpg, have no annotation")
    assert check(folder).ok
    with caplog.at_level(logging.WARNING, "headway"):
        open_splits(folder)
    assert "first d.jpg" in caplog.text
    fix(folder, tmp_path / "out")
    assert told(check(tmp_path / "out"), "no_split") == []


def test_pictures_beside_a_fault_are_not_told_as_well(tmp_path):
    """The picture of an XML file of 0 bytes has its own error."""
    folder = make.voc(tmp_path)
    (folder / "Annotations" / "b.xml").write_text("")
    assert set(check(folder).by_kind()) == {"empty_file", "no_boxes"}


def test_a_json_file_of_its_own_tells_nothing_of_other_pictures(tmp_path):
    folder = make.coco(tmp_path)
    make.picture(folder / "train" / "d.jpg", 9)
    assert told(check(folder / "annotations" / "train.json"), "no_split") == []


def test_lists_of_voc_that_mean_no_split_are_told(tmp_path):
    folder = lists(tmp_path, train="a\n", dev="b\n", test_easy="c\n", cat_train="a  1\nb -1\n")
    assert names(open_splits(folder)) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    found = told(check(folder), "no_split")
    assert [problem.split(".txt")[0] for problem in found[:2]] == ["train: Main/test_easy", "val: Main/test_easy"]
    assert "JPEGImages: 1 of 3 pictures, first c.jpg" in found[2]


def test_of_two_lists_for_one_split_the_plain_name_is_read(tmp_path):
    folder = lists(tmp_path, train="a\nb\n", train2007="c\n", val="c\n")
    assert names(open_splits(folder)) == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]}
    assert "Main/train2007.txt" in told(check(folder), "no_split")[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"trainval": "a\nb\nc\n", "val": "b\n"}, {"train": ["a.jpg", "c.jpg"], "val": ["b.jpg"]}),
        ({"trainval": "a\nb\nc\n", "train": "b\n"}, {"train": ["b.jpg"], "val": ["a.jpg", "c.jpg"]}),
        ({"trainval": "a\nb\n", "test": "c\n"}, {"test": ["c.jpg"], "trainval": ["a.jpg", "b.jpg"]}),
        ({"trainval": "a\nb\n", "train": "a\nb\n"}, {"train": ["a.jpg", "b.jpg"]}),
    ],
)
def test_trainval_stands_for_the_part_that_is_missing(tmp_path, given, expected):
    """trainval.txt with val.txt alone used to leave no picture to train on."""
    assert names(open_splits(lists(tmp_path, **given))) == expected


def test_a_trainval_of_coco_that_is_not_read_is_told(tmp_path):
    make.coco(tmp_path, split="trainval")
    make.coco(tmp_path, split="val")
    assert list(open_splits(tmp_path)) == ["val"]
    assert any(
        "trainval.json: not read beside val.json; make train.json" in p for p in told(check(tmp_path), "no_split")
    )


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_a_data_set_without_any_box_is_an_error(tmp_path, format):
    folder = make.BUILDERS[format](tmp_path)
    if format == "coco":
        make.dump(folder / "annotations" / "train.json", {**make.coco_content(), "annotations": []})
    for file in (folder / "Annotations").glob("*.xml"):
        file.write_text(make.xml(f"{file.stem}.jpg", []))
    for name in make.TRUTH if format == "yolo" else ():
        (folder / "labels" / "train" / name.replace(".jpg", ".txt")).write_text("")
    report = check(folder)
    assert not report.ok
    assert len(told(report, "boxless_set")) == 1
    with pytest.raises(DataError, match=r"no box in the whole data set.*annotate.*data check"):
        open_splits(folder)


def test_a_split_without_boxes_beside_one_with_boxes_is_none(tmp_path):
    make.coco(tmp_path)
    make.coco(tmp_path, {**make.coco_content(), "annotations": []}, "val")
    assert check(tmp_path).ok
    assert list(open_splits(tmp_path)) == ["train", "val"]


def test_broken_pictures_of_yolo_are_not_pictures_without_boxes(tmp_path):
    folder = make.yolo(tmp_path)
    for name in make.TRUTH:
        (folder / "images" / "train" / name).write_text("<html>404</html>")
    kinds = check(folder).by_kind()
    assert "broken_image" in kinds
    assert "boxless_set" not in kinds
