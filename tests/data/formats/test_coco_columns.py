"""Large COCO files as columns: the same records as the careful reader's, or None for what it must look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.data.dataset import DetectionData
from headway.data.formats import coco_columns
from headway.data.formats.any_format import find_dataset, open_dataset, open_splits, parse
from headway.data.formats.raw import to_data
from headway.errors import DataError


def content(pictures: int = 12) -> dict[str, Any]:
    """Pictures 7, 14, ... with none to three boxes each, out of order, with polygons, masks and a crowd region."""
    random = np.random.default_rng(0)
    images = [{"id": 7 * (i + 1), "file_name": f"{i:03d} ü.jpg", "height": 90, "width": 120} for i in range(pictures)]
    annotations = []
    for number in range(2 * pictures):
        x, y = (round(float(v), 2) for v in random.uniform(0, (90, 60)))
        box = [x, y, *(round(float(v), 2) for v in random.uniform(1, 30, 2))]
        polygons: Any = [[x, y, x + 1, y, x, y + 1], [1.5, 2, 3, 4, 5, 6]]
        mask = {"counts": [3, 4, 90 * 120 - 7], "size": [90, 120]}
        entry = {"segmentation": mask if number == 3 else polygons, "iscrowd": int(number == 3)}
        entry |= {"id": number + 1, "image_id": 7 * int(random.integers(1, pictures)), "category_id": 1 + number % 2}
        annotations.append(entry | {"bbox": box, "area": box[2] * box[3] / 2})
    categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}]
    info = {"description": 'a "segmentation": [[1, 2]] in a text', "numbers": [1, [2]]}
    return {"info": info, "annotations": annotations, "images": images, "categories": categories}


def write(root: Path, value: dict[str, Any]) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    for image in content()["images"]:
        (root / "train" / image["file_name"]).touch()
    (root / "annotations/train.json").write_text(json.dumps(value))
    return root


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_columns, "LARGE", 0)


def assert_equal(mine: DetectionData, theirs: DetectionData) -> None:
    assert (mine.class_names, mine.category_ids, mine.notes) == (theirs.class_names, theirs.category_ids, theirs.notes)
    assert (mine.name, mine.root, mine.format, mine.reason) == (theirs.name, theirs.root, theirs.format, theirs.reason)
    assert len(mine.records) == len(theirs.records)
    for one, other in zip(mine.records, theirs.records):
        assert (one.image_id, one.path, one.size) == (other.image_id, other.path, other.size)
        for name in ("boxes", "labels", "crowd", "areas"):
            a, b = getattr(one, name), getattr(other, name)
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, name)


@pytest.mark.parametrize("chunk", [1, 17, 4000, 2**20])
def test_the_records_are_those_of_the_careful_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Whatever the places where the stream is cut. Failed before this reader: 860,000 boxes took 2.7 GB."""
    monkeypatch.setattr(coco_columns, "_CHUNK", chunk)
    root = write(tmp_path / "set", content())
    mine, dataset = open_dataset(root), find_dataset(root)
    assert isinstance(mine.records, coco_columns.Columns)
    assert_equal(mine, to_data(parse(dataset, "train")))
    assert isinstance(open_splits(root)["train"].records, coco_columns.Columns)
    assert mine.records[-1].image_id == 84
    assert [record.image_id for record in mine.records[2:4]] == [21, 28]
    with pytest.raises(IndexError):
        mine.records[12]


def test_a_few_boxes_that_cannot_be_used_are_left_out_with_the_same_notes(tmp_path: Path) -> None:
    """Of 24 boxes one is empty and one reaches outside, as in COCO's own files."""
    value = content()
    value["annotations"][5]["bbox"][2] = 0
    value["annotations"][9]["bbox"] = [100.5, 3, 30, 2]
    del value["annotations"][7]["area"]
    root = write(tmp_path / "set", value)
    mine = open_dataset(root)
    assert isinstance(mine.records, coco_columns.Columns)
    assert len(mine.notes) == 2
    assert_equal(mine, to_data(parse(find_dataset(root), "train")))


@pytest.mark.parametrize("stated", ["patch{}/{}", "images/v1/patch{}/{}"])
def test_pictures_in_sub_folders(tmp_path: Path, stated: str) -> None:
    """As Objects365 has them, whose file states folders that its archives lack."""
    value = content()
    root = write(tmp_path / "set", value)
    for number, image in enumerate(value["images"]):
        place = root / f"train/patch{number % 2}"
        place.mkdir(exist_ok=True)
        (root / "train" / image["file_name"]).rename(place / image["file_name"])
        image["file_name"] = stated.format(number % 2, image["file_name"])
    if stated == "patch{}/{}":  # a note that names its picture
        value["annotations"][5]["bbox"][2] = 0
    (root / "annotations/train.json").write_text(json.dumps(value))
    mine = open_dataset(root)
    assert isinstance(mine.records, coco_columns.Columns)
    assert len(mine.notes) == 1
    assert_equal(mine, to_data(parse(find_dataset(root), "train")))


FAULTS: dict[str, Any] = {
    "unknown image": lambda v: v["annotations"][0].update(image_id=5),
    "unknown category": lambda v: v["annotations"][0].update(category_id=9),
    "id as text": lambda v: v["annotations"][0].update(image_id="7"),
    "no box": lambda v: v["annotations"][0].pop("bbox"),
    "box of zeros": lambda v: v["annotations"][0].update(bbox=[0, 0, 0, 0]),
    "box of three": lambda v: v["annotations"][0].update(bbox=[1, 2, 3]),
    "box of truth values": lambda v: v["annotations"][0].update(bbox=[True, 1, 30, 30]),
    "id that is a truth value": lambda v: v["annotations"][0].update(id=True),
    "box inside out": lambda v: v["annotations"][0].update(bbox=[30, 30, -5, 5]),
    "turned box": lambda v: v["annotations"][0].update(segmentation=[], attributes={"rotation": 30}),
    "id twice": lambda v: v["annotations"][0].update(id=2),
    "picture twice": lambda v: v["images"][0].update(id=14),
    "name too long for a file": lambda v: v["images"][0].update(file_name=f"{'a' * 300}.jpg"),
    "id too large": lambda v: v["annotations"][0].update(id=2**70),
    "picture missing": lambda v: v["images"][0].update(file_name="gone.jpg"),
    "picture not listed": lambda v: v["images"].pop(),
    "no size": lambda v: v["images"][0].pop("height"),
    "class twice": lambda v: v["categories"][0].update(name="cat"),
    "class without a name": lambda v: v["categories"][0].pop("name"),
    "corners": lambda v: [a.update(bbox=[5, 5, 50, 60]) for a in v["annotations"]],
    "many outside": lambda v: [a.update(bbox=[100, 5, 50, 3]) for a in v["annotations"][:9]],
    "shares": lambda v: [a.update(bbox=[0.5, 0.5, 0.2, 0.2]) for a in v["annotations"]],
    "no annotations": lambda v: v.update(annotations=[]),
    "no classes": lambda v: v.update(categories=[]),
}


REASONS = {
    "id twice": "two annotations have one id",
    "picture twice": "several have the image id [14]",
    "picture missing": "1 of the 12 pictures of train.json are not in",
    "no size": "an entry lacks a key",
    "id too large": "a number is too large",
    "no annotations": "there are no annotations",
    "class twice": "two of one id or name",
    "turned box": "attributes or identities",
    "box inside out": "a width or height below 0",
    "no classes": "there are no categories",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_careful_reader_must_look_at_is_left_to_it(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    value = content()
    FAULTS[fault](value)
    dataset = find_dataset(write(tmp_path / "set", value))
    assert coco_columns.open_columns(dataset, ["train"]) is None
    assert REASONS.get(fault, "") in caplog.text


def test_what_the_careful_reader_has_no_memory_for_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = content()
    FAULTS["picture missing"](value)
    dataset = find_dataset(write(tmp_path / "set", value))
    size = dataset.splits["train"].stat().st_size
    monkeypatch.setattr(coco_columns, "available_memory", lambda: 8 * size)
    assert coco_columns.open_columns(dataset, ["train"]) is None
    monkeypatch.setattr(coco_columns, "available_memory", lambda: 8 * size - 1)
    with pytest.raises(DataError, match=r"1 of the 12 pictures .* the first is 'gone.jpg'.* with more memory"):
        coco_columns.open_columns(dataset, ["train"])


TEXTS = ["", "[]", '{"images": [', '{"images": [1]}', '{"images": {}} x', "\ufeff{}"]
TEXTS += ['{"images": [{},]}', '{"images": [{},, {}]}', '{"images": [{} {}]}', '{"images": [,{}]}', '{"images": [],}']
TEXTS += ['{,"images": []}', '{"a": 1 "images": []}', '{"images": [{}], "images": []}']  # of one name the last counts


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_is_no_such_json_is_left_to_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises((ValueError, coco_columns.NotPlainError)):
        for _ in coco_columns.entries_of(tmp_path / "a.json"):
            pass
