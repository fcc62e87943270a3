"""The report folder: its JSON, and a page that loads nothing and shows every string as text."""

import base64
import dataclasses
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headway.data.dataset import DetectionData, Record
from headway.errors import HeadwayError
from headway.evaluate import evaluate
from headway.evaluate.report import write_report
from headway.types import ModelCard

HOSTILE = ('<script>alert("x")</script>', "_under & $x^$", '"><img src=http://example.com/a.png>')
VOID = {"meta", "img", "br", "use", "path", "rect", "input"}


class Page(HTMLParser):
    """Tags and attributes of a page; complains about tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def make_data(folder, names=("cat", "dog", "gnu"), images=3, stem="picture"):
    """Images of 90 x 60 with a box of class i % C at the left, and one of class 0 at the right."""
    records = []
    for i in range(images):
        path = folder / f"{stem}{i}.png"
        Image.fromarray(np.full((60, 90, 3), 60 + i, np.uint8)).save(path)
        boxes = np.array([[5, 5, 35, 45], [50, 10, 80, 50]], np.float32)
        labels = np.array([i % len(names), 0])
        areas = np.full(2, 1200, np.float32)
        records.append(Record(i + 1, path, (60, 90), boxes, labels, np.zeros(2, bool), areas))
    return DetectionData("val", folder, "coco", records, tuple(names), tuple(range(1, len(names) + 1)))


def find_left(data):
    """The left box of every image found, the right one of image 1 given the last class, the others' missed."""
    rows = [
        {"image_id": r.image_id, "category_id": int(r.labels[0]) + 1, "bbox": [5, 5, 30, 40], "score": 0.9}
        for r in data.records
    ]
    last = len(data.class_names)
    return [*rows, {"image_id": 1, "category_id": last, "bbox": [50, 10, 30, 40], "score": 0.8}]


def write(folder, data, results, **arguments):
    card = ModelCard(model="atss_r18_fpn", class_names=data.class_names, input_size=(320, 427))
    metrics = evaluate(results, data)
    path = write_report(folder, data=data, results=results, metrics=metrics, card=card, **arguments)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    return report, path.read_text(encoding="utf-8"), metrics


def test_report_by_hand(tmp_path):
    """Six boxes, three found at 0.9, one confused at 0.8: the best F1 is at 0.9, with precision 1, recall 1/2, F1 2/3;
    at 0.5 the confusion is seen, and image 1 is the worst with error 1 + 0.8."""
    data = make_data(tmp_path)
    report, text, metrics = write(tmp_path / "a", data, find_left(data), seconds=1.5)
    assert report["metrics"]["ap"] == metrics.ap
    assert report["operating_point"] == {"threshold": 0.9, "precision": 1, "recall": 0.5, "f1": 2 / 3, "given": False}
    assert [row["missed"] for row in report["worst"]] == [{"cat": 1}] * 3
    assert "2.0 images/s" in text
    report, text, _ = write(tmp_path / "b", data, find_left(data), score_threshold=0.5)
    assert report["confusion"]["matrix"] == [[1, 0, 1, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert report["worst"][0]["error"] == pytest.approx(1.8)
    assert report["worst"][0]["wrong"] == [{"name": "gnu", "score": 0.8}]
    assert [row["boxes"] for row in report["sizes"]] == [0, 6, 0]
    assert [row["threshold"] for row in report["classes"]] == [0.9, 0.9, 0.9]
    assert "wrong gnu 0.80" in text


def test_pictures_are_in_the_folder_and_in_the_page(tmp_path):
    data = make_data(tmp_path)
    report, text, _ = write(tmp_path / "report", data, find_left(data), worst=2)
    assert [row["picture"] for row in report["worst"]] == ["worst/01_picture0.jpg", "worst/02_picture1.jpg"]
    for row in report["worst"]:
        assert Image.open(tmp_path / "report" / row["picture"]).size == (90 + 12 + 90, 60)
    assert text.count('src="data:image/jpeg;base64,') == 2
    missed = Image.open(tmp_path / "report" / "worst" / "02_picture1.jpg")
    assert min(missed.getpixel((47, 30))) > 200  # the white frame, 3 pixels left of the right box
    assert max(missed.getpixel((2, 30))) < 90  # none around the left box, which was found
    for name in ("precision_recall.png", "confusion.png"):
        assert Image.open(tmp_path / "report" / name).width > 300


def test_a_large_picture_is_shown_small(tmp_path):
    data = make_data(tmp_path, images=1)
    Image.new("RGB", (1280, 200)).save(data.records[0].path)
    report, _, _ = write(tmp_path / "report", data, [])
    assert Image.open(tmp_path / "report" / report["worst"][0]["picture"]).size == (640 + 12 + 640, 100)


def test_page_loads_nothing_and_escapes_every_string(tmp_path):
    data = make_data(tmp_path, HOSTILE, stem="a&b'<i>")
    data = dataclasses.replace(data, name="<b>title</b>")
    _, text, _ = write(tmp_path / "report", data, find_left(data), score_threshold=0.5)
    page = Page(text)
    assert not {"i", "link", "iframe", "object", "foreignobject"} & set(page.tags)
    assert page.tags.count("script") == 2  # the data of the errors, and the code whose hash the policy has
    code = base64.b64encode(hashlib.sha256(page.text[-2].encode()).digest()).decode()
    assert f"script-src 'sha256-{code}'" in text
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/", "#")), (tag, name, value)
    assert "url(http" not in text
    assert "@import" not in text
    shown = "".join(page.text)
    for name in (*HOSTILE, "<b>title</b>", "a&b'<i>0.png"):
        assert name in shown
    assert any(name == "content" and "default-src 'none'" in value for _, name, value in page.attributes)


@pytest.mark.parametrize("case", ["no detections", "no boxes", "no images", "no classes"])
def test_empty_inputs_make_a_page(tmp_path, case):
    data = make_data(tmp_path)
    results = [] if case != "no boxes" else find_left(data)
    if case == "no boxes":
        nothing = [np.zeros((0, 4), "f4"), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, "f4")]
        records = [Record(r.image_id, r.path, r.size, *nothing) for r in data.records]
        data = DetectionData("val", tmp_path, "coco", records, data.class_names, data.category_ids)
    elif case == "no images":
        data = data.subset([], "val")
    elif case == "no classes":
        data = DetectionData("val", tmp_path, "coco", [], (), ())
    report, text, _ = write(tmp_path / "report", data, results)
    Page(text)
    assert report["metrics"]["ap"] == (0 if case == "no detections" else None)
    assert "–" in text
    assert report["operating_point"]["threshold"] == 0.5


def test_the_tab_of_errors(tmp_path):
    """The right box of image 1 is named gnu: a classification error. Those of images 2 and 3 are missed; nothing else.
    The worst of both kinds are pictures, and report.json has the counts."""
    data = make_data(tmp_path)
    report, text, _ = write(tmp_path / "report", data, find_left(data))
    kinds = {kind: n for kind, n in report["errors"]["all"]["counts"].items() if n}
    assert kinds == {"classification": 1, "missed": 2}
    listed = json.loads(next(part for part in Page(text).text if part.startswith("[{")))
    assert [(row["kind"], row["class"], row["text"]) for row in listed] == [
        ("classification", "gnu", "gnu 0.80 on a cat"), ("missed", "cat", "cat"), ("missed", "cat", "cat")
    ]  # fmt: skip
    assert report["errors"]["all"]["gains"]["classification"] >= report["errors"]["all"]["gains"]["missed"] > 0
    assert listed[0]["detail"] == "IoU 1.00 with a box of cat, at 50, 10, 30 x 40 pixels"
    assert all(row["picture"].startswith("data:image/jpeg;base64,") for row in listed)


def test_many_classes(tmp_path):
    data = make_data(tmp_path, [f"class {i}" for i in range(85)])
    report, text, _ = write(tmp_path / "report", data, find_left(data), score_threshold=0.5)
    assert len(report["confusion"]["matrix"]) == 86
    assert "class 0 taken for class 84" in "".join(Page(text).text)


def test_a_picture_that_has_gone_is_said_not_raised(tmp_path):
    data = make_data(tmp_path)
    data.records[1].path.unlink()
    report, text, _ = write(tmp_path / "report", data, find_left(data))
    gone = next(row for row in report["worst"] if row["image_id"] == 2)
    assert gone["picture"] == ""
    assert "does not exist" in gone["problem"]
    assert "does not exist" in text


def test_nothing_is_overwritten_unasked(tmp_path):
    data, folder = make_data(tmp_path), tmp_path / "report"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(HeadwayError, match="not empty"):
        write(folder, data, [])
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    with pytest.raises(HeadwayError, match="is a file"):
        write(folder / "mine.txt", data, [])


def test_file_names_cannot_leave_the_folder(tmp_path):
    data = make_data(tmp_path, images=1)
    old = data.records[0]
    path = tmp_path / ".. .png"
    old.path.rename(path)
    record = Record(1, path, old.size, old.boxes, old.labels, old.crowd, old.areas)
    data = DetectionData("val", Path("."), "coco", [record], data.class_names, data.category_ids)
    report, _, _ = write(tmp_path / "report", data, [])
    assert report["worst"][0]["picture"] == "worst/01_.._.jpg"
