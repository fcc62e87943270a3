"""Detections in a file against a data set: which picture and class each row means, and how many count."""

import json
from pathlib import Path

import numpy as np
import pytest

from headway.data.dataset import DetectionData, Record
from headway.errors import DataError, HeadwayError
from headway.evaluate.api import detection_cap, evaluate_results
from headway.evaluate.results import read_results
from headway.types import ModelCard


def data(paths: list[str], boxes: int = 1) -> DetectionData:
    """Pictures of 1000 x 1000 with ids from 50 on, each with boxes of 8 x 8 every 10 px; classes "dot", "cell"."""
    left = np.arange(boxes, dtype=np.float32) * 10 % 1000
    top = np.arange(boxes, dtype=np.float32) // 100 * 10
    xyxy = np.stack([left, top, left + 8, top + 8], 1)
    labels, crowd, areas = np.ones(boxes, np.int64), np.zeros(boxes, bool), np.full(boxes, 64, np.float32)
    records = [Record(50 + i, Path(p), (1000, 1000), xyxy, labels, crowd, areas) for i, p in enumerate(paths)]
    return DetectionData("val", Path("photos"), "coco", records, ("dot", "cell"), (5, 9))


def write(folder: Path, content: object) -> Path:
    path = folder / "predictions.json"
    path.write_text(json.dumps(content))
    return path


def row(image: object, name: str | None = None, category: int = 1, box: tuple[float, ...] = (0, 0, 8, 8)) -> dict:
    found = {"image_id": image, "category_id": category, "bbox": list(box), "score": 0.5}
    return found if name is None else {**found, "file_name": name, "category_name": "cell"}


def test_names_decide_and_not_ids(tmp_path):
    """Ids that are those of other pictures of the data set are not believed."""
    photos = data(["d/day/a.jpg", "d/night/a.jpg", "d/b.jpg"])
    rows = [row(50, "x/night/a.jpg"), row(51, "day\\a.jpg"), row(52, "gone.jpg"), row(50, "b.jpg")]
    found = read_results(write(tmp_path, {"predictions": rows}), photos)
    assert [(r["image_id"], r["category_id"]) for r in found] == [(51, 9), (50, 9), (52, 9)]


def test_without_names_ids_decide_also_as_text(tmp_path):
    found = read_results(write(tmp_path, [row(50, category=9), row("51", category=5)]), data(["a.jpg", "b.jpg"]))
    assert [(r["image_id"], r["category_id"]) for r in found] == [(50, 9), (51, 5)]


def test_what_cannot_be_matched_is_refused(tmp_path):
    photos = data(["d/day/a.jpg", "d/night/a.jpg"])
    with pytest.raises(HeadwayError, match=r"2 pictures of 'val' may be a\.jpg: give file_name with the folders"):
        read_results(write(tmp_path, [row(1, "a.jpg")]), photos)
    with pytest.raises(HeadwayError, match=r"no picture of .*predictions.json is in 'val' of photos \(the first is 'z"):
        read_results(write(tmp_path, [row(1, "z.jpg")]), photos)
    for content in ("{", '{"a": 1}', "[1]"):
        (tmp_path / "no.json").write_text(content)
        with pytest.raises(DataError, match="expected a JSON list of COCO results"):
            read_results(tmp_path / "no.json", photos)


def test_of_several_names_the_one_that_shares_most_is_the_picture(tmp_path):
    """Failed before: what was found in train/a.jpg counted for val/a.jpg, the only a.jpg of the split."""
    rows = [row(1, "x/train/a.jpg"), row(1, "x/val/a.jpg", box=(1, 1, 8, 8)), row(2, "x/train/b.jpg")]
    found = read_results(write(tmp_path, rows), data(["x/val/a.jpg", "x/val/c.jpg"]))
    assert [(r["image_id"], r["bbox"]) for r in found] == [(50, [1, 1, 8, 8])]
    with pytest.raises(HeadwayError, match=r"y/a\.jpg and z/a\.jpg may both be one picture of 'val': leave one"):
        read_results(write(tmp_path, [row(1, "y/a.jpg"), row(1, "z/a.jpg")]), data(["x/a.jpg"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bbox": None}, {"bbox": 3}, {"bbox": "1234"}, {"bbox": {"x": 1}}, {"bbox": [1, 2, 3]},
        {"bbox": ["a", 1, 2, 3]},
        {"bbox": [10**400, 1, 1, 1]}, {"bbox": [1e308, 1, 1e308, 1]}, {"score": None}, {"score": "high"},
        {"score": float("nan")}, {"image_id": [50]}, {"category_id": {}},
    ],
    ids=lambda wrong: str(wrong)[:30],
)  # fmt: skip
def test_rows_that_are_no_detections_are_named(tmp_path, wrong):
    """Failed before: a TypeError, a ValueError or an OverflowError of Python's own."""
    with pytest.raises(HeadwayError, match=r"(result|row) 1.*(expected|no such image)"):
        evaluate_results(write(tmp_path, [row(50, category=9), row(50, category=9) | wrong]), data(["a.jpg"]))


def test_more_boxes_than_the_cap_are_told_and_can_be_counted(tmp_path):
    """240 objects found without a fault. With COCO's 100 the recall is 100/240 = 0.417, and of the 101 recall points 42
    have precision 1: AP 42/101. Failed before: nothing said so, and no option changed it."""
    photos = data(["a.jpg"], boxes=240)
    rows = [row(50, category=9, box=(x1, y1, 8, 8)) for x1, y1, _, _ in photos.records[0].boxes.tolist()]
    path = write(tmp_path, rows)
    whole = evaluate_results(path, photos)
    assert (whole.coco.max_detections, whole.crowded) == (240, 0)
    assert (whole.AP, whole.coco.best.recall) == (pytest.approx(1), 1)
    capped = evaluate_results(path, photos, max_detections=100)
    assert (capped.AP, capped.crowded) == (pytest.approx(42 / 101), 1)


def test_the_card_of_a_training_finds_what_its_pictures_hold():
    """Twice the 170 boxes of a picture; where pictures hold few, the model's own limit stays."""
    fields = {"category_ids": (5, 9), "white": None}
    assert data(["a.jpg"], boxes=170).card_fields() == {**fields, "max_detections": 340}
    assert data(["a.jpg"], boxes=3).card_fields(300) == {**fields, "max_detections": 300}


def test_the_best_threshold_is_among_the_headline_figures(tmp_path):
    """Three detections of one box: right with 0.9, wrong with 0.4 and 0.3. F1 is 1 from 0.9 on."""
    rows = [row(50, category=9) | {"score": 0.9}, *(row(50, category=5) | {"score": s} for s in (0.4, 0.3))]
    found = evaluate_results(write(tmp_path, rows), data(["a.jpg"]))
    assert (found.coco.summary()["threshold"], found.coco.best.f1) == (0.9, 1)
    assert found.to_dict()["best"]["recall"] == 1


def test_the_cap_is_cocos_unless_the_data_has_more_boxes():
    card = ModelCard(class_names=("dot", "cell"), max_detections=300)
    assert detection_cap(data(["a.jpg"], boxes=100), card) == 100
    assert detection_cap(data(["a.jpg"], boxes=101), card) == 300
    assert detection_cap(data(["a.jpg"], boxes=101), ModelCard(max_detections=20)) == 100
