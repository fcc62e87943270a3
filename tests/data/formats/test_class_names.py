"""Class names as files spell them: composed, without line breaks, and told where they differ only by case."""

import builders as make
import pytest

from headway.data.formats.any_format import open_dataset, open_splits, write_dataset
from headway.data.formats.check import check
from headway.errors import DataError

COMPOSED, DECOMPOSED = "K\u00e4fer", "Ka\u0308fer"


def named(*names):
    """COCO content with these class names."""
    content = make.coco_content()
    for category, name in zip(content["categories"], names):
        category["name"] = name
    return content


def renamed(folder, **names):
    """A VOC data set whose "dog" has another name in each file."""
    make.voc(folder)
    for stem, name in names.items():
        file = folder / "Annotations" / f"{stem}.xml"
        file.write_text(file.read_text().replace("<name>dog<", f"<name>{name}<"), encoding="utf-8")
    return folder


def test_composed_and_decomposed_letters_are_one_class(tmp_path):
    data = open_dataset(renamed(tmp_path, a=COMPOSED, b=DECOMPOSED))
    assert data.class_names == (COMPOSED, "cat")
    make.coco(tmp_path / "coco", named("cat", DECOMPOSED))
    make.coco(tmp_path / "coco", named("cat", COMPOSED), "val")
    assert {data.class_names for data in open_splits(tmp_path / "coco").values()} == {("cat", COMPOSED)}


def test_a_list_of_classes_may_be_decomposed(tmp_path):
    (renamed(tmp_path, a=COMPOSED, b=COMPOSED) / "classes.txt").write_text(f"cat\n{DECOMPOSED}\n", encoding="utf-8")
    assert open_dataset(tmp_path).class_names == ("cat", COMPOSED)


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_a_name_with_a_line_break_survives_a_written_copy(tmp_path, format):
    """It used to be two lines of VOC's classes.txt."""
    data = open_dataset(make.coco(tmp_path / "in", named("cat", "hot\r\n dog\x07")))
    assert data.class_names == ("cat", "hot dog")
    write_dataset(data, tmp_path / "out", format)
    assert open_dataset(tmp_path / "out").class_names == ("cat", "hot dog")


def test_xml_may_break_a_name_into_lines(tmp_path):
    assert open_dataset(renamed(tmp_path, a="hot\n   dog", b="hot dog")).class_names == ("cat", "hot dog")


def test_names_that_differ_by_case_are_told(tmp_path):
    report = check(renamed(tmp_path, a="Cat", b="CAT"))
    assert [problem.detail for problem in report.by_kind()["similar_classes"]] == ["'CAT', 'Cat', 'cat'"]
    assert report.ok
    make.coco(tmp_path / "coco", named("cat", "Cat"))
    assert "similar_classes" in check(tmp_path / "coco").by_kind()


@pytest.mark.parametrize("name", [None, "", " \t"])
def test_a_class_without_a_name_is_refused(tmp_path, name):
    """It used to be a class called "None" or nothing."""
    with pytest.raises(DataError, match=r"category 2: expected a name, got .*; write one"):
        open_dataset(make.coco(tmp_path, named("cat", name)))
