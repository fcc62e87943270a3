"""The three formats in every layout that people have; each way in which a data set can be refused, by a file."""

import json
import logging

import builders as make
import numpy as np
import pytest

from headway.data.formats.any_format import find_dataset, open_dataset, open_splits, write_dataset
from headway.errors import DataError


@pytest.fixture(scope="module")
def bccd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bccd")
    return {format: open_splits(make.bccd(folder / format, format)) for format in make.BUILDERS}


def by_picture(splits):
    """{(split, picture): [(class, x1, y1, x2, y2)]} in the file's order."""
    return {
        (split, record.path.name): [
            (data.class_names[label], *box) for label, box in zip(record.labels.tolist(), record.boxes.tolist())
        ]
        for split, data in splits.items()
        for record in data.records
    }


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_bccd_sample_has_259_boxes_in_every_format(bccd, format):
    """261 boxes in the XML, two of them of zero area (BloodImage_00338, BloodImage_00343), by the sample's README."""
    splits = bccd[format]
    assert {name: len(data) for name, data in splits.items()} == {"train": 14, "val": 6}
    assert sum(data.num_boxes for data in splits.values()) == 259
    assert {data.format for data in splits.values()} == {format}
    notes = [note for data in splits.values() for note in data.notes]
    assert len(notes) == (2 if format == "voc" else 0)
    assert all("zero area" in note for note in notes)


@pytest.mark.parametrize("format", ["voc", "yolo"])
def test_bccd_sample_is_the_same_in_every_format(bccd, format):
    expected, found = by_picture(bccd["coco"]), by_picture(bccd[format])
    assert found.keys() == expected.keys()
    for key, boxes in expected.items():
        ours, theirs = (sorted(rows, key=lambda row: (row[0], *map(round, row[1:]))) for rows in (found[key], boxes))
        assert [row[0] for row in ours] == [row[0] for row in theirs]
        np.testing.assert_allclose([row[1:] for row in ours], [row[1:] for row in theirs], atol=1e-3)


def test_records_carry_ids_sizes_and_areas(bccd):
    content = json.loads((make.SAMPLE / "coco" / "val.json").read_text())
    data = bccd["coco"]["val"]
    assert [record.image_id for record in data.records] == [image["id"] for image in content["images"]]
    assert all(record.size == (480, 640) for format in bccd for record in bccd[format]["val"].records)
    areas = np.concatenate([record.areas for record in data.records])
    assert areas.sum() == pytest.approx(sum(row["area"] for row in content["annotations"]))


# --- layouts: builder, expected splits ---


def _move(folder, source, target):
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    (folder / source).rename(folder / target)


def _coco_download(folder):
    make.coco(folder)
    _move(folder, "train", "train2017")
    _move(folder, "annotations/train.json", "annotations/instances_train2017.json")
    (folder / "annotations" / "captions_train2017.json").write_text('{"annotations": []}')


def _coco_images_folder(folder):
    make.coco(folder)
    _move(folder, "train", "images")
    _move(folder, "annotations/train.json", "annotations.json")


def _coco_images_subfolder(folder):
    make.coco(folder)
    _move(folder, "train", "images/train")


def _coco_roboflow(folder):
    for split in ("train", "valid"):
        make.pictures(folder / split)
        make.dump(folder / split / "_annotations.coco.json", make.coco_content())


def _coco_relative_names(folder):
    content = make.coco_content()
    for image in content["images"]:
        image["file_name"] = "pics\\inner/" + image["file_name"]
    make.pictures(folder / "pics" / "inner")
    make.dump(folder / "labels.json", content)


def _voc_sets(folder):
    make.voc(folder)
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "train.txt").write_text("a\nc\n")
    (sets / "val.txt").write_text("b\n\n")
    (sets / "trainval.txt").write_text("a\nb\nc\n")
    (sets / "cat_train.txt").write_text("a  1\nc -1\n")


def _voc_beside(folder):
    make.voc(folder, images=".", annotations=".")


def _voc_split_folders(folder):
    make.voc(folder, images="train", annotations="train")
    make.voc(folder, images="valid", annotations="valid")


def _yolo_dict(folder):
    make.yolo(folder, yaml="path: .\ntrain: [images/train]\nval: images/train\nnc: 2\nnames:\n  1: dog\n  0: cat\n")


def _yolo_list_file(folder):
    make.yolo(folder, yaml="train: train.txt\nnames: [cat, dog]\n")
    lines = ["./images/train/a.jpg", "images/train/b.jpg", str(folder / "images" / "train" / "c.jpg")]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")


def _yolo_roboflow(folder):
    make.yolo(folder, "train/images", "train/labels", "train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n")


def _yolo_colab(folder):
    make.yolo(folder, yaml="path: /content/datasets/pets\ntrain: images/train\nnames: [cat, dog]\n")


def _yolo_class_file(folder):
    make.yolo(folder, yaml=None)
    (folder / "classes.txt").write_text("cat\ndog\n")


def _yolo_flat(folder):
    make.yolo(folder, "images", "labels", None)
    (folder / "classes.txt").write_text("cat\ndog\n")


def _yolo_split_folders(folder):
    make.yolo(folder, "train/images", "train/labels", None)
    make.yolo(folder, "valid/images", "valid/labels", None)
    (folder / "classes.txt").write_text("cat\ndog\n")


def _yolo_beside(folder):
    make.yolo(folder, ".", ".", None)
    (folder / "classes.txt").write_text("cat\ndog\n")


LAYOUTS = {
    "coco": (make.coco, ["train"]),
    "coco-download": (_coco_download, ["train"]),
    "coco-images": (_coco_images_folder, ["all"]),
    "coco-images-train": (_coco_images_subfolder, ["train"]),
    "coco-roboflow": (_coco_roboflow, ["train", "val"]),
    "coco-relative": (_coco_relative_names, ["all"]),
    "voc": (make.voc, ["all"]),
    "voc-lower": (lambda folder: make.voc(folder, "images", "annotations"), ["all"]),
    "voc-beside": (_voc_beside, ["all"]),
    "voc-split": (_voc_split_folders, ["train", "val"]),
    "yolo": (make.yolo, ["train"]),
    "yolo-dict": (_yolo_dict, ["train", "val"]),
    "yolo-list": (_yolo_list_file, ["train"]),
    "yolo-roboflow": (_yolo_roboflow, ["train"]),
    "yolo-colab": (_yolo_colab, ["train"]),
    "yolo-classes": (_yolo_class_file, ["train"]),
    "yolo-flat": (_yolo_flat, ["all"]),
    "yolo-split": (_yolo_split_folders, ["train", "val"]),
    "yolo-beside": (_yolo_beside, ["all"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_recognised(tmp_path, name):
    build, expected = LAYOUTS[name]
    folder = tmp_path / "data"
    build(folder)
    splits = open_splits(folder)
    assert list(splits) == expected
    for data in splits.values():
        assert data.format == name.split("-")[0]
        assert data.reason
        assert data.class_names == make.NAMES
        assert make.truth(data) == make.EXPECTED
        assert all(record.path.is_file() for record in data.records)


def test_image_sets_choose_the_images(tmp_path):
    _voc_sets(tmp_path)
    splits = open_splits(tmp_path)
    names = {split: [record.path.name for record in data.records] for split, data in splits.items()}
    assert names == {"train": ["a.jpg", "c.jpg"], "val": ["b.jpg"]}
    assert len(open_dataset(tmp_path, split="trainval")) == 3
    assert splits["val"].class_names == make.NAMES, "classes come from all files, not from the split's own"


def test_a_json_file_is_a_data_set(tmp_path):
    make.coco(tmp_path)
    data = open_dataset(tmp_path / "annotations" / "train.json")
    assert (data.name, data.root, make.truth(data)) == ("train", tmp_path, make.EXPECTED)


def test_a_yaml_file_is_a_data_set(tmp_path):
    assert make.truth(open_dataset(make.yolo(tmp_path) / "data.yaml")) == make.EXPECTED


def test_flat_yolo_below_a_folder_called_images(tmp_path):
    """Labels were looked for in `labels` instead of that folder, outside the data set, and refused."""
    folder = tmp_path / "images" / "mine"
    _yolo_beside(folder)
    assert make.truth(open_dataset(folder)) == make.EXPECTED
    assert make.truth(open_dataset(tmp_path / "images" / ".." / "images" / "mine")) == make.EXPECTED
    make.yolo(tmp_path / "images" / "usual")
    assert make.truth(open_dataset(tmp_path / "images" / "usual")) == make.EXPECTED


def test_a_bomb_of_yaml_aliases_is_refused(tmp_path):
    """Ten lists of ten aliases each stand for 10^10 names, in 500 bytes; this never ended. An aliased text is fine."""
    make.yolo(tmp_path)
    lists = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 11)]
    (tmp_path / "data.yaml").write_text("\n".join([*lists, "train: images/train", "names: *a10"]))
    with pytest.raises(DataError, match=r"data\.yaml is not valid YAML \(it repeats a list or mapping by an alias"):
        open_dataset(tmp_path)
    (tmp_path / "data.yaml").write_text("train: &t images/train\nval: *t\nnames: [cat, dog]\n")
    assert list(open_splits(tmp_path)) == ["train", "val"]


def test_format_chooses_between_two(tmp_path):
    make.yolo(make.coco(tmp_path))
    with pytest.raises(DataError, match=r"coco .* and yolo .*--format"):
        open_dataset(tmp_path)
    for format in ("coco", "yolo"):
        data = open_dataset(tmp_path, format=format)
        assert data.format == format
        assert "format given" in data.reason


def test_split_must_be_named_where_there_are_several(tmp_path):
    _coco_roboflow(tmp_path)
    with pytest.raises(DataError, match="splits train, val"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="did you mean train"):
        open_dataset(tmp_path, split="trian")


def test_nothing_recognised_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="folder is empty"):
        open_dataset(tmp_path)
    make.coco(tmp_path / "unpacked")
    with pytest.raises(DataError, match=r"did you mean .*unpacked"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"no voc data set(.|\n)*Annotations/\*\.xml"):
        open_dataset(tmp_path / "unpacked", format="voc")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match="unknown format"):
        open_dataset(tmp_path, format="csv")


# --- what each format leaves open ---


def test_coco_without_area_iscrowd_info(tmp_path):
    content = make.coco_content()
    del content["info"], content["licenses"]
    for row in content["annotations"]:
        del row["area"], row["iscrowd"]
    data = open_dataset(make.coco(tmp_path, content))
    assert make.truth(data) == make.EXPECTED
    assert data.records[0].areas.tolist() == [20 * 24, 30 * 32]
    assert not data.records[0].crowd.any()
    assert data.notes == []


def test_coco_ids_with_gaps_and_in_disorder(tmp_path):
    content = make.coco_content()
    content["categories"] = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 30, "name": "unused"}]
    for row in content["annotations"]:
        row["category_id"] = {1: 7, 2: 90}[row["category_id"]]
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][0]["area"] = 5.5
    data = open_dataset(make.coco(tmp_path, content))
    assert (data.class_names, data.category_ids) == (("cat", "unused", "dog"), (7, 30, 90))
    assert make.truth(data) == make.EXPECTED
    assert data.records[0].crowd.tolist() == [True, False]
    assert data.records[0].areas.tolist() == [5.5, 960.0]


def test_roboflow_parent_class_is_left_out(tmp_path):
    content = make.coco_content()
    for category in content["categories"]:
        category["supercategory"] = "pets"
    content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
    make.pictures(tmp_path / "train")
    file = make.dump(tmp_path / "train" / "_annotations.coco.json", content)
    data = open_dataset(tmp_path)
    assert (data.class_names, data.category_ids) == (make.NAMES, (1, 2))
    assert make.truth(data) == make.EXPECTED
    assert "pets" in data.reason
    content["annotations"][0]["category_id"] = 0
    make.dump(file, content)
    assert open_dataset(tmp_path).class_names == ("pets", *make.NAMES), "a class with boxes stays"


def test_splits_share_the_union_of_their_classes(tmp_path):
    make.coco(tmp_path)
    content = make.coco_content()
    content["categories"] = [{"id": 2, "name": "dog"}, {"id": 5, "name": "eel"}]
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 2]
    make.coco(tmp_path, content, "val")
    splits = open_splits(tmp_path)
    assert {data.class_names for data in splits.values()} == {("cat", "dog", "eel")}
    assert splits["val"].records[1].labels.tolist() == [1]
    content["categories"][0] = {"id": 2, "name": "fox"}
    make.coco(tmp_path, content, "val")
    with pytest.raises(DataError, match="must share their classes"):
        list(open_splits(tmp_path)["val"].records)


def test_voc_picture_is_found_by_the_xml_name(tmp_path):
    make.voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(make.xml("a.jpg", make.TRUTH["a.jpg"], filename="renamed.png"))
    (tmp_path / "JPEGImages" / "b.jpg").rename(tmp_path / "JPEGImages" / "b.JPG")
    names = [record.path.name for record in open_dataset(tmp_path).records]
    assert names == ["a.jpg", "b.JPG", "c.jpg"]


def test_voc_class_file_gives_the_order(tmp_path):
    make.voc(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\ncat\neel\n")
    data = open_dataset(tmp_path)
    assert data.class_names == ("dog", "cat", "eel")
    assert make.truth(data) == make.EXPECTED


def test_voc_without_size_reads_the_picture(tmp_path):
    make.voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_text(make.xml("a.jpg", make.TRUTH["a.jpg"], size=None))
    (tmp_path / "Annotations" / "b.xml").write_text(make.xml("b.jpg", make.TRUTH["b.jpg"], size=(0, 0)))
    data = open_dataset(tmp_path)
    assert [record.size for record in data.records] == [(48, 64)] * 3
    assert make.truth(data) == make.EXPECTED
    assert "2 x no size stated" in data.notes[0]


def test_yolo_polygons_become_their_boxes(tmp_path):
    make.yolo(tmp_path)
    (tmp_path / "labels" / "train" / "a.txt").write_text(
        "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 1.0\n0 0.1 0.2 0.3 0.2 0.2 0.4\n"
    )
    data = open_dataset(tmp_path)
    np.testing.assert_allclose(data.records[0].boxes, [[16, 12, 48, 48], [6.4, 9.6, 19.2, 19.2]], rtol=1e-6)


def test_yolo_key_points_are_no_polygon(tmp_path):
    make.yolo(tmp_path, yaml="train: images/train\nnames: [cat, dog]\nkpt_shape: [2, 2]\n")
    (tmp_path / "labels" / "train" / "a.txt").write_text("1 0.5 0.5 0.25 0.5 0.9 0.9 0.1 0.1\n")
    assert open_dataset(tmp_path).records[0].boxes.tolist() == [[24, 12, 40, 36]]


def test_yolo_without_names_derives_them(tmp_path):
    make.yolo(tmp_path, "images/train", "labels/train", None)
    make.yolo(tmp_path, "images/val", "labels/val", None)
    (tmp_path / "labels" / "val" / "b.txt").write_text("3 0.5 0.5 0.1 0.1\n")
    splits = open_splits(tmp_path)
    assert {data.class_names for data in splits.values()} == {("class_0", "class_1", "class_2", "class_3")}
    assert "no data.yaml" in splits["train"].reason


def test_yolo_class_called_no_keeps_its_name(tmp_path):
    data = open_dataset(make.yolo(tmp_path, yaml="train: images/train\nnames: [no, 1e3]\n"))
    assert data.class_names == ("no", "1e3")


# --- boxes that cannot be used: dropped or clipped, counted, logged once ---

BAD_BOXES = {
    "box_not_finite": ("NaN", [float("nan"), 1, 5, 5]),
    "box_empty": ("zero area", [20, 1, 0, 5]),
    "box_off_image": ("wholly outside", [65, 1, 5, 5]),
    "box_malformed": ("not four numbers", [20, 1, "wide", 5]),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_unusable_box_is_dropped_and_counted(tmp_path, caplog, kind):
    words, bbox = BAD_BOXES[kind]
    content = make.coco_content()
    content["annotations"].append({"id": 50, "image_id": 2, "category_id": 1, "bbox": bbox})
    with caplog.at_level(logging.WARNING, logger="headway"):
        data = open_dataset(make.coco(tmp_path, content))
    assert make.truth(data) == make.EXPECTED
    assert len(data.notes) == 1
    assert data.notes[0].startswith("1 x ")
    assert words in data.notes[0]
    assert "annotation 50" in data.notes[0]
    assert len(caplog.records) == 1


def test_box_that_reaches_outside_is_clipped(tmp_path):
    content = make.coco_content()
    content["annotations"][2] |= {"bbox": [-4, 40, 20, 20]}
    data = open_dataset(make.coco(tmp_path, content))
    assert data.records[1].boxes.tolist() == [[0, 40, 16, 48]]
    assert "reaches outside" in data.notes[0]
    content["annotations"][2] |= {"bbox": [-0.3, 40, 20, 8.4]}
    data = open_dataset(make.coco(tmp_path, content))
    np.testing.assert_allclose(data.records[1].boxes, [[0, 40, 19.7, 48]], rtol=1e-6)
    assert data.notes == [], "a rounding error is not worth a word"


# --- writers ---


@pytest.mark.parametrize("target", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("source", ["coco", "voc", "yolo"])
def test_every_format_converts_into_every_other(tmp_path, bccd, source, target):
    splits = bccd[source]
    write_dataset(splits, tmp_path / "out", target)
    back = open_splits(tmp_path / "out")
    assert {data.format for data in back.values()} == {target}
    expected, found = by_picture(splits), by_picture(back)
    assert found.keys() == expected.keys()
    for key in expected:
        assert [row[0] for row in found[key]] == [row[0] for row in expected[key]]
        np.testing.assert_allclose([r[1:] for r in found[key]], [r[1:] for r in expected[key]], atol=1e-3)
    assert back["train"].class_names == splits["train"].class_names


def test_written_coco_is_read_by_pycocotools(tmp_path, bccd):
    from pycocotools.coco import COCO

    write_dataset(bccd["voc"], tmp_path / "out", "coco")
    coco = COCO(str(tmp_path / "out" / "annotations" / "val.json"))
    assert len(coco.imgs) == 6
    total = sum(record.areas.sum() for record in bccd["voc"]["val"].records)
    assert sum(row["area"] for row in coco.loadAnns(coco.getAnnIds(iscrowd=False))) == pytest.approx(total)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["Platelets", "RBC", "WBC"]


def test_written_yolo_is_read_by_supervision(tmp_path, bccd):
    supervision = pytest.importorskip("supervision")
    write_dataset(bccd["coco"], tmp_path / "out", "yolo")
    peer = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "out" / "images" / "train"),
        str(tmp_path / "out" / "labels" / "train"),
        str(tmp_path / "out" / "data.yaml"),
    )
    assert peer.classes == ["RBC", "WBC", "Platelets"]
    found = {path.rsplit("/", 1)[1]: boxes for path, boxes in peer.annotations.items()}
    for record in bccd["coco"]["train"].records:
        np.testing.assert_allclose(found[record.path.name].xyxy, record.boxes, atol=1e-2)
        np.testing.assert_array_equal(found[record.path.name].class_id, record.labels)


def test_same_file_names_from_two_folders_stay_apart(tmp_path):
    content = make.coco_content()
    for image, name in zip(content["images"], ("x/a.jpg", "y/a.jpg", "y/A.jpg")):
        image["file_name"] = name
        make.picture(tmp_path / "in" / "train" / name, image["id"])
    make.coco(tmp_path / "in", content)
    data = open_dataset(tmp_path / "in")
    for format in ("coco", "voc", "yolo"):
        write_dataset(data, tmp_path / format, format)
        back = open_splits(tmp_path / format)["train"]
        assert len({record.path for record in back.records}) == 3
        found = {record.path.read_bytes(): record.boxes.tolist() for record in back.records}
        for record in data.records:
            np.testing.assert_allclose(found[record.path.read_bytes()], record.boxes.tolist(), atol=1e-4)


def test_crowd_is_kept_in_coco_and_left_out_elsewhere(tmp_path):
    content = make.coco_content()
    content["annotations"][1]["iscrowd"] = 1
    data = open_dataset(make.coco(tmp_path / "in", content))
    write_dataset(data, tmp_path / "coco", "coco")
    assert open_dataset(tmp_path / "coco").records[0].crowd.tolist() == [False, True]
    for format in ("voc", "yolo"):
        write_dataset(data, tmp_path / format, format)
        assert open_splits(tmp_path / format)["train"].num_boxes == 2


def test_nothing_is_overwritten(tmp_path):
    data = open_dataset(make.coco(tmp_path / "in"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        write_dataset(data, tmp_path / "out", "voc")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious.txt"]


def test_hard_links_share_the_bytes(tmp_path):
    data = open_dataset(make.coco(tmp_path / "in"))
    write_dataset(data, tmp_path / "out", "coco", hardlink=True)
    back = open_dataset(tmp_path / "out")
    assert [r.path.stat().st_ino for r in back.records] == [r.path.stat().st_ino for r in data.records]


def test_layout_names_its_splits_without_reading_them(tmp_path):
    make.coco(tmp_path)
    (tmp_path / "annotations" / "val.json").write_text('{"images": [')
    assert sorted(find_dataset(tmp_path).splits) == ["train", "val"]
    assert len(open_dataset(tmp_path, split="train")) == 3
