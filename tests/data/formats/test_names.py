"""Files under names, spellings and encodings that other machines and tools gave them."""

import json
import unicodedata

import builders as make
import pytest

from headway.data.formats.any_format import open_dataset, open_splits
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.data.formats.text import decode
from headway.errors import DataError

ELSEWHERE = [
    "/home/x/project/images/{}",
    "D:\\project\\images\\{}",
    "\\\\server\\share\\{}",
    "file:///home/x/train/{}",
    "/data/local-files/?d=project%2Ftrain%2F{}",
    "https://bucket.example.com/x/train/{}?X-Amz-Expires=1/2",
    "../../images/{}",
    "data/train/{}",
    ".\\{}",
]


@pytest.mark.parametrize("form", ELSEWHERE)
@pytest.mark.parametrize("place", ["train", "photos of mine/may"])
def test_names_of_another_machine_are_matched_by_their_end(tmp_path, form, place):
    content = make.coco_content()
    for image in content["images"]:
        image["file_name"] = form.format(image["file_name"])
    folder = make.coco(tmp_path / "data", content)
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / "train").rename(folder / place)
    data = open_dataset(folder)
    assert make.truth(data) == make.EXPECTED
    assert [note[:3] for note in data.notes] == ["3 x"] * (form != ".\\{}")
    fix(folder, tmp_path / "fixed")
    assert make.truth(open_dataset(tmp_path / "fixed")) == make.EXPECTED


def test_the_longest_end_decides(tmp_path):
    """p.jpg lies in two folders; names that end alike, of which one file is there, decide nothing."""
    content = make.coco_content()
    for image, name in zip(content["images"], ("x/p.jpg", "y/p.jpg", "y/c.jpg")):
        image["file_name"] = f"/mnt/disk/{name}"
        make.picture(tmp_path / "pics" / name, image["id"])
    make.dump(tmp_path / "labels.json", content)
    data = open_dataset(tmp_path)
    assert [record.path.relative_to(tmp_path).as_posix() for record in data.records] == [
        "pics/x/p.jpg", "pics/y/p.jpg", "pics/y/c.jpg",
    ]  # fmt: skip
    (tmp_path / "pics" / "y" / "p.jpg").unlink()
    (tmp_path / "pics" / "x" / "p.jpg").rename(tmp_path / "pics" / "y" / "p.jpg")
    (tmp_path / "pics" / "y").rename(tmp_path / "images")
    with pytest.raises(DataError, match=r"several names end in p\.jpg"):
        open_dataset(tmp_path)


def test_a_picture_of_another_split_is_not_taken(tmp_path):
    folder = make.coco(make.coco(tmp_path), split="val")
    for name in make.TRUTH:
        (folder / "train" / name).unlink()
    with pytest.raises(DataError, match=r"does not exist"):
        len(open_splits(folder)["train"])


def test_lists_name_nothing_outside(tmp_path):
    """ImageSets and lists of pictures: the XML file and the label file outside are there."""
    make.voc(tmp_path / "outside", ".", ".")
    folder = make.voc(tmp_path / "voc")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\n../../outside/d\n")
    (tmp_path / "outside" / "c.xml").rename(tmp_path / "outside" / "d.xml")
    assert check(folder).by_kind()["path_escape"][0].where == "train: train"
    with pytest.raises(DataError, match="outside the data folder"):
        open_dataset(folder)
    folder = make.yolo(tmp_path / "yolo", yaml="train: list.txt\nnames: [cat, dog]\n")
    (tmp_path / "outside" / "c.jpg").rename(tmp_path / "outside" / "d.jpg")
    (folder / "list.txt").write_text(f"images/train/a.jpg\n{tmp_path}/outside/d.jpg\n")
    with pytest.raises(DataError, match="outside the data folder"):
        open_dataset(folder)


def test_pictures_in_several_folders_are_found_by_their_names(tmp_path):
    """And without their suffix; not by a name that two have, nor in the folder of another split."""
    folder = make.coco(tmp_path)
    (folder / "train" / "may").mkdir()
    (folder / "train" / "b.jpg").rename(folder / "train" / "may" / "b.jpg")
    (folder / "test").mkdir()
    content = make.coco_content()
    content["images"][2]["file_name"] = "c"
    make.dump(folder / "annotations" / "train.json", content)
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    make.picture(folder / "train" / "june" / "b.jpg")
    with pytest.raises(DataError, match=r"\(b\.jpg\).*does not exist"):
        open_dataset(folder)
    (folder / "train" / "june" / "b.jpg").unlink()
    (folder / "train" / "may" / "b.jpg").rename(folder / "test" / "b.jpg")
    with pytest.raises(DataError, match=r"\(b\.jpg\).*does not exist"):
        open_dataset(folder)


def test_nothing_outside_is_read_by_a_name(tmp_path):
    make.picture(tmp_path / "outside" / "a.jpg")
    folder = make.coco(tmp_path / "data")
    (folder / "train" / "a.jpg").unlink()
    content = make.coco_content()
    for name in ("../outside/a.jpg", "../../outside/a.jpg", str(tmp_path / "outside" / "a.jpg")):
        content["images"][0]["file_name"] = name
        make.dump(folder / "annotations" / "train.json", content)
        with pytest.raises(DataError, match=r"outside the data folder|does not exist"):
            open_dataset(folder)


SPELLINGS = [
    ("my photo.jpg", "my%20photo.jpg"),
    ("my%20photo.jpg", "my photo.jpg"),
    (unicodedata.normalize("NFD", "Grün.jpg"), unicodedata.normalize("NFC", "Grün.jpg")),
    (unicodedata.normalize("NFC", "Grün.jpg"), unicodedata.normalize("NFD", "Grün.jpg")),
    ("IMG_1.JPG", "img_1.jpg"),
    ("img_1.jpg", " IMG_1.JPG "),
]


@pytest.mark.parametrize(("on_disk", "stated"), SPELLINGS)
@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_other_spellings_of_a_name(tmp_path, format, on_disk, stated):
    folder = make.BUILDERS[format](tmp_path)
    base = {"coco": "train", "voc": "JPEGImages", "yolo": "images/train"}[format]
    (folder / base / "a.jpg").rename(folder / base / on_disk)
    if format == "coco":
        content = make.coco_content()
        content["images"][0]["file_name"] = stated
        make.dump(folder / "annotations" / "train.json", content)
    else:
        own = folder / {"voc": "Annotations/a.xml", "yolo": "labels/train/a.txt"}[format]
        own.rename(own.with_name(stated.strip().rpartition(".")[0] + own.suffix))
    found = make.truth(open_dataset(folder))
    assert found == {on_disk if name == "a.jpg" else name: boxes for name, boxes in make.EXPECTED.items()}


def test_a_spelling_that_two_files_share_is_not_guessed(tmp_path):
    content = make.coco_content()
    content["images"][0]["file_name"] = "Pic.jpg"
    folder = make.coco(tmp_path, content)
    (folder / "train" / "a.jpg").rename(folder / "train" / "pic.jpg")
    make.picture(folder / "train" / "PIC.jpg")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(folder)


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_the_prefix_of_an_upload_is_not_part_of_the_name(tmp_path, format):
    """Label Studio exports annotations of 1a2b3c4d-a.jpg; the photographs at home are called a.jpg. A date stays."""
    folder = make.BUILDERS[format](tmp_path)
    if format == "coco":
        content = make.coco_content()
        for number, image in enumerate(content["images"]):
            image["file_name"] = f"images/{number}a2b3c4d-{image['file_name']}"
        make.dump(folder / "annotations" / "train.json", content)
    else:
        for number, file in enumerate(
            sorted((folder / {"voc": "Annotations", "yolo": "labels/train"}[format]).iterdir())
        ):
            file.rename(file.with_name(f"{number}a2b3c4d-{file.name}"))
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    if format == "coco":
        content["images"][0]["file_name"] = "20260101-a.jpg"
        make.dump(folder / "annotations" / "train.json", content)
        with pytest.raises(DataError, match="does not exist"):
            open_dataset(folder)


def test_the_working_folder_is_a_data_set(tmp_path, monkeypatch):
    for format, build in make.BUILDERS.items():
        monkeypatch.chdir(build(tmp_path / format))
        assert make.truth(open_dataset(".")) == make.EXPECTED
    monkeypatch.chdir(tmp_path / "coco" / "annotations")
    assert make.truth(open_dataset(make.dump(tmp_path / "coco" / "train.json", make.coco_content()))) == make.EXPECTED


def test_folders_with_the_signs_of_globs(tmp_path):
    folder = make.coco(tmp_path / "br[1]")
    (folder / "train").rename(folder / "im[0]*")
    assert make.truth(open_dataset(folder)) == make.EXPECTED


def test_lvis_states_addresses_alone(tmp_path):
    content = make.coco_content()
    for image, split in zip(content["images"], ("train2017", "val2017", "train2017")):
        name = image.pop("file_name")
        image["coco_url"] = f"http://images.cocodataset.org/{split}/{name}"
        make.picture(tmp_path / split / name, image["id"])
    make.dump(tmp_path / "annotations" / "lvis_v1_train.json", content)
    splits = open_splits(tmp_path)
    assert list(splits) == ["train"]
    assert make.truth(splits["train"]) == make.EXPECTED
    assert [record.path.parent.name for record in splits["train"].records] == ["train2017", "val2017", "train2017"]


@pytest.mark.parametrize("suffix", ["jfif", "JFIF", "mpo", "MPO", "JPG", "Jpeg"])
@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_suffixes_of_pictures(tmp_path, format, suffix):
    folder = make.voc(tmp_path, ".", ".") if format == "voc" else make.yolo(tmp_path, ".", ".", None)
    for name in make.TRUTH:
        (folder / name).rename(folder / name.replace("jpg", suffix))
    if format == "yolo":
        (folder / "classes.txt").write_text("cat\ndog\n")
    found = make.truth(open_dataset(folder))
    assert found == {name.replace("jpg", suffix): boxes for name, boxes in make.EXPECTED.items()}


# --- VOC: whose picture? ---

OTHERS = {
    "cycle": {"a.jpg": "b.jpg", "b.jpg": "c.jpg", "c.jpg": "a.jpg"},
    "shifted": {"a.jpg": "b.jpg", "b.jpg": "c.jpg", "c.jpg": "d.jpg"},
    "template": {"a.jpg": "a.jpg", "b.jpg": "a.jpg", "c.jpg": "a.jpg"},
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_name_of_the_xml_decides_over_the_stated_one(tmp_path, case):
    folder = make.voc(tmp_path)
    for name, boxes in make.TRUTH.items():
        text = make.xml(name, boxes, filename=OTHERS[case][name])
        (folder / "Annotations" / name.replace(".jpg", ".xml")).write_text(text)
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    count = sum(name != other for name, other in OTHERS[case].items())
    assert len(check(folder).by_kind()["other_filename"]) == count


def test_the_stated_picture_is_taken_where_none_has_the_name_of_the_xml(tmp_path):
    folder = make.voc(tmp_path)
    for number, name in enumerate(make.TRUTH):
        (folder / "Annotations" / name.replace(".jpg", ".xml")).rename(folder / "Annotations" / f"{number}.xml")
    data = open_dataset(folder)
    assert make.truth(data) == make.EXPECTED
    assert data.notes == []
    (folder / "Annotations" / "9.xml").write_text(make.xml("a.jpg", make.TRUTH["b.jpg"]))
    assert "image listed twice" in {problem.meaning for problem in kinds_of(check(folder))}


def kinds_of(report):
    from headway.data.formats.problem_kinds import KINDS

    return [KINDS[problem.kind] for problem in report.problems]


# --- encodings ---


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "cp1252", "utf-32"])
def test_json_in_other_encodings(tmp_path, encoding):
    content = make.coco_content()
    content["categories"][0]["name"] = "Käfer"
    folder = make.coco(tmp_path, content)
    (folder / "annotations" / "train.json").write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    data = open_dataset(folder)
    assert data.class_names == ("Käfer", "dog")
    assert [note for note in data.notes if "UTF-8" in note] == data.notes
    assert len(data.notes) == (encoding in ("latin-1", "cp1252"))


HEADS = [
    ("gbk", '<?xml version="1.0" encoding="GBK"?>', "红细胞"),
    ("gb2312", '<?xml version="1.0" encoding="gb2312"?>', "红细胞"),
    ("gbk", "", "红细胞"),
    ("gbk", '<?xml version="1.0" encoding="utf-8"?>', "红细胞"),
    ("shift_jis", "<?xml version='1.0' encoding='Shift_JIS'?>", "赤血球"),
    ("latin-1", "", "Käfer"),
    ("latin-1", '<?xml version="1.0" encoding="ISO-8859-1"?>', "Käfer"),
    ("utf-8", '<?xml version="1.0" encoding="utf-16"?>', "Käfer"),
    ("utf-16", '<?xml version="1.0" encoding="utf-16"?>', "Käfer"),
    ("utf-8", '<?xml version="1.0"?>\n<!DOCTYPE annotation>\n', "Käfer"),
    ("utf-8-sig", "", "Käfer"),
]


@pytest.mark.parametrize(("encoding", "head", "name"), HEADS)
def test_xml_in_other_encodings(tmp_path, encoding, head, name):
    folder = make.voc(tmp_path)
    for file in (folder / "Annotations").iterdir():
        text = head + file.read_text().replace("<name>cat", f"<name>{name}")
        file.write_bytes(text.replace("><", ">\r\n<").encode(encoding))
    data = open_dataset(folder)
    assert set(data.class_names) == {name, "dog"}
    assert {name: len(boxes) for name, boxes in make.truth(data).items()} == {"a.jpg": 2, "b.jpg": 1, "c.jpg": 0}


def test_label_files_and_lists_in_utf16_with_windows_line_ends(tmp_path):
    folder = make.yolo(tmp_path, yaml=None)
    for file in (folder / "labels" / "train").iterdir():
        file.write_bytes(file.read_text().replace("\n", "\r\n").encode("utf-16"))
    (folder / "classes.txt").write_bytes("cat\r\ndog\r\n".encode("utf-16"))
    assert make.truth(open_dataset(folder)) == make.EXPECTED


def test_bytes_that_are_no_text_are_refused():
    for data in (b"\xff\xfe\x00", b"ab\x00\xff\xfe"):
        with pytest.raises(UnicodeError):
            decode(data)
