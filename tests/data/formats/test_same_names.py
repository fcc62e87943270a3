"""Pictures of one name in several folders: the annotations decide, and where they do not it is an error."""

import shutil

import builders as make
import pytest

from headway.data.formats.any_format import open_dataset
from headway.data.formats.check import check
from headway.errors import DataError


def folders_of(data):
    return {record.path.parent.name for record in data.records}


def two_folders(folder, first, second):
    make.pictures(folder / first)
    make.pictures(folder / second, first=10)


def test_coco_names_that_two_folders_have_are_refused(tmp_path):
    """A camera's colour and depth pictures; the first folder by name used to be read."""
    make.dump(tmp_path / "annotations.json", make.coco_content())
    two_folders(tmp_path, "depth", "rgb")
    problems = check(tmp_path).by_kind()["ambiguous_image"]
    assert len(problems) == 3
    with pytest.raises(DataError, match=r"one picture of this name, got depth/a\.jpg and rgb/a\.jpg; state the folder"):
        open_dataset(tmp_path)


def test_a_stated_folder_decides_in_coco(tmp_path):
    content = make.coco_content()
    for image in content["images"]:
        image["file_name"] = f"D:\\camera\\rgb\\{image['file_name']}"
    make.dump(tmp_path / "annotations.json", content)
    two_folders(tmp_path, "depth", "rgb")
    assert folders_of(open_dataset(tmp_path)) == {"rgb"}


def test_coco_folders_that_share_no_name_are_read_together(tmp_path):
    make.dump(tmp_path / "annotations.json", make.coco_content())
    make.pictures(tmp_path / "day1", ["a.jpg"])
    make.pictures(tmp_path / "day2", ["b.jpg"], first=5)
    make.pictures(tmp_path / "day3", ["c.jpg"], first=9)
    assert make.truth(open_dataset(tmp_path)) == make.EXPECTED


def test_links_to_one_picture_are_one_picture(tmp_path):
    make.dump(tmp_path / "annotations.json", make.coco_content())
    make.pictures(tmp_path / "rgb")
    (tmp_path / "again").mkdir()
    for name in make.TRUTH:
        (tmp_path / "again" / name).symlink_to(tmp_path / "rgb" / name)
    assert make.truth(open_dataset(tmp_path)) == make.EXPECTED


@pytest.mark.parametrize("more", [(), ("d.jpg",)], ids=["tie", "one folder has more"])
def test_a_name_that_is_listed_for_each_of_two_pictures_is_refused(tmp_path, more):
    """Entries 0.jpg and 0.jpg of two cameras used to be one picture with the boxes of both, and a warning."""
    content = make.coco_content()
    content["images"] += [{**image, "id": image["id"] + 10} for image in content["images"]]
    content["images"] += [{"id": 30 + i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(more)]
    make.dump(tmp_path / "annotations.json", content)
    two_folders(tmp_path / "images", "cam1", "cam2")
    make.pictures(tmp_path / "images" / "cam1", more, first=30)
    assert len(check(tmp_path).by_kind()["ambiguous_image"]) == 6
    with pytest.raises(DataError, match=r"images/cam1/a\.jpg and images/cam2/a\.jpg"):
        open_dataset(tmp_path)


HINTS = {
    "folder": "<folder>seq2</folder>",
    "path": "<path>C:\\me\\pets\\seq2\\NAME</path>",
    "both": "<folder>pets</folder><path>/home/me/pets/seq2/NAME</path>",
}


@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("base", ["JPEGImages", "."])
def test_folder_and_path_decide_in_voc(tmp_path, hint, base):
    make.voc(tmp_path)
    shutil.rmtree(tmp_path / "JPEGImages")
    two_folders(tmp_path / base, "seq1", "seq2")
    for file in (tmp_path / "Annotations").iterdir():
        text = file.read_text().replace(f"<path>/home/someone/{file.stem}.jpg</path>", "")
        hints = HINTS[hint].replace("NAME", f"{file.stem}.jpg")
        file.write_text(text.replace("<annotation>", f"<annotation>{hints}"))
    data = open_dataset(tmp_path)
    assert folders_of(data) == {"seq2"}
    assert make.truth(data) == make.EXPECTED


def test_voc_names_that_nothing_decides_are_refused(tmp_path):
    make.voc(tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "rgb")
    make.pictures(tmp_path / "depth", first=10)
    with pytest.raises(DataError, match=r"got depth/a\.jpg and rgb/a\.jpg; state the folder in <folder>"):
        open_dataset(tmp_path)
    (tmp_path / "depth" / "a.jpg").unlink()
    assert folders_of(open_dataset(tmp_path)) == {"rgb"}, "the folder that holds most"
