"""Splits and class names of YOLO data sets that were lost without a word."""

import builders as make
import pytest

from headway.data.formats.any_format import find_dataset, open_dataset, open_splits
from headway.data.formats.check import check
from headway.errors import DataError


def in_folders(folder, *names):
    for name in names:
        make.yolo(folder, f"{name}/images", f"{name}/labels", None)
    return folder


def beside(folder, *names):
    for name in names:
        make.yolo(folder, name, name, None)
    return folder


def with_yaml(folder, text, *names):
    for name in names:
        make.yolo(folder, f"images/{name}", f"labels/{name}", None)
    (folder / "data.yaml").write_text(f"{text}names: [cat, dog]\n")
    return folder


@pytest.mark.parametrize("build", [in_folders, beside])
@pytest.mark.parametrize("names", [("train", "valid"), ("train", "valid", "holdout")])
def test_each_folder_is_a_split(tmp_path, build, names):
    splits = open_splits(build(tmp_path, *names))
    assert list(splits) == ["train", "val", "holdout"][: len(names)]
    assert {data.num_boxes for data in splits.values()} == {3}


def test_folders_of_labels_beside_the_pictures_that_are_no_splits_are_one(tmp_path):
    assert list(open_splits(beside(tmp_path, "car", "bus", "train"))) == ["all"]


def test_validation_is_val(tmp_path):
    folder = with_yaml(tmp_path, "train: images/train\nvalidation: images/late\n", "train", "late")
    assert list(open_splits(folder)) == ["train", "val"]
    assert check(folder).ok


def test_two_keys_for_one_split_are_an_error_if_they_differ(tmp_path):
    text = "train: images/train\nval: images/a\nvalid: images/{}\n"
    folder = with_yaml(tmp_path, text.format("b"), "train", "a", "b")
    splits = open_splits(folder)
    assert len(splits["train"].records) == 3
    with pytest.raises(DataError, match=r"both val: and valid:, which differ; keep one"):
        len(splits["val"].records)
    assert not check(folder).ok
    (folder / "data.yaml").write_text(text.format("a") + "names: [cat, dog]\n")
    assert len(open_splits(folder)["val"].records) == 3


def test_folders_no_split_are_told_with_their_count(tmp_path):
    """Not those without labels, nor the picture folder of another spelling that a link makes."""
    folder = with_yaml(tmp_path, "train: images/train\n", "train", "extra")
    make.pictures(folder / "docs")
    (folder / "again").symlink_to(folder / "images" / "train")
    problem = check(folder).by_kind()["no_split"]
    assert [(p.where, p.detail) for p in problem] == [("train: images/extra/a.jpg", "2 such pictures")]
    assert "1 x pictures, or lists of them, that are in no split" in open_dataset(folder).notes[0]


def test_keys_that_name_pictures_are_told(tmp_path):
    folder = with_yaml(tmp_path, "train: images/train\nholdout: images/extra\nauthor: me\nroot: .\n", "train", "extra")
    problem = check(folder).by_kind()["no_split"]
    assert [(p.where, p.detail) for p in problem] == [
        ("train: data.yaml", "holdout: images/extra is not read; expected one of train, val, valid, validation, test")
    ]
    (folder / "late.txt").write_text("images/extra/a.jpg\n")
    (folder / "data.yaml").write_text("train: images/train\nlate: late.txt\nnotes: classes.txt\nnames: [cat, dog]\n")
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert [p.detail.split(" is")[0] for p in check(folder).by_kind()["no_split"]] == ["late: late.txt"]


@pytest.mark.parametrize("name", ["classes.txt", "obj.names"])
def test_an_empty_line_among_names_is_refused(tmp_path, name):
    """Else the class 1 would be dog in one tool and 2 in another; one at the end changes nothing."""
    folder = make.yolo(tmp_path, yaml=None)
    (folder / name).write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match=rf"{name}: line 2 is empty"):
        open_dataset(folder)
    (folder / name).write_text("cat\ndog\n\n \n")
    assert make.truth(open_dataset(folder)) == make.EXPECTED


def test_names_of_a_yaml_file_in_each_split(tmp_path):
    """As CVAT exports single tasks: images/train in both."""
    for split in ("train", "val"):
        make.yolo(tmp_path / split, yaml="train: train.txt\nnames:\n  0: cat\n  1: dog\npath: .\n")
    splits = open_splits(tmp_path)
    assert {name: make.truth(data) for name, data in splits.items()} == {"train": make.EXPECTED, "val": make.EXPECTED}
    (tmp_path / "val" / "data.yaml").write_text("train: train.txt\nnames: [dog, cat]\n")
    with pytest.raises(DataError, match="list other classes, or in another order"):
        open_splits(tmp_path)


def test_names_in_a_file(tmp_path):
    folder = make.yolo(tmp_path / "data", yaml="train: images/train\nnames: classes.txt\nnc: 2\n")
    for content in (None, ""):
        if content is not None:
            (folder / "classes.txt").write_text(content)
        with pytest.raises(DataError, match=r"or the file of such a list, got 'classes\.txt'"):
            open_dataset(folder)
    (folder / "classes.txt").write_text("cat\ndog\n")
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    (tmp_path / "outside.txt").write_text("cat\ndog\n")
    (folder / "data.yaml").write_text("train: images/train\nnames: ../outside.txt\n")
    with pytest.raises(DataError, match="outside the data folder"):
        open_dataset(folder)


def test_patterns_are_refused_as_such(tmp_path):
    folder = make.yolo(tmp_path, yaml="train: images/train/*.jpg\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match=r"is a pattern, which is not supported; name the folder"):
        open_dataset(folder)


def test_of_two_yaml_files_the_one_taken_is_named(tmp_path):
    folder = make.yolo(tmp_path, yaml=None)
    for fold in (1, 2):
        (folder / f"fold{fold}.yaml").write_text(f"train: f{fold}.txt\nnames: [cat, dog]\n")
        (folder / f"f{fold}.txt").write_text(f"images/train/{'ab'[fold - 1]}.jpg\n")
    assert find_dataset(folder).reason == "fold1.yaml; ignored: fold2.yaml (give the path of one to read it)"
    assert [record.path.name for record in open_dataset(folder / "fold2.yaml").records] == ["b.jpg"]


@pytest.mark.parametrize("system", ["@eaDir", "__MACOSX", ".thumbnails"])
def test_folders_of_systems_hold_no_pictures(tmp_path, system):
    folder = make.yolo(tmp_path)
    make.picture(folder / "images" / "train" / system / "a.jpg" / "SYNOPHOTO_THUMB_M.jpg", 9)
    assert make.truth(open_dataset(folder)) == make.EXPECTED


def test_a_missing_label_file_is_not_an_empty_one(tmp_path):
    folder = make.yolo(tmp_path)
    assert {"no_label_file", "no_boxes"} & check(folder).by_kind().keys() == {"no_label_file"}
    (folder / "labels" / "train" / "c.txt").touch()
    assert {"no_label_file", "no_boxes"} & check(folder).by_kind().keys() == {"no_boxes"}


@pytest.mark.parametrize("part", ["images", "labels", "images/train"])
def test_a_part_of_a_data_set_names_the_whole(tmp_path, part):
    folder = make.yolo(tmp_path / "data")
    with pytest.raises(DataError, match=f"did you mean {folder}\\?"):
        open_dataset(folder / part)
