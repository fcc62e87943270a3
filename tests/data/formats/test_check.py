"""Every kind of fault, by a file that has it: `check` names it, the readers refuse or drop it, `fix` mends it."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys

import builders as make
import numpy as np
import pytest
from PIL import Image

from headway.data.formats.any_format import find_dataset, open_dataset, open_splits
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.data.formats.problem_kinds import KINDS, Problem
from headway.data.image import read_image
from headway.errors import DataError


def edit_json(folder, change, split="train", encoding="utf-8"):
    file = folder / "annotations" / f"{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)


def json_fault(change):
    return "coco", lambda folder: edit_json(folder, change)


def box_fault(bbox, **more):
    row = {"id": 50, "image_id": 2, "category_id": 1, "bbox": bbox, **more}
    return json_fault(lambda content: content["annotations"].append(row))


def xml_fault(text, name="b.xml"):
    return "voc", lambda folder: (folder / "Annotations" / name).write_text(text)


def xml_box_fault(*box):
    return xml_fault(make.xml("b.jpg", [*make.TRUTH["b.jpg"], (box, 0)]))


def label_fault(rows):
    def spoil(folder):
        with (folder / "labels" / "train" / "b.txt").open("a") as stream:
            stream.write(rows)

    return "yolo", spoil


def on_picture(format, spoil):
    base = {"coco": "train", "voc": "JPEGImages", "yolo": "images/train"}[format]
    return format, lambda folder: spoil(folder / base / "b.jpg")


def set_image(content, **values):
    content["images"][1] |= values


def set_class(content, number, category_id):
    content["annotations"][number]["category_id"] = category_id


def link_out(path):
    """A link to a picture outside the data folder."""
    outside = path.parents[3] / "outside.jpg"
    make.picture(outside, 9)
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


def link_folder_out(folder):
    shutil.move(folder / "images" / "train", folder.parent / "elsewhere")
    (folder / "images" / "train").symlink_to(folder.parent / "elsewhere")


def turned(path):
    """A phone's portrait: stored as 64x48, to be shown turned right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    make.picture(path, 3, make.SIZE, exif=exif)


def truncate(path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])


def add_extra(folder):
    """A picture with a label, in a folder that is no split."""
    make.picture(folder / "images" / "extra" / "x.jpg", 9)
    (folder / "labels" / "extra").mkdir()
    (folder / "labels" / "extra" / "x.txt").write_text("0 0.5 0.5 0.1 0.1\n")


def unlisted_xml(folder):
    """Lists of three pictures, of which two have no XML file."""
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nb.jpg\nc\n")
    (folder / "Annotations" / "b.xml").unlink()
    (folder / "Annotations" / "c.xml").unlink()


def list_twice(folder):
    """b.jpg under two ids, and a second picture of this name."""
    make.picture(folder / "more" / "b.jpg", 9)
    edit_json(folder, lambda content: content["images"].append({**content["images"][1], "id": 9}))


def corners(bbox):
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


ROBNDBOX = (
    "<object><name>dog</name><robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h>"
    "<angle>1.5707963</angle></robndbox></object>"
)
NUMBERED = "train: images/train\nnc: 3\nnames: {0: cat, 1: dog, 7: eel}\n"
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotation><filename>&y;</filename></annotation>'

FAULTS = {
    "path_escape": [
        json_fault(lambda c: set_image(c, file_name="../../../etc/hosts.jpg")),
        json_fault(lambda c: set_image(c, file_name="/etc/hosts")),
        json_fault(lambda c: set_image(c, file_name="C:\\pictures\\other.jpg")),
        json_fault(lambda c: set_image(c, file_name="b\0.jpg")),
        xml_fault(make.xml("b.jpg", [], filename="../../other.jpg"), name="d.xml"),
        xml_fault(make.xml("b.jpg", [], filename="/etc/hosts"), name="d.xml"),
    ],
    "unreadable_annotation": [
        json_fault(lambda c: c["images"].append({"id": 9})),
        xml_fault("<annotation><object>"),
        xml_fault("<recipe></recipe>"),
        xml_fault(BOMB),
        label_fault("0 0.5 0.5\n"),
        label_fault("0 0.5 0.5 0.1 0.1 0.99\n"),
        label_fault("cat 0.5 0.5 0.1 0.1\n"),
        label_fault("0.5 0.5 0.5 0.1 0.1\n"),
        label_fault("-1 0.5 0.5 0.1 0.1\n"),
        label_fault("0 0.5 0.5 0.1 0.1 0.99 7\n"),
        label_fault("0 0,5 0,5 0,1 0,1\n"),
        ("yolo", lambda folder: (folder / "labels" / "train" / "b.txt").write_bytes(b"\xff\xfe\x00")),
    ],
    "empty_file": [xml_fault("")],
    "ambiguous_image": [("coco", list_twice)],
    "empty_image": [on_picture(format, lambda path: path.write_bytes(b"")) for format in ("coco", "voc", "yolo")],
    "missing_image": [
        on_picture("coco", lambda path: path.unlink()),
        on_picture("voc", lambda path: path.unlink()),
        json_fault(lambda c: set_image(c, file_name="")),
        json_fault(lambda c: set_image(c, file_name="../train")),
        ("yolo", lambda f: (f / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
         and (f / "list.txt").write_text("images/train/a.jpg\nimages/train/nowhere.jpg\n")),
    ],
    "broken_image": [
        on_picture("coco", truncate),
        on_picture("voc", lambda path: path.write_text("not a picture")),
        on_picture("yolo", lambda path: path.write_text("<html>404</html>")),
    ],
    "wrong_size": [
        json_fault(lambda c: set_image(c, width=32, height=24)),
        json_fault(lambda c: set_image(c, width=100, height=20)),
        on_picture("coco", turned),
        xml_fault(make.xml("b.jpg", make.TRUTH["b.jpg"], size=(48, 64))),
    ],
    "missing_size": [
        json_fault(lambda c: c["images"][1].pop("width")),
        json_fault(lambda c: set_image(c, height=-3)),
        xml_fault(make.xml("b.jpg", make.TRUTH["b.jpg"], size=(0, 0))),
    ],
    "unknown_category": [
        box_fault([1, 1, 5, 5], category_id=77),
        box_fault([1, 1, 5, 5], category_id=None),
        ("voc", lambda folder: (folder / "classes.txt").write_text("cat\n")),
        label_fault("2 0.5 0.5 0.1 0.1\n"),
    ],
    "duplicate_category": [
        json_fault(lambda c: c["categories"].append({"id": 2, "name": "bird"})),
        json_fault(lambda c: c["categories"].append({"id": 3, "name": "dog"}) or set_class(c, 2, 3)),
        ("yolo", lambda f: (f / "data.yaml").write_text("train: images/train\nnames: [dog, dog]\n")),
    ],
    "unnamed_class": [
        json_fault(lambda c: c["categories"][1].update(name=None)),
        json_fault(lambda c: c["categories"][1].update(name=" \n")),
        json_fault(lambda c: c["categories"][1].update(name=["dog"])),
    ],
    "class_name": [json_fault(lambda c: c["categories"][1].update(name="hot\n\tdog"))],
    "duplicate_image_id": [
        json_fault(lambda c: c["images"][2].update(id=2)),
        json_fault(lambda c: c["images"].append(c["images"][0])),
    ],
    "unknown_image": [box_fault([1, 1, 5, 5], image_id=99), box_fault([1, 1, 5, 5], image_id=[1])],
    "duplicate_annotation_id": [box_fault([1, 1, 5, 5], id=1)],
    "duplicate_entry": [json_fault(lambda c: c["images"].append({**c["images"][0], "id": 9}))],
    "duplicate_image": [
        on_picture("coco", lambda path: shutil.copyfile(path.with_name("a.jpg"), path)),
        on_picture("yolo", lambda path: shutil.copyfile(path.with_name("a.jpg"), path)),
    ],
    "duplicate_box": [
        box_fault([10, 10, 10, 12], category_id=2),
        label_fault(make.rows(make.TRUTH["b.jpg"])),
        xml_fault(make.xml("b.jpg", make.TRUTH["b.jpg"] * 2)),
    ],
    "box_malformed": [
        box_fault([1, 2, 3]),
        box_fault(None),
        box_fault([1, 2, "a", 4]),
        box_fault([1, 2, True, 4]),
        box_fault([1, 2, 10**400, 4]),
        xml_fault(make.xml("b.jpg", make.TRUTH["b.jpg"]).replace("<xmin>10", "<xmin>ten")),
        label_fault("1 0.5 0.5 x 0.1\n"),
    ],
    "box_not_finite": [
        box_fault([float("nan"), 2, 3, 4]),
        box_fault([1, 2, float("inf"), 4]),
        xml_box_fault("nan", 1, 2, 3),
        label_fault("1 nan 0.5 0.1 0.1\n"),
    ],
    "box_inverted": [box_fault([20, 2, -5, 4]), xml_box_fault(30, 8, 20, 20), label_fault("1 0.5 0.5 -0.1 0.1\n")],
    "box_empty": [box_fault([20, 2, 0, 4]), xml_box_fault(30, 8, 30, 8), label_fault("1 0.5 0.5 0.1 0\n")],
    "box_off_image": [box_fault([64, 2, 5, 4]), xml_box_fault(-9, -9, 0, 0), label_fault("1 7 7 0.1 0.1\n")],
    "box_outside": [box_fault([60, 2, 9, 4]), xml_box_fault(-3, 8, 20, 20), label_fault("1 0.9 0.5 0.4 0.1\n")],
    "orphan_label": [
        ("yolo", lambda folder: (folder / "labels" / "train" / "nobody.txt").write_text("0 0.5 0.5 0.1 0.1\n"))
    ],
    "no_split": [
        ("yolo", add_extra),
        ("yolo", lambda f: add_extra(f)
         or (f / "data.yaml").write_text("train: images/train\nholdout: images/extra\nnames: [cat, dog]\n")),
    ],
    "boxes_lost": [
        json_fault(lambda c: [row.update(bbox=[70, 2, 5, 4]) for row in c["annotations"] if row["category_id"] == 2]),
        xml_fault(make.xml("b.jpg", [((70, 2, 80, 9), 1), ((71, 2, 80, 9), 1)])),
        label_fault("1 40 30 20 10\n1 41 30 20 10\n"),
    ],
    "no_labels": [
        ("yolo", lambda folder: (folder / "labels" / "train" / "b.txt").unlink()),
        ("voc", unlisted_xml),
    ],
    "other_filename": [xml_fault(make.xml("b.jpg", make.TRUTH["b.jpg"], filename="a.jpg"))],
    "shared_label": [("yolo", lambda folder: make.picture(folder / "images" / "train" / "b.png", 9))],
    "other_name": [
        json_fault(lambda c: set_image(c, file_name="D:\\pictures\\b.jpg")),
        json_fault(lambda c: set_image(c, file_name="../../../elsewhere/b.jpg")),
        json_fault(lambda c: set_image(c, file_name="B.JPG")),
        ("yolo", lambda f: (f / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
         and (f / "list.txt").write_text("data/images/train/a.jpg\nimages/train/b.jpg\nimages/train/c.jpg\n")),
    ],
    "id_type": [json_fault(lambda c: c["annotations"][0].update(image_id="1"))],
    "corner_box": [json_fault(lambda c: [row.update(bbox=corners(row["bbox"])) for row in c["annotations"]])],
    "enclosing_box": [
        json_fault(lambda c: c["annotations"][2].update(bbox=[], segmentation=[[10, 10, 20, 10, 20, 22]])),
        xml_fault(make.xml("b.jpg", []).replace("</annotation>", f"{ROBNDBOX}</annotation>")),
    ],
    "pose_row": [
        ("yolo", lambda f: (f / "labels" / "train" / "b.txt").write_text("1 .5 .5 .2 .4 .5 .5 2 .6 .6 1 0 0 0\n"))
    ],
    "class_numbers": [("yolo", lambda f: (f / "data.yaml").write_text(NUMBERED))],
    "repeated_class": [
        json_fault(lambda c: c["categories"].append({"id": 3, "name": "dog"})),
        ("yolo", lambda f: (f / "data.yaml").write_text("train: images/train\nnames: [cat, dog, dog]\n")),
    ],
    "encoding": [
        ("coco", lambda f: edit_json(f, lambda c: c.update(info={"by": "Müller"}), encoding="latin-1")),
        ("voc", lambda f: (f / "Annotations" / "b.xml").write_bytes(
            make.xml("b.jpg", make.TRUTH["b.jpg"]).replace("someone", "Jörg").encode("cp1252"))),
    ],
}  # fmt: skip

CASES = [
    pytest.param(kind, *case, id=f"{kind}-{i}-{case[0]}") for kind, cs in FAULTS.items() for i, case in enumerate(cs)
]
INFO = {"leakage", "no_label_file", "no_boxes", "crowd", "unused_class"}
NOTICES = {
    "class_name",
    "other_name",
    "id_type",
    "corner_box",
    "enclosing_box",
    "pose_row",
    "class_numbers",
    "repeated_class",
}


def tree(folder):
    """Every file below a folder with its bytes, links not followed."""
    return {
        path.relative_to(folder): os.readlink(path) if path.is_symlink() else hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def kinds(report):
    return {problem.kind for problem in report.problems}


def test_every_kind_has_a_file_that_triggers_it():
    elsewhere = {
        "split_mismatch",
        "no_images",
        "turned_picture",
        "two_readings",
        "boxless_set",
        "similar_classes",
        *INFO,
    }
    assert set(FAULTS) | elsewhere == set(KINDS)


@pytest.mark.parametrize(("kind", "format", "spoil"), CASES)
def test_fault_is_found_refused_and_mended(tmp_path, kind, format, spoil):
    folder = make.BUILDERS[format](tmp_path / "level" / "data")
    clean = check(folder)
    assert (clean.ok, kinds(clean)) == (True, {"no_label_file" if format == "yolo" else "no_boxes"})
    spoil(folder)
    before = tree(folder)

    report = check(folder)
    assert kind in kinds(report)
    found = report.by_kind()[kind]
    assert report.ok == (KINDS[kind].severity != "error")
    assert all(problem.where.startswith(("train: ", "all: ")) and problem.detail for problem in found)

    if KINDS[kind].refused:
        with pytest.raises(DataError, match=r"data check"):
            open_splits(folder)
    elif KINDS[kind].severity == "warning":
        open_splits(folder)  # goes on

    fix(folder, tmp_path / "fixed")
    assert kinds(check(tmp_path / "fixed")) <= INFO
    for data in open_splits(tmp_path / "fixed").values():
        assert data.format == format
        assert data.notes == []
        assert all(read_image(record.path).shape[1:] == record.size for record in data.records)
    assert tree(folder) == before, "the original must stay as it is"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1, 2]",
        '{"images": 3}',
        '{"images": [], "annotations": [1], "categories": []}',
        '{"images": ' + "[" * 100_000,
    ],
    ids=range(6),
)
def test_json_that_is_no_coco_is_refused(tmp_path, content):
    make.coco(tmp_path)
    file = tmp_path / "annotations" / "train.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"train\.json"):
        open_dataset(file)


@pytest.mark.parametrize("height", [0.5, -3, 1e300, "nan"])
def test_a_height_that_is_no_number_of_pixels_is_measured(tmp_path, height):
    """A height of 0.5 ended the reader with a division by zero."""
    content = make.coco_content()
    content["images"][0]["height"] = height
    make.coco(tmp_path, content)
    assert open_dataset(tmp_path).records[0].size == (48, 64)
    assert "missing_size" in check(tmp_path).by_kind()


def test_a_split_that_cannot_be_parsed_is_a_problem_among_others(tmp_path):
    make.coco(tmp_path)
    make.coco(tmp_path, split="val")
    (tmp_path / "annotations" / "train.json").write_text('{"images": [')
    (tmp_path / "annotations" / "test.json").write_text("")
    report = check(tmp_path)
    assert {p.kind: p.where for p in report.problems if p.severity == "error"} == {
        "unreadable_annotation": "train",
        "empty_file": "test",
    }
    assert report.splits["val"]["boxes"] == 3


def test_category_without_id_is_refused(tmp_path):
    content = make.coco_content()
    del content["categories"][0]["id"]
    with pytest.raises(DataError, match="integer 'id'"):
        open_dataset(make.coco(tmp_path, content))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "document",
    [
        BOMB,
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation><filename>&x;</filename></annotation>',
        '<!DOCTYPE annotation SYSTEM "http://localhost:9/a.dtd"><annotation/>',
    ],
    ids=["expansion", "external", "dtd"],
)
def test_xml_with_a_document_type_is_refused_in_any_encoding(tmp_path, document, encoding):
    make.voc(tmp_path)
    head = f'<?xml version="1.0" encoding="{encoding}"?>'
    (tmp_path / "Annotations" / "b.xml").write_bytes((head + document).encode(encoding))
    with pytest.raises(DataError, match="document type"):
        open_dataset(tmp_path)


def test_yaml_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    names = f"!!python/object/apply:os.mkdir ['{marker}', 'dog']"
    make.yolo(tmp_path / "data", yaml=f"train: images/train\nnames: {names}\n")
    assert open_splits(tmp_path / "data")["train"].class_names == (str(marker), "dog")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images/train\n", "no 'names'"),
        ("train: images/train\nnames: cat\n", "list of class names"),
        ("train: images/train\nnames: {0: cat, one: dog}\n", "numbered from 0"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]\n", "nc is 3"),
        ("train: images/training\nnames: [cat, dog]\n", "does not exist"),
        ("train: [images/train\nnames: x: y\n", "not valid YAML"),
        ("train: ../../outside\nnames: [cat, dog]\n", "outside the data folder"),
        ("path: ../../outside\ntrain: .\nnames: [cat, dog]\n", "outside"),
        ("", "no 'names'"),
    ],
    ids=range(9),
)
def test_data_yaml_that_cannot_be_used_says_why(tmp_path, yaml, message):
    (tmp_path / "outside").mkdir()
    folder = make.yolo(tmp_path / "a" / "data", yaml=None)
    (folder / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


@pytest.mark.parametrize("yaml", ["train: images/train\nnames: [cat, dog]\n", None], ids=["yaml", "folders"])
def test_links_in_the_folder_are_followed(tmp_path, yaml):
    """A folder of pictures on another disk, one picture, and a link to a folder above, which has no end."""
    folder = make.yolo(tmp_path / "data", yaml=yaml)
    link_folder_out(folder)
    (tmp_path / "elsewhere" / "b.jpg").rename(tmp_path / "kept.jpg")
    (tmp_path / "elsewhere" / "b.jpg").symlink_to(tmp_path / "kept.jpg")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "self.jpg").symlink_to(tmp_path / "elsewhere" / "self.jpg")
    (tmp_path / "elsewhere" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    data = open_dataset(folder)
    expected = make.EXPECTED if yaml else {**make.EXPECTED}
    assert {name: len(boxes) for name, boxes in make.truth(data).items()} == {n: len(b) for n, b in expected.items()}


def test_link_that_stays_inside_is_followed(tmp_path):
    folder = make.coco(tmp_path)
    (folder / "train" / "b.jpg").rename(folder / "kept.jpg")
    (folder / "train" / "b.jpg").symlink_to(folder / "kept.jpg")
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    assert check(folder).ok


def test_two_files_for_one_split_are_refused(tmp_path):
    make.coco(tmp_path)
    shutil.copyfile(tmp_path / "annotations" / "train.json", tmp_path / "annotations" / "instances_train2017.json")
    with pytest.raises(DataError, match="both the split 'train'"):
        find_dataset(tmp_path)


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="no images"):
        open_dataset(make.coco(tmp_path, {"images": [], "annotations": [], "categories": []}))


def test_splits_with_contradicting_classes_are_a_problem_for_the_user(tmp_path):
    make.coco(tmp_path)
    content = make.coco_content()
    content["categories"].reverse()
    content["categories"][0]["id"], content["categories"][1]["id"] = 1, 2
    make.coco(tmp_path, content, "val")
    report = check(tmp_path)
    assert "split_mismatch" in kinds(report)
    assert not report.ok
    with pytest.raises(DataError, match="yours to decide"):
        fix(tmp_path, tmp_path.parent / "fixed")


def test_same_pictures_in_two_splits_are_reported(tmp_path):
    make.coco(tmp_path)
    make.coco(tmp_path, split="val")
    make.picture(tmp_path / "val" / "b.jpg", 77)
    make.picture(tmp_path / "val" / "new.jpg", 0)
    edit_json(
        tmp_path, lambda c: c["images"].append({"id": 8, "file_name": "new.jpg", "width": 64, "height": 48}), "val"
    )
    os.remove(tmp_path / "val" / "a.jpg")
    edit_json(tmp_path, lambda c: c["images"].pop(0), "val")
    report = check(tmp_path)
    details = [problem.detail for problem in report.by_kind()["leakage"]]
    assert details == ["b.jpg is also a name in train", "same bytes as c.jpg in train", "same bytes as a.jpg in train"]
    assert KINDS["leakage"].severity == "info"


def test_traits_are_information(tmp_path):
    content = make.coco_content()
    content["categories"].append({"id": 3, "name": "eel"})
    content["annotations"][0]["iscrowd"] = 1
    report = check(make.coco(tmp_path, content))
    assert report.ok
    assert {kind: len(problems) for kind, problems in report.by_kind().items()} == {
        "no_boxes": 1,
        "crowd": 1,
        "unused_class": 1,
    }
    assert report.splits == {"train": {"images": 3, "boxes": 3, "without_boxes": 1, "crowd": 1}}


def test_a_split_without_images_is_an_error(tmp_path):
    """A COCO file whose lists are empty used to pass with exit code 0; `fix` writes the other split alone."""
    folder = make.coco(tmp_path / "in")
    make.dump(folder / "annotations" / "val.json", {**make.coco_content(), "images": [], "annotations": []})
    report = check(folder)
    assert not report.ok
    assert [problem.where for problem in report.by_kind()["no_images"]] == ["val: images"]
    with pytest.raises(DataError, match=r"split 'val' .* has no images.*data check"):
        len(open_splits(folder)["val"])
    assert list(fix(folder, tmp_path / "out").images) == ["train", "val"]
    assert list(open_splits(tmp_path / "out")) == ["train"]


def test_checking_does_not_import_torch(tmp_path):
    """Nor torchvision, nor timm: `headway data check` answers in a fraction of the time they take to import."""
    code = (
        "import sys; from headway.cli import main; code = main(sys.argv[1:]); "
        "print({'torch', 'torchvision', 'timm'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    for format, build in make.BUILDERS.items():
        done = subprocess.run(
            [sys.executable, "-c", code, "data", "check", str(build(tmp_path / format))], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr.strip()) == (0, "set()")


def test_damage_behind_the_header_is_found(tmp_path):
    folder = make.coco(tmp_path)
    truncate(folder / "train" / "b.jpg")
    assert not check(folder).ok


def test_progress_counts_every_picture(tmp_path):
    seen = []
    check(make.coco(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_report_as_table_and_as_json(tmp_path):
    from rich.console import Console

    content = make.coco_content()
    content["annotations"][0]["bbox"][2] = 0
    content["images"][1]["file_name"] = "[red]nowhere.jpg"
    report = check(make.coco(tmp_path, content))
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    for words in ("coco, recognised by annotations/*.json; 2 classes", "box of zero area", "box left out",
                  "[red]nowhere.jpg", "annotated image that does not exist"):  # fmt: skip
        assert words in text
    assert text.index("error") < text.index("warning") < text.index("info"), "the worst comes first"
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["ok"] is False
    assert plain["kinds"]["box_empty"]["count"] == 1
    assert plain["kinds"]["missing_image"]["problems"][0]["where"].startswith("train: train.json, image 2")


def test_problem_reads_as_a_sentence():
    assert str(Problem("box_empty", "a.xml, object 1", "(1, 1, 1, 1)")) == (
        "box of zero area: a.xml, object 1: (1, 1, 1, 1)"
    )


# --- fix ---


def test_fix_keeps_what_is_not_read(tmp_path):
    content = make.coco_content()
    content["info"] = {"description": "pets"}
    content["images"][0]["license"] = 4
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    content["annotations"].append({"id": 9, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0]})
    fix(make.coco(tmp_path / "in", content), tmp_path / "out")
    cleaned = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert cleaned["info"] == {"description": "pets"}
    assert cleaned["images"][0]["license"] == 4
    assert cleaned["annotations"][0]["segmentation"] == [[1, 2, 3, 4, 5, 6]]
    assert len(cleaned["annotations"]) == 3


def test_fix_keeps_the_voc_elements_that_are_not_read(tmp_path):
    fix(make.voc(tmp_path / "in"), tmp_path / "out")
    text = (tmp_path / "out" / "Annotations" / "a.xml").read_text()
    assert text.count("<pose>Left</pose>") == 2
    assert text.count("<difficult>1</difficult>") == 2
    assert "/home/someone" not in text


def test_fix_reports_what_it_left_out(tmp_path):
    folder = make.coco(tmp_path / "in")
    (folder / "train" / "a.jpg").unlink()
    report = fix(folder, tmp_path / "out")
    assert report.images == {"train": (2, 1)}
    assert report.boxes == {"train": (1, 2)}


def test_fix_scales_boxes_to_the_real_size(tmp_path):
    """Stated 32x24, really 64x48: boxes and areas double along each side."""
    content = make.coco_content()
    content["images"][1] |= {"width": 32, "height": 24}
    content["annotations"][2] |= {"bbox": [5, 5, 5, 6], "area": 20, "segmentation": [[1, 2, 3, 4, 5, 6]]}
    fix(make.coco(tmp_path / "in", content), tmp_path / "out")
    record = open_dataset(tmp_path / "out").records[1]
    assert record.boxes.tolist() == [[10, 10, 20, 22]]
    assert record.areas.tolist() == [80]
    assert "segmentation" not in (tmp_path / "out" / "annotations" / "train.json").read_text()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_fix_turns_boxes_with_the_picture(tmp_path, orientation):
    """A white patch on black, annotated on the picture as stored: after the fix the box frames the patch as shown."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[10:22, 8:40] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = make.coco_content()
    content["annotations"] = [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [8, 10, 32, 12]}]
    folder = make.coco(tmp_path / "in", content)
    Image.fromarray(pixels).save(folder / "train" / "b.jpg", exif=exif, quality=95)
    assert "EXIF" in check(folder).by_kind()["wrong_size"][0].detail
    fix(folder, tmp_path / "out")
    record = open_dataset(tmp_path / "out").records[1]
    shown = read_image(record.path)[0].numpy() > 127
    ys, xs = np.nonzero(shown)
    assert record.size == (64, 48)
    assert record.boxes.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]


@pytest.mark.parametrize(
    ("format", "orientation", "size", "expected"),
    [
        ("yolo", 6, (64, 48), {"turned_picture"}),
        ("yolo", 3, (64, 48), {"turned_picture"}),
        ("yolo", 1, (64, 48), set()),
        ("coco", 3, (64, 48), {"turned_picture"}),  # the stated size fits the picture both ways
        ("coco", 6, (48, 48), {"turned_picture"}),
        ("voc", 8, (48, 48), {"turned_picture"}),
        ("coco", 6, (48, 64), set()),  # stated as shown, 64x48: the boxes were drawn on the upright picture
        ("coco", 6, (64, 48), {"wrong_size"}),
    ],
)
def test_a_picture_that_exif_turns_is_named_where_its_labels_leave_it_open(
    tmp_path, caplog, format, orientation, size, expected
):
    """size: (width, height) as stored."""
    folder = make.BUILDERS[format](tmp_path / "data")
    path = folder / {"coco": "train", "voc": "JPEGImages", "yolo": "images/train"}[format] / "b.jpg"
    if size == (48, 48) and format == "coco":
        edit_json(folder, lambda content: set_image(content, width=48, height=48))
    elif size == (48, 48):
        (folder / "Annotations" / "b.xml").write_text(make.xml("b.jpg", [((1, 2, 30, 40), 0)], size=(48, 48)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "red").save(path, exif=exif)
    report = check(folder)
    assert kinds(report) & {"turned_picture", "wrong_size"} == expected
    if "turned_picture" in expected:
        (problem,) = report.by_kind()["turned_picture"]
        assert problem.detail == f"b.jpg has EXIF orientation {orientation}"
        assert report.ok
        open_splits(folder)
        assert ("EXIF" in caplog.text) == (format == "yolo")  # whose sizes are read from the pictures on opening


def test_fix_drops_both_files_of_one_id(tmp_path):
    folder = make.coco(tmp_path / "in")
    edit_json(folder, lambda c: c["images"][2].update(id=2))
    fix(folder, tmp_path / "out")
    assert [record.path.name for record in open_dataset(tmp_path / "out").records] == ["a.jpg"]


def test_fix_joins_entries_of_one_file(tmp_path):
    content = make.coco_content()
    content["images"].append({**content["images"][0], "id": 9})
    content["annotations"][1]["image_id"] = 9
    fix(make.coco(tmp_path / "in", content), tmp_path / "out")
    assert make.truth(open_dataset(tmp_path / "out")) == make.EXPECTED


def test_fix_merges_classes_of_one_name(tmp_path):
    content = make.coco_content()
    content["categories"].append({"id": 7, "name": "dog"})
    content["annotations"][2]["category_id"] = 7
    fix(make.coco(tmp_path / "in", content), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    assert (data.class_names, data.category_ids) == (make.NAMES, (1, 2))
    assert make.truth(data) == make.EXPECTED


def test_fix_refuses_what_it_could_harm(tmp_path):
    folder = make.coco(tmp_path / "in")
    with pytest.raises(DataError, match="inside the data set"):
        fix(folder, folder / "fixed")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        fix(folder, tmp_path / "full")
    for name in make.TRUTH:
        (folder / "train" / name).write_text("gone")
    with pytest.raises(DataError, match="nothing of"):
        fix(folder, tmp_path / "out")
