"""Folders as annotation tools and other trainers leave them, and which of several formats a folder is in."""

import json
import logging

import builders as make
import pytest

from headway.commands.data import ConvertData
from headway.data.formats.any_format import find_dataset, open_dataset, open_splits, write_dataset
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.data.open_data import open_data
from headway.data.split import stratified_split
from headway.errors import DataError


def darknet(folder, base="obj_train_data", prefix="data/"):
    """CVAT's "YOLO 1.1": the stated paths begin with a folder that is not there."""
    make.yolo(folder, base, base, None)
    (folder / base / "c.txt").write_text("")
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "obj.data").write_text(
        f"classes = 2\nnames = {prefix}obj.names\ntrain = {prefix}train.txt\nbackup = backup/\n"
    )
    (folder / "train.txt").write_text("".join(f"{prefix}{base}/{name}\r\n" for name in make.TRUTH))


def darknet_pictures_apart(folder):
    darknet(folder)
    (folder / "my pictures").mkdir()
    for path in (folder / "obj_train_data").glob("*.jpg"):
        path.rename(folder / "my pictures" / path.name)


def darknet_without_list(folder):
    darknet(folder)
    (folder / "train.txt").unlink()


def darknet_elsewhere(folder):
    darknet(folder, "images", "/home/me/darknet/build/data/")


def roboflow_darknet(folder):
    for split in ("train", "valid"):
        make.yolo(folder, split, split, None)
        (folder / split / "_darknet.labels").write_text("cat\ndog")


def label_img(folder):
    """classes.txt, pictures of a camera and label files in one folder."""
    make.yolo(folder, ".", ".", None)
    (folder / "classes.txt").write_text("cat\r\ndog\r\n")


def label_img_below(folder):
    label_img(folder / "pictures")


def label_studio_yolo(folder):
    make.yolo(folder, "images", "labels", None)
    (folder / "classes.txt").write_text("cat\ndog\n")
    notes = {
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "info": {"contributor": "Label Studio"},
    }
    make.dump(folder / "notes.json", notes)


def beside_in_images(folder):
    make.yolo(folder, "images/train", "images/train")


def upper_case(folder):
    make.yolo(folder, "Images/Train", "Labels/Train", None)
    (folder / "classes.txt").write_text("cat\ndog\n")
    for file in (folder / "Labels" / "Train").iterdir():
        file.rename(file.with_suffix(".TXT"))


def folders_that_are_no_splits(folder):
    """Pictures by day: a split for each would be none."""
    make.yolo(folder, "images/monday", "labels/monday", None)
    (folder / "images" / "monday" / "b.jpg").rename(folder / "images" / "b.jpg")
    (folder / "labels" / "monday" / "b.txt").rename(folder / "labels" / "b.txt")
    (folder / "classes.txt").write_text("cat\ndog\n")


def machine_of_others(folder):
    make.yolo(
        folder, "train/images", "train/labels", "train: /content/datasets/pets-3/train/images\nnames: [cat, dog]\n"
    )


def windows_machine(folder):
    make.yolo(folder, yaml="path: C:\\data\\pets\ntrain: C:\\data\\pets\\images\\train\nnames: [cat, dog]\n")


def list_of_another_machine(folder):
    make.yolo(folder, yaml="train: train.txt\nnames: [cat, dog]\n")
    lines = [f"/Users/me/pets/images/train/{name}" for name in make.TRUTH]
    (folder / "train.txt").write_text("\ufeff" + "\r\n".join(lines))


def names_by_number(folder):
    """From 1, as the label files have them."""
    make.yolo(folder, yaml="train: images/train\nnc: 2\nnames:\n  1: cat\n  2: dog\n")
    for file in (folder / "labels" / "train").iterdir():
        file.write_text("".join(f"{int(line[0]) + 1}{line[1:]}\n" for line in file.read_text().splitlines()))


def cvat_voc(folder):
    make.voc(folder, "JPEGImages/day 1", "Annotations/day 1")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "default.txt").write_text('"day 1/a"\nday 1/b\nday 1/c.jpg\n')
    labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:1,2,3::\n"
    (folder / "labelmap.txt").write_text(labels)


def lists_with_suffixes(folder):
    make.voc(folder)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "default.txt").write_text("a.jpg\r\nb.xml 1\r\nc.JPG -1\r\n")


def names_with_spaces(folder):
    make.voc(folder)
    (folder / "ImageSets").mkdir()
    for base, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (folder / base / f"c.{suffix}").rename(folder / base / f"c 1.{suffix}")
    (folder / "ImageSets" / "train.txt").write_text("a 1\nb\nc 1\n")


def fiftyone_yolo(folder):
    make.yolo(folder, yaml=None)
    yaml = "names:\n  0: cat\n  1: dog\npath: /home/me/export\ntrain: ./images/train/\nval: ./images/val/\n"
    (folder / "dataset.yaml").write_text(yaml)


def cvat_ultralytics(folder):
    make.yolo(folder, yaml="names:\n  0: cat\n  1: dog\npath: .\ntrain: train.txt\n")
    (folder / "train.txt").write_text("".join(f"data/images/train/{name}\n" for name in make.TRUTH))


LAYOUTS = {
    "darknet": (darknet, "yolo", "train"),
    "darknet_pictures_apart": (darknet_pictures_apart, "yolo", "train"),
    "darknet_without_list": (darknet_without_list, "yolo", "train"),
    "darknet_elsewhere": (darknet_elsewhere, "yolo", "train"),
    "roboflow_darknet": (roboflow_darknet, "yolo", "train"),
    "label_img": (label_img, "yolo", "all"),
    "label_img_below": (label_img_below, "yolo", "all"),
    "label_studio_yolo": (label_studio_yolo, "yolo", "all"),
    "beside_in_images": (beside_in_images, "yolo", "train"),
    "upper_case": (upper_case, "yolo", "train"),
    "folders_that_are_no_splits": (folders_that_are_no_splits, "yolo", "all"),
    "machine_of_others": (machine_of_others, "yolo", "train"),
    "windows_machine": (windows_machine, "yolo", "train"),
    "list_of_another_machine": (list_of_another_machine, "yolo", "train"),
    "names_by_number": (names_by_number, "yolo", "train"),
    "cvat_voc": (cvat_voc, "voc", "all"),
    "lists_with_suffixes": (lists_with_suffixes, "voc", "all"),
    "xml": (lambda folder: make.voc(folder, "images", "xml"), "voc", "all"),
    "labels": (lambda folder: make.voc(folder, "images", "labels"), "voc", "all"),
    "any_folders": (lambda folder: make.voc(folder, "my pics", "ground truth"), "voc", "all"),
    "nested": (lambda folder: make.voc(folder, "JPEGImages/train", "Annotations/train"), "voc", "train"),
    "fiftyone": (
        lambda f: (make.pictures(f / "data"), make.dump(f / "labels.json", make.coco_content())), "coco", "all",
    ),
    "fiftyone_voc": (lambda folder: make.voc(folder, "data", "labels"), "voc", "all"),
    "fiftyone_yolo": (fiftyone_yolo, "yolo", "train"),
    "cvat_yolo": (cvat_ultralytics, "yolo", "train"),
    "cvat_coco": (
        lambda f: (make.pictures(f / "images" / "default"),
                   make.dump(f / "annotations" / "instances_default.json", make.coco_content())), "coco", "all",
    ),
    "json_per_split": (
        lambda f: (make.pictures(f / "train" / "images"), make.dump(f / "train" / "labels.json", make.coco_content())),
        "coco", "train",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_a_tool_is_read_and_mended(tmp_path, name):
    build, format, split = LAYOUTS[name]
    build(tmp_path / "data")
    splits = open_splits(tmp_path / "data")
    assert next(iter(splits)) == split
    assert splits[split].format == format
    assert splits[split].class_names == make.NAMES
    assert make.truth(splits[split]) == make.EXPECTED
    if name != "fiftyone_yolo":  # it names a split that is not there
        assert check(tmp_path / "data").ok
    fix(tmp_path / "data", tmp_path / "fixed")
    assert make.truth(next(iter(open_splits(tmp_path / "fixed").values()))) == make.EXPECTED


def test_an_export_without_its_pictures_says_what_is_missing(tmp_path):
    darknet(tmp_path)
    for path in (tmp_path / "obj_train_data").glob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="does not exist, nor does any other: export again with the pictures"):
        open_dataset(tmp_path)


def test_lists_of_names_with_spaces(tmp_path):
    names_with_spaces(tmp_path)
    found = make.truth(open_dataset(tmp_path))
    assert {name: len(boxes) for name, boxes in found.items()} == {"a.jpg": 2, "b.jpg": 1, "c 1.jpg": 0}


def test_listed_pictures_without_xml_are_background(tmp_path):
    folder = make.voc(tmp_path)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nc\n")
    (folder / "Annotations" / "c.xml").unlink()
    data = open_dataset(folder)
    assert make.truth(data) == make.EXPECTED
    assert data.records[2].size == (48, 64)


def test_label_files_elsewhere_are_an_error_that_says_where(tmp_path):
    folder = make.yolo(tmp_path / "data", labels="annotations/train")
    with pytest.raises(
        DataError, match=r"3 of 3 pictures.*should have labels/train/a\.txt; a\.txt lies in annotations/"
    ):
        open_dataset(folder)
    with pytest.raises(DataError, match="no box of split 'train' is left"):
        fix(folder, tmp_path / "fixed")


def test_two_class_lists_that_contradict_are_refused(tmp_path):
    roboflow_darknet(tmp_path)
    (tmp_path / "valid" / "_darknet.labels").write_text("dog\ncat")
    with pytest.raises(DataError, match="in another order"):
        open_splits(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "names"),
    [
        ("nc: 4\n", ("class_0", "class_1", "class_2", "class_3")),
        ("nc: '2'\nnames: []\n", ("class_0", "class_1")),
        ("nc: 3\nnames: {0: cat, 1: dog, 7: eel}\n", ("cat", "dog", "eel")),
        ("nc: 8\nnames: {0: cat, 1: dog, 7: eel}\n", ("cat", "dog", "eel")),
        ("names: {'1': dog, '0': cat}\n", ("cat", "dog")),
    ],
)
def test_names_of_data_yaml(tmp_path, yaml, names):
    data = open_dataset(make.yolo(tmp_path, yaml=f"train: images/train\n{yaml}"))
    assert data.class_names == names
    assert [len(record.boxes) for record in data.records] == [2, 1, 0]


def test_class_numbers_with_gaps_keep_their_boxes(tmp_path):
    folder = make.yolo(tmp_path, yaml="train: images/train\nnames: {0: cat, 1: dog, 7: eel}\n")
    (folder / "labels" / "train" / "b.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    assert [name for _, name in make.truth(open_dataset(folder))["b.jpg"]] == ["eel"]
    (folder / "labels" / "train" / "b.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"class 2, but data\.yaml has \[0, 1, 7\]"):
        open_dataset(folder)


# --- which of several ---


def test_other_json_and_yaml_files_are_no_data_set(tmp_path):
    folder = make.yolo(tmp_path)
    make.dump(folder / "package.json", {"name": "x", "info": {}, "categories": ["a"]})
    make.dump(folder / "results.json", [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}])
    (folder / "args.yaml").write_text("nc: 80\nbackbone: []\n")
    (folder / "broken.yaml").write_text("a: [b\nc: d: e\n")
    data = open_dataset(folder)
    assert (data.format, data.reason) == ("yolo", "data.yaml")


def test_predictions_beside_annotations_are_passed_over(tmp_path):
    content = make.coco_content()
    for row in content["annotations"]:
        row["score"] = 0.5
    for number, folder in enumerate((make.yolo(tmp_path / "yolo"), make.coco(tmp_path / "coco"))):
        base = ("images/train", "train")[number]
        for image in content["images"]:
            image["file_name"] = f"{base}/{image['file_name'].rpartition('/')[2]}"
        make.dump(folder / "predictions.json", content)
        data = open_dataset(folder)
        assert data.format == folder.name
        assert make.truth(data) == make.EXPECTED
    assert "ignored: predictions" in open_dataset(tmp_path / "yolo").reason


def test_a_format_that_cannot_be_read_is_told_beside_one_that_can(tmp_path):
    folder = make.coco(tmp_path)
    (folder / "data.yaml").write_text("train: train\nnc: 3\nnames: [cat, dog]\n")
    data = open_dataset(folder)
    assert make.truth(data) == make.EXPECTED
    assert "ignored: " in data.reason
    assert "nc is 3" in data.reason


def test_the_format_that_annotates_all_pictures_is_taken(tmp_path):
    """As a download of COCO with YOLO labels: the JSON file is that of val alone."""
    make.yolo(tmp_path, "images/train2017", "labels/train2017", None)
    make.yolo(tmp_path, "images/val2017", "labels/val2017", None)
    make.dump(tmp_path / "annotations" / "instances_val2017.json", make.coco_content())
    splits = open_splits(tmp_path)
    assert {name: (data.format, data.num_boxes) for name, data in splits.items()} == {
        "train": ("yolo", 3),
        "val": ("yolo", 3),
    }
    assert "ignored, with fewer pictures: coco (annotations/*.json)" in splits["train"].reason
    assert open_splits(tmp_path, format="coco")["val"].format == "coco"


def test_repeated_classes_without_boxes_are_left_out(tmp_path):
    """Roboflow's project "cat" has a class "cat" and names itself a class too."""
    content = make.coco_content()
    content["categories"] = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
        {"id": 2, "name": "dog", "supercategory": "cat"},
    ]
    empty = {**content, "annotations": []}
    for split, what in (("train", content), ("valid", content), ("test", empty)):
        make.pictures(tmp_path / split)
        make.dump(tmp_path / split / "_annotations.coco.json", what)
    splits = open_splits(tmp_path)
    assert {(data.class_names, data.category_ids) for data in splits.values()} == {(("cat", "dog"), (1, 2))}
    assert make.truth(splits["val"]) == make.EXPECTED
    assert "has the ids 0, 1; 1 is read" in check(tmp_path).by_kind()["repeated_class"][0].detail


# --- a split that is not used ---


def without_annotations(folder):
    content = make.coco_content()
    del content["annotations"]
    make.dump(folder / "annotations" / "test.json", content)


def missing_picture(folder):
    make.coco(folder, split="test")
    (folder / "test" / "b.jpg").unlink()


def other_classes(folder):
    content = make.coco_content()
    content["categories"] = [{"id": 1, "name": "fox"}, {"id": 2, "name": "gnu"}]
    make.coco(folder, content, "test")


@pytest.mark.parametrize("spoil", [without_annotations, missing_picture, other_classes])
def test_a_fault_in_one_split_stops_only_who_uses_it(tmp_path, caplog, spoil):
    folder = make.coco(tmp_path)
    spoil(folder)
    with caplog.at_level(logging.WARNING, logger="headway"):
        splits = open_data(folder)
    assert [name for name in splits if splits[name] is not splits["train"]] == ["test"]
    assert make.truth(splits["train"]) == make.EXPECTED
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["split 'test' cannot be used"]
    for use in (len, list, lambda data: data.records[0], lambda data: data.num_boxes):
        with pytest.raises(DataError, match=r"annotations|does not exist|share their classes"):
            use(splits["test"].records if use in (len, list) else splits["test"])
    assert not check(folder).ok


def test_splits_of_data_yaml_that_are_not_there(tmp_path):
    yaml = "train: ../train/images\nval: ../valid/images\ntest: /Users/me/test/images\nnames: [cat, dog]\n"
    folder = make.yolo(tmp_path, "train/images", "train/labels", yaml)
    splits = open_splits(folder)
    assert make.truth(splits["train"]) == make.EXPECTED
    for name in ("val", "test"):
        with pytest.raises(DataError, match="does not exist below"):
            len(splits[name])


def test_a_path_outside_that_is_there_is_not_followed(tmp_path):
    make.pictures(tmp_path / "big" / "images")
    folder = make.yolo(tmp_path / "data", yaml=f"train: {tmp_path}/big/images\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match="leads outside the data folder"):
        open_dataset(folder)


# --- what is written ---


def test_written_yolo_has_no_path_and_a_training_split(tmp_path, capsys):
    """`path: .` means the working folder to other tools; they want a split called train, and one called val."""
    ConvertData(path=make.voc(tmp_path / "data"), to="yolo", out=tmp_path / "out").run()
    text = (tmp_path / "out" / "data.yaml").read_text()
    assert text.splitlines() == ["train: images/train", "names:", "  0: cat", "  1: dog"]
    assert make.truth(open_splits(tmp_path / "out")["train"]) == make.EXPECTED
    assert "headway data split" in capsys.readouterr().err


def test_written_voc_states_what_its_readers_demand(tmp_path):
    write_dataset(open_dataset(make.coco(tmp_path / "data")), tmp_path / "out", "voc")
    text = (tmp_path / "out" / "Annotations" / "a.xml").read_text()
    for tag in ("pose", "truncated", "difficult"):
        assert text.count(f"<{tag}>") == 2


def test_a_rotated_box_is_not_turned_again_in_a_copy(tmp_path):
    """20 x 10 about (30, 20), turned by 90 degrees: 10 x 20. CVAT states the box before it is turned."""
    rotation = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    text = make.xml("b.jpg", [((20, 15, 40, 25), 1)]).replace("</object>", f"{rotation}</object>")
    folder = make.voc(tmp_path / "data")
    (folder / "Annotations" / "b.xml").write_text(text)
    (folder / "Annotations" / "c.xml").write_text("<annotation>")  # so that there is something to mend
    fix(folder, tmp_path / "once")
    fix(tmp_path / "once", tmp_path / "twice")
    for copy in ("once", "twice"):
        record = open_dataset(tmp_path / copy).records[1]
        assert record.boxes[0].tolist() == pytest.approx([25, 10, 35, 30], abs=1e-3)


@pytest.mark.parametrize(
    "shape",
    [
        "<robndbox><cx>30</cx><cy>20</cy><w>20</w><h>10</h><angle>1.57079633</angle></robndbox>",
        "<polygon><pt><x>25</x><y>10</y></pt><pt><x>35</x><y>20</y></pt><pt><x>30</x><y>30</y></pt></polygon>",
        "<polygon><x1>25</x1><y1>10</y1><x2>35</x2><y2>20</y2><x3>30</x3><y3>30</y3></polygon>",
        "<bndbox><x1>25</x1><y1>10</y1><x2>35</x2><y2>10</y2><x3>35</x3><y3>30</y3><x4>25</x4><y4>30</y4></bndbox>",
    ],
)
def test_shapes_of_voc_give_their_enclosing_box(tmp_path, shape):
    folder = make.voc(tmp_path)
    text = make.xml("b.jpg", []).replace("</annotation>", f"<object><name>dog</name>{shape}</object></annotation>")
    (folder / "Annotations" / "b.xml").write_text(text)
    data = open_dataset(folder)
    assert data.records[1].boxes[0].tolist() == pytest.approx([25, 10, 35, 30], abs=1e-3)
    assert data.notes[0].startswith("1 x polygon, mask or rotated box")


def test_a_file_under_two_ids_stays_in_one_part(tmp_path):
    content = make.coco_content()
    content["images"] += [{**image, "id": image["id"] + 10} for image in content["images"]]
    data = open_dataset(make.coco(tmp_path, content))
    assert len(data) == 6
    for seed in range(8):
        parts = stratified_split(data, {"train": 0.5, "val": 0.5}, seed)
        paths = [{record.path for record in part.records} for part in parts.values()]
        assert not paths[0] & paths[1]
        assert sum(map(len, parts.values())) == 6
    with pytest.raises(DataError, match="3 images, too few for 4"):
        stratified_split(data, dict.fromkeys("abcd", 0.25))


# --- other tools ---

FOREIGN = {
    "LabelMe": ("a.json", {"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None}),
    "CreateML": ("x.json", [{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]),
    "Label Studio": ("project-1.json", [{"id": 1, "annotations": [{"result": []}], "data": {"image": "/data/a.jpg"}}]),
    "Label Studio's own": ("min.json", [{"image": "/data/a.jpg", "id": 1, "annotator": 1, "annotation_id": 2}]),
    "(VIA)": ("via_project.json", {"_via_settings": {}, "_via_img_metadata": {}, "_via_attributes": {}}),
    "VGG Image Annotator": ("via.json", {"a.jpg99": {"filename": "a.jpg", "size": 99, "regions": []}}),
    "Datumaro": ("default.json", {"info": {}, "categories": {}, "items": []}),
    "Supervisely": ("a.jpg.json", {"size": {"height": 1, "width": 2}, "objects": [], "tags": []}),
    "Roboflow's": ("_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,1,1,cat,1,2,3,4\n"),
    "Open Images": ("train-bbox.csv", "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"),
    "(VIA) CSV": ("via.csv", "#filename,file_size,region_shape_attributes,region_attributes\n"),
    "CVAT's own XML": ("annotations.xml", "<annotations><version>1.1</version><meta></meta></annotations>"),
    "TFRecord": ("cells.tfrecord", "\0"),
}


@pytest.mark.parametrize("tool", FOREIGN)
@pytest.mark.parametrize("place", ["", "train"])
def test_files_of_other_tools_are_refused_with_what_to_export(tmp_path, tool, place):
    name, content = FOREIGN[tool]
    make.pictures(tmp_path / place)
    file = tmp_path / place / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    for path in (tmp_path, file):
        with pytest.raises(DataError, match="COCO") as caught:
            find_dataset(path)
        assert tool in str(caught.value)
        assert "\n" not in str(caught.value)
