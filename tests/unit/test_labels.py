"""Data sets of detections: read back by headway's readers, and held against what CVAT and Label Studio demand."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from headway.data.formats.any_format import open_dataset, open_splits
from headway.data.formats.check import check
from headway.detections import Detections
from headway.errors import DataError
from headway.predict.labels import Labels
from headway.runtime.found import Found

NAMES = ("red cell", "white & <round>", "Blutplättchen")
BOXES = [[10.25, 5.5, 60.0, 40.125], [0.0, 0.0, 20.0, 30.0], [70.0, 50.0, 119.75, 90.0]]
SCORES, LABELS = [0.9321, 0.5, 0.123456], [2, 0, 1]
FORMATS = ("coco", "voc", "yolo")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures of one name in two folders, and one without objects."""
    files = [tmp_path / "in" / name for name in ("a/1.jpg", "b/1.png", "empty one.jpg")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (120, 90), (200, 180, 160)).save(file)
    return files


def labelled(pictures: list[Path], **card: object) -> Labels:
    labels = Labels(NAMES, model="resnet18/fpn/atss", **card)
    boxes = torch.tensor(BOXES)
    found = Detections(boxes, torch.tensor(SCORES), torch.tensor(LABELS), NAMES, size=(90, 120))
    labels.add(pictures[0], found)
    labels.add(pictures[1], Found(boxes.numpy()[:1], np.array(SCORES[:1]), np.array(LABELS[:1]), NAMES, size=(90, 120)))
    labels.add(pictures[2], found[:0])
    return labels


@pytest.mark.parametrize("format", FORMATS)
def test_own_readers_open_it(format: str, pictures: list[Path], tmp_path: Path) -> None:
    """Also beside predictions.json, which `headway predict` puts there."""
    out = tmp_path / "out"
    labelled(pictures).write(out, format)
    (out / "predictions.json").write_text('[{"image_id": "1", "bbox": [1, 2, 3, 4], "score": 0.5}]')
    data = open_dataset(out)
    assert (data.format, data.name) == (format, "train")
    assert [record.path.name for record in data.records] == ["1.jpg", "b_1.png", "empty one.jpg"]
    for record, source in zip(data.records, pictures):
        assert record.path.read_bytes() == source.read_bytes()
        assert record.size == (90, 120)
    # Where a format has no list of classes in an order of its own, they are read by name.
    read = [[data.class_names[label] for label in record.labels] for record in data.records]
    assert read == [[NAMES[label] for label in LABELS], [NAMES[2]], []]
    assert set(data.class_names) == set(NAMES)
    np.testing.assert_allclose(data.records[0].boxes, BOXES, atol=1e-3)
    np.testing.assert_allclose(data.records[1].boxes, BOXES[:1], atol=1e-3)
    kinds = {problem.kind for problem in check(out).problems}
    assert kinds <= {"no_boxes", "duplicate_image"}  # the fixture's are alike


@pytest.mark.parametrize("format", FORMATS)
def test_scores_are_kept(format: str, pictures: list[Path], tmp_path: Path) -> None:
    labelled(pictures).write(tmp_path / "out", format)
    assert read_scores(tmp_path / "out", format) == pytest.approx(SCORES, abs=1e-6)


def read_scores(out: Path, format: str) -> list[float]:
    """Of the first picture."""
    if format == "coco":
        content = json.loads((out / "annotations/instances_train.json").read_text())
        return [row["score"] for row in content["annotations"] if row["image_id"] == content["images"][0]["id"]]
    if format == "voc":
        entries = ET.parse(out / "Annotations/1.xml").iterfind("object")
        return [float(entry.findtext("attributes/attribute[name='score']/value")) for entry in entries]
    plain = (out / "labels/train/1.txt").read_text().splitlines()
    scored = [row.rsplit(" ", 1) for row in (out / "scores/train/1.txt").read_text().splitlines()]
    assert [row for row, _ in scored] == plain
    return [float(score) for _, score in scored]


def test_coco_as_cvat_demands(pictures: list[Path], tmp_path: Path) -> None:
    """datumaro 1.x of CVAT, plugins/coco_format/extractor.py: these fields, of these types."""
    labelled(pictures, category_ids=(1, 5, 9)).write(tmp_path / "out", "coco")
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [(entry["id"], entry["name"]) for entry in content["categories"]] == list(zip((1, 5, 9), NAMES))
    assert isinstance(content["licenses"], list)
    ids = {image["id"] for image in content["images"]}
    for image in content["images"]:
        assert all(isinstance(image[key], int) for key in ("id", "height", "width"))
        assert (tmp_path / "out/images/train" / image["file_name"]).is_file()
    assert len({row["id"] for row in content["annotations"]}) == len(content["annotations"]) == 4
    for row in content["annotations"]:
        assert row["image_id"] in ids
        assert row["category_id"] in (1, 5, 9)
        assert (row["segmentation"], row["iscrowd"], len(row["bbox"])) == ([], 0, 4)
        assert isinstance(row["score"], float)


def test_numbers_of_files_are_cocos_ids(tmp_path: Path) -> None:
    labels = Labels(NAMES)
    for name in ("000000000139.jpg", "7.jpg"):
        Image.new("RGB", (120, 90)).save(tmp_path / name)
        labels.add(tmp_path / name, Found(np.array(BOXES), np.array(SCORES), np.array(LABELS), NAMES, size=(90, 120)))
    labels.write(tmp_path / "out", "coco")
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [image["id"] for image in content["images"]] == [139, 7]


def test_yolo_as_cvat_demands(pictures: list[Path], tmp_path: Path) -> None:
    """The same, plugins/yolo_format: every other key of data.yaml is a split, whose list names pictures from the
    folder of data.yaml on, each with a file in labels/; a row has five fields."""
    labelled(pictures).write(tmp_path / "out", "yolo")
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    reserved = {"path", "names", "classes", "backup", "kpt_shape", "flip_idx"}
    assert set(content) - reserved == {"train"}
    assert [content["names"][number] for number in range(3)] == list(NAMES)
    listed = [os.path.normpath(line) for line in (tmp_path / "out" / content["train"]).read_text().splitlines()]
    assert len(listed) == 3
    for name in listed:
        assert (tmp_path / "out" / name).is_file()
        labels = (tmp_path / "out" / "labels" / Path(name).relative_to("images")).with_suffix(".txt")
        assert all(len(row.split()) == 5 for row in labels.read_text().splitlines())


def test_voc_as_cvat_demands(pictures: list[Path], tmp_path: Path) -> None:
    labelled(pictures).write(tmp_path / "out", "voc")
    stems = (tmp_path / "out/ImageSets/Main/train.txt").read_text().splitlines()
    assert stems == ["1", "b_1", "empty one"]
    named = [line.split(":")[0] for line in (tmp_path / "out/labelmap.txt").read_text(encoding="utf-8").splitlines()]
    assert named == list(NAMES)
    for stem in stems:
        tree = ET.parse(tmp_path / f"out/Annotations/{stem}.xml").getroot()
        assert (tmp_path / "out/JPEGImages" / tree.findtext("filename")).is_file()
        assert (tree.findtext("size/width"), tree.findtext("size/height")) == ("120", "90")
        for entry in tree.iterfind("object"):
            assert entry.findtext("name") in NAMES
            corners = [float(entry.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")]
            assert corners[0] < corners[2] <= 120
            assert corners[1] < corners[3] <= 90


@pytest.mark.parametrize("format", FORMATS)
def test_label_studio_as_documented(format: str, pictures: list[Path], tmp_path: Path) -> None:
    """labelstud.io/guide/predictions and task_format: regions in per cent whose names are those of the interface.

    The first box is 10.25..60 of 120 pixels wide: x = 8.541667 %, width = 41.458333 %.
    """
    out = tmp_path / "my labels"
    labelled(pictures).write(out, format)
    view = ET.parse(out / "label_studio.xml").getroot()
    image, control = view.find("Image"), view.find("RectangleLabels")
    assert (image.get("name"), image.get("value")) == (control.get("toName"), "$image")
    assert [label.get("value") for label in control] == list(NAMES)
    tasks = json.loads((out / "label_studio.json").read_text(encoding="utf-8"))
    assert len(tasks) == 3
    for task in tasks:
        place = task["data"]["image"]
        assert place.startswith("/data/local-files/?d=my%20labels/")
        assert (tmp_path / unquote(place.partition("=")[2])).is_file()
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "resnet18/fpn/atss"
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"]) == (control.get("name"), image.get("name"))
            assert (region["type"], region["original_width"], region["original_height"]) == ("rectanglelabels", 120, 90)
            assert region["value"]["rectanglelabels"][0] in NAMES
        assert len({region["id"] for region in prediction["result"]}) == len(prediction["result"])
    first, last = (task["predictions"][0] for task in (tasks[0], tasks[2]))
    assert first["score"] == pytest.approx(sum(SCORES) / 3, abs=1e-6)
    assert [region["score"] for region in first["result"]] == pytest.approx(SCORES, abs=1e-6)
    value = first["result"][0]["value"]
    assert (value["x"], value["width"]) == (pytest.approx(8.541667), pytest.approx(41.458333))
    assert (last["score"], last["result"]) == (0.0, [])


def test_bytes_are_shared_only_when_asked(pictures: list[Path], tmp_path: Path) -> None:
    for hardlink in (False, True):
        out = tmp_path / f"out-{hardlink}"
        labelled(pictures).write(out, "coco", hardlink=hardlink)
        assert (out / "images/train/1.jpg").samefile(pictures[0]) == hardlink


def test_a_turned_picture_keeps_the_boxes_of_the_upright_one(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was on its side: stored 120 x 90, upright 90 x 120
    Image.new("RGB", (120, 90)).save(tmp_path / "turned.jpg", exif=exif)
    boxes = np.array([[5.0, 100.0, 80.0, 118.0]])
    for format in FORMATS:
        labels = Labels(NAMES)
        labels.add(tmp_path / "turned.jpg", Found(boxes, np.array([0.5]), np.array([0]), NAMES, size=(120, 90)))
        labels.write(tmp_path / format, format)
        (record,) = open_dataset(tmp_path / format).records
        assert record.size == (120, 90)
        np.testing.assert_allclose(record.boxes, boxes, atol=1e-3)


def test_nothing_is_overwritten_and_nothing_is_no_data_set(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/a.txt").touch()
    with pytest.raises(DataError, match="not empty"):
        labelled(pictures).write(tmp_path / "taken", "voc")
    Labels(NAMES).write(tmp_path / "none", "coco")
    assert not (tmp_path / "none").exists()
    flat = Found(np.array([[5.0, 5.0, 5.0, 9.0], *BOXES]), np.ones(4), np.zeros(4, int), NAMES, size=(90, 120))
    labels = Labels(NAMES)
    labels.add(pictures[0], flat)
    labels.write(tmp_path / "flat", "yolo")
    assert len(open_splits(tmp_path / "flat")["train"].records[0].boxes) == 3
